"""Augmentation on the device: weak views (crop, flip) and the strong views of SOP+.

A strong view is AutoAugment, crop, flip and cutout. Every draw comes from the example's own key,
fold_in(fold_in(key, epoch), index), so a view depends on the seed, the epoch and the example and on
nothing else: not on its place in the batch, the batch's size or the number of devices. All work is
per example along the batch axis, so it needs no communication where the batch is sharded.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp

from sop_jax.data.autoaugment import autoaugment
from sop_jax.data.one_hot import cut

# Folded into the run's key in an epoch's place, for what is drawn once for an example.
_EVERY_EPOCH = 2**32 - 1


@dataclass(frozen=True)
class Augment:
    """What is done to a training image: the fields of config.augment, and the set's statistics."""

    crop_padding: int  # zero padding in pixels before the random crop, 0 for no crop
    flip: bool  # horizontal flip with probability 1/2
    strong: str  # first step of strong views: 'autoaugment', or 'weak' for none
    cutout: int  # side in pixels of the square zeroed in strong views, 0 for none
    mean: tuple[float, ...]  # C numbers, of pixels / 255
    std: tuple[float, ...]  # likewise
    alternating_flip: bool = False  # weak views: flip as `alternating_mirror` says, not at random


def normalise(
    images: jax.Array, mean: Sequence[float] | jax.Array, std: Sequence[float] | jax.Array
) -> jax.Array:
    """Pixels to network input, (x / 255 - mean) / std.

    Args:
        images: uint8 [B, H, W, C].
        mean, std: C numbers each, of pixels / 255.
    Returns:
        float32 [B, H, W, C].
    """
    mean, std = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)
    chex.assert_shape([mean, std], (images.shape[-1],))
    along_channels = (1,) * (images.ndim - 1) + (-1,)
    mean, std = mean.reshape(along_channels), std.reshape(along_channels)
    return (images.astype(jnp.float32) / 255 - mean) / std


def example_keys(key: jax.Array, epoch: jax.Array | int, index: jax.Array) -> jax.Array:
    """Keys [B], one an example: fold_in(fold_in(key, epoch), index).

    Args:
        key: the run's, typed.
        epoch: from 0.
        index: [B], positions of the examples in the training set.
    """
    epoch_key = jax.random.fold_in(key, epoch)
    return jax.vmap(lambda position: jax.random.fold_in(epoch_key, position))(index)


def alternating_mirror(key: jax.Array, epoch: jax.Array | int, index: jax.Array) -> jax.Array:
    """Bool [B], whether each example is mirrored: by a bit of its own, turned over in odd epochs.

    So two epochs show both sides of every image, which flips drawn anew do for half of them (Jordan
    2024, section 3.6). Arguments as for `example_keys`.
    """
    bits = jax.vmap(jax.random.bernoulli)(example_keys(key, _EVERY_EPOCH, index))
    return bits ^ (epoch % 2 == 1)


def views(
    augment: Augment,
    keys: jax.Array,
    images: jax.Array,
    names: tuple[str, ...],
    mirror: jax.Array | None = None,
) -> jax.Array:
    """The training views of a batch (SOP, ICML 2022, section 4 and appendix; its published code).

    Args:
        augment: what to do.
        keys: [B] typed, from `example_keys`. A view's place among `names` is folded into them, so
          no view's draws depend on the other views, and two views of one name differ.
        images: uint8 [B, H, W, C].
        names: 'weak' or 'strong' of each of the V views.
        mirror: bool [B], which images are mirrored in every weak view; None: drawn at random. The
          strong view's flip is always drawn.
    Returns:
        float32 [B, V, H, W, C].
    Raises:
        ValueError: an unknown name of a view, or none.
    """
    chex.assert_rank(images, 4)
    chex.assert_shape(keys, (images.shape[0],))
    if not names or set(names) - {"weak", "strong"}:
        raise ValueError(f"views are {names!r}: each of one or more must be 'weak' or 'strong'")
    pixels, black = [], []
    for place, name in enumerate(names):
        view_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, place)
        if name == "weak":
            pixels.append(_crop_flip(augment, view_keys, images, mirror))
            black.append(jnp.zeros(images.shape[:3], bool))
        else:
            view, square = _strong(augment, view_keys, images)
            pixels.append(view)
            black.append(square)
    # stacked as bytes: a TPU moves a quarter of what it would as floats
    made = normalise(jnp.stack(pixels, axis=1), augment.mean, augment.std)
    if augment.cutout and "strong" in names:
        made = jnp.where(jnp.stack(black, axis=1)[..., None], 0.0, made)
    return made


def _strong(augment: Augment, keys: jax.Array, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Pixels uint8 [B, H, W, C], and where cutout sets the input to 0, bool [B, H, W].

    AutoAugment comes first, on the original pixels. The zeros of cutout are the data's mean.
    """
    crop_keys, policy_keys, cutout_keys = jnp.moveaxis(
        jax.vmap(lambda key: jax.random.split(key, 3))(keys), 1, 0
    )
    if augment.strong == "autoaugment":
        images = autoaugment(policy_keys, images)
    images = _crop_flip(augment, crop_keys, images, None)
    return images, _cutout(cutout_keys, images.shape[1:3], augment.cutout)


def _crop_flip(
    augment: Augment, keys: jax.Array, images: jax.Array, mirror: jax.Array | None
) -> jax.Array:
    """Pads with black, crops at a random offset to the old size and flips.

    The padding comes before normalising, as in torchvision.
    """
    padding = augment.crop_padding

    def one(key, image, mirrored):
        draws = jax.random.uniform(key, (3,), jnp.float32)
        mirrored = draws[2] < 0.5 if mirrored is None else mirrored
        top, left = (draws[:2] * (2 * padding + 1)).astype(jnp.int32)
        padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
        image = cut(padded, top, left, *image.shape[:2])
        return jnp.where(mirrored, image[:, ::-1], image) if augment.flip else image

    return jax.vmap(one)(keys, images, mirror)


def _cutout(keys: jax.Array, size: tuple[int, int], side: int) -> jax.Array:
    """Bool [B, H, W]: a square about a random pixel (y, x), cut off at the border.

    It has the rows y - side//2 to y + side//2 - 1, and columns likewise.
    """
    height, width = size
    sizes, half = jnp.array([height, width], jnp.float32), side // 2

    def one(key):
        y, x = (jax.random.uniform(key, (2,), jnp.float32) * sizes).astype(jnp.int32)
        row = jnp.arange(height, dtype=jnp.int32)[:, None]
        column = jnp.arange(width, dtype=jnp.int32)[None, :]
        inside_y = (row >= y - half) & (row < y + half)
        inside_x = (column >= x - half) & (column < x + half)
        return inside_y & inside_x

    return jax.vmap(one)(keys)
