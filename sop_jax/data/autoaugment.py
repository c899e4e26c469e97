"""AutoAugment's CIFAR-10 policy (Cubuk et al., CVPR 2019, appendix), as the published SOP+ has it.

Facts taken from that code, `autoaug_paper_cifar10` of its data loader (used for CIFAR-100 as well):
levels are mapped as in `level_value`, shears act about the origin, translations are in absolute
pixels, warps are nearest-neighbour with black fill, geometric operations change sign with
probability 1/2, and an operation is skipped where random() > probability. Its 14th sub-policy has
Color at level 6 where the AutoAugment paper prints 8; we follow the code.
"""

import functools
from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np

from sop_jax.data.image_ops import GEOMETRIC, Op, as_image, as_pixels, encode, retouch, warp

# 25 sub-policies of two operations each: (name, probability, level 0..9).
POLICY = (
    (("Invert", 0.1, 7), ("Contrast", 0.2, 6)),
    (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
    (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
    (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.5, 8), ("Equalize", 0.9, 2)),
    (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
    (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
    (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
    (("Equalize", 0.6, 5), ("Equalize", 0.5, 1)),
    (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
    (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
    (("Equalize", 0.3, 7), ("AutoContrast", 0.4, 8)),
    (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
    (("Brightness", 0.9, 6), ("Color", 0.2, 6)),
    (("Solarize", 0.5, 2), ("Invert", 0.0, 3)),
    (("Equalize", 0.2, 0), ("AutoContrast", 0.6, 0)),
    (("Equalize", 0.2, 8), ("Equalize", 0.6, 4)),
    (("Color", 0.9, 9), ("Equalize", 0.6, 6)),
    (("AutoContrast", 0.8, 4), ("Solarize", 0.2, 8)),
    (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
    (("Solarize", 0.4, 5), ("AutoContrast", 0.9, 3)),
    (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.9, 2), ("Solarize", 0.8, 3)),
    (("Equalize", 0.8, 8), ("Invert", 0.1, 3)),
    (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, 1)),
)
_PROBABILITIES = np.array(  # [25, 2]
    [(first[1], second[1]) for first, second in POLICY], np.float32
)
SKIPPED, PLAIN, MIRRORED = range(3)  # what a draw may make of an operation


def level_value(name: str, level: int) -> float:
    """The operation's argument (see `image_ops.encode`) at a level 0..9, its sign not yet drawn."""
    match name:
        case "ShearX" | "ShearY":
            return level * 0.3 / 10
        case "TranslateX" | "TranslateY":
            return level  # pixels
        case "Rotate":
            return int(level * 30 / 10)  # degrees
        case "Solarize":
            return 256 - int(level * 256 / 10)
        case "Posterize":
            return 4 - int(level * 4 / 10)
        case "Contrast" | "Color" | "Brightness" | "Sharpness":
            return level * 1.8 / 10 + 0.1
    return 0.0  # AutoContrast, Equalize and Invert have no argument


def autoaugment(keys: jax.Array, images: jax.Array) -> jax.Array:
    """Applies one random sub-policy to each image.

    Args:
        keys: [B] typed, one an example.
        images: uint8 [B, H, W, C], C 1 or 3.
    Returns:
        uint8 [B, H, W, C].
    Raises:
        UserError: another number of channels.
    """
    chex.assert_rank(images, 4)
    table = _encoded_policy(*images.shape[1:3])
    sub_policies, variants = draw(keys)

    def one(sub_policy: jax.Array, variant: jax.Array, image: jax.Array) -> jax.Array:
        ops = []
        for slot in range(2):
            leaves = [jnp.asarray(leaf)[sub_policy, slot, variant[slot]] for leaf in table]
            ops.append(Op(*leaves))
        return apply_both(ops, image)

    return jax.vmap(one)(sub_policies, variants, images)


def apply_both(ops: Sequence[Op], image: jax.Array) -> jax.Array:
    """The operations of a sub-policy, one after the other, on one image uint8 [H, W, C].

    Both warps come first, as one: in the policy a warp follows another kind of operation after
    Color alone, which changes pixels one by one and leaves black black.
    """
    pixels = warp(ops, as_pixels(image), image.shape[1])
    for op in ops:
        pixels = retouch(op, pixels, image.shape[1])
    return as_image(pixels, image.shape)


def draw(keys: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What each key [B] chooses.

    Returns:
        The sub-policy's place in POLICY, int32 [B], and SKIPPED, PLAIN or MIRRORED for each of its
        operations, int32 [B, 2].
    """
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (5,), jnp.float32))(keys)
    sub_policies = (uniform[:, 0] * len(POLICY)).astype(jnp.int32)
    applied = uniform[:, 1:3] <= jnp.asarray(_PROBABILITIES)[sub_policies]
    mirrored = uniform[:, 3:5] > 0.5
    return sub_policies, jnp.where(applied, jnp.where(mirrored, MIRRORED, PLAIN), SKIPPED)


@functools.cache
def _encoded_policy(height: int, width: int) -> Op:
    """All that can be drawn for images of this size: an `Op` whose leaves lead with [25, 2, 3].

    The axes are sub-policy, slot and variant.
    """
    variants = []
    for sub_policy in POLICY:
        for name, _, level in sub_policy:
            value = level_value(name, level)
            mirrored = -value if name in GEOMETRIC else value
            variants.append(encode("Identity", 0.0, height, width))
            variants.append(encode(name, value, height, width))
            variants.append(encode(name, mirrored, height, width))
    stacked = Op(*(np.stack(leaf) for leaf in zip(*variants, strict=True)))
    return Op(*(leaf.reshape(len(POLICY), 2, 3, *leaf.shape[1:]) for leaf in stacked))
