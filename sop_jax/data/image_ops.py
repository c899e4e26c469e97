"""Pillow's image operations on the device, without a branch per image.

Every operation is one of: an affine warp, a 256-entry table per channel, or a blend with a
degenerate image. `apply` runs all three stages on each image, with those that its `Op` does not use
set to the identity, so that a batch may hold a different operation for every image. Results equal
Pillow's (tested on photographs): integer arithmetic where Pillow has it, and elsewhere care for the
two places where the last bit of its floating point decides a grey level (`_blend`,
`_autocontrast_shortfalls`).
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from sop_jax.data.one_hot import histogram, look_up, pick
from sop_jax.errors import UserError

GEOMETRIC = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
TABLES = ("AutoContrast", "Equalize", "Invert", "Posterize", "Solarize", "Contrast", "Brightness")
BLENDS = ("Color", "Sharpness")
NAMES = ("Identity", *GEOMETRIC, *TABLES, *BLENDS)
_KIND = {name: number for number, name in enumerate(NAMES)}

_FIXED = 16  # fractional bits of Pillow's fixed-point affine coordinates
_GCD = np.gcd(255, np.arange(256)).astype(np.int32)


class Op(NamedTuple):
    """One operation on one image, as numbers; a leading axis holds one for each of a batch."""

    kind: np.ndarray  # int32 [], index into NAMES
    value: np.ndarray  # float32 [], its argument in Pillow's terms: factor, threshold or bits
    warp: np.ndarray  # int32 [6], fixed-point affine map from output to source pixels


def encode(name: str, value: float, height: int, width: int) -> Op:
    """An operation on images of the given size as an `Op` of numpy values.

    Args:
        name: one of NAMES.
        value: Pillow's argument: shear (source x = x + value * y), translation in pixels (source x
            = x + value), rotation in degrees counter-clockwise, threshold of Solarize, bits of
            Posterize, factor of an enhancement.
    Raises:
        ValueError: unknown name.
    """
    if name not in _KIND:
        raise ValueError(f"unknown image operation {name!r}: known are {', '.join(NAMES)}")
    warp = _fixed_point(_affine(name, value, height, width))
    return Op(np.int32(_KIND[name]), np.float32(value), warp)


def apply_op(name: str, value: float, images: jax.Array) -> jax.Array:
    """One operation with one argument (see `encode`) on a batch: uint8 [B, H, W, C], C 1 or 3."""
    return jax.vmap(functools.partial(apply, encode(name, value, *images.shape[1:3])))(images)


def apply(op: Op, image: jax.Array) -> jax.Array:
    """An operation on one image; vmap it for a batch.

    Args:
        op: what to do.
        image: uint8 [H, W, C], C 1 (grey) or 3 (red, green, blue).
    Returns:
        uint8 [H, W, C].
    Raises:
        UserError: another number of channels.
    """
    chex.assert_rank(image, 3)
    chex.assert_type(image, jnp.uint8)
    if image.shape[-1] not in (1, 3):
        raise UserError(
            f"AutoAugment knows images of 1 or 3 channels, got {image.shape[-1]}: set "
            "augment.strong=weak"
        )
    picture = warp((op,), as_pixels(image), image.shape[1])
    return as_image(retouch(op, picture, image.shape[1]), image.shape)


def as_pixels(image: jax.Array) -> jax.Array:
    """[C, P] of an image [H, W, C]: P = H * W pixels, row by row."""
    return jnp.moveaxis(image, -1, 0).reshape(image.shape[-1], -1)


def as_image(pixels: jax.Array, shape: tuple[int, int, int]) -> jax.Array:
    """[H, W, C] of pixels [C, P]."""
    return jnp.moveaxis(pixels.reshape(shape[-1], *shape[:2]), 0, -1)


def retouch(op: Op, pixels: jax.Array, width: int) -> jax.Array:
    """The stages after the warp, tables and blends, of pixels uint8 [C, P]."""
    return _blend_stage(op, look_up(_table(op, pixels), pixels), width)


# Affine warps: nearest neighbour, black outside the source.


def _affine(name: str, value: float, height: int, width: int) -> tuple[float, ...]:
    """Coefficients (a, b, c, d, e, f) of Pillow's Image.transform.

    Source x = a x + b y + c, source y = d x + e y + f.
    """
    match name:
        case "ShearX":
            return 1, value, 0, 0, 1, 0
        case "ShearY":
            return 1, 0, 0, value, 1, 0
        case "TranslateX":
            return 1, 0, value, 0, 1, 0
        case "TranslateY":
            return 1, 0, 0, 0, 1, value
        case "Rotate":  # about the centre of the image
            cos, sin = math.cos(math.radians(value)), math.sin(math.radians(value))
            x, y = width / 2, height / 2
            return cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y
    return 1, 0, 0, 0, 1, 0


def _fixed_point(affine: tuple[float, ...]) -> np.ndarray:
    """Pillow's coefficients int32 [6], offsets moved by half a pixel: it samples at centres."""
    a, b, c, d, e, f = affine
    exact = np.array([a, b, c + (a + b) / 2, d, e, f + (d + e) / 2])
    return np.floor(exact * 2**_FIXED + 0.5).astype(np.int32)


def warp(ops: Sequence[Op], pixels: jax.Array, width: int) -> jax.Array:
    """The warps of operations, one after the other, of pixels uint8 [C, P] of an image.

    Nearest neighbours: where a pixel comes from after all of them is looked up once.
    """
    place = jnp.arange(pixels.shape[1], dtype=jnp.int32)
    height = pixels.shape[1] // width
    row, column = place // width, place % width
    inside = jnp.ones(place.shape, bool)
    for op in reversed(ops):
        a, b, c, d, e, f = op.warp
        column, row = (c + a * column + b * row) >> _FIXED, (f + d * column + e * row) >> _FIXED
        inside &= (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return pick(pixels, jnp.where(inside, row, -1), column, width)


# Tables: new grey level of each old one, by channel.


def _table(op: Op, pixels: jax.Array) -> jax.Array:
    """The operation's table, uint8 [C, 256]: the identity where it is none of TABLES."""
    channels = pixels.shape[0]
    levels = jnp.broadcast_to(jnp.arange(256, dtype=jnp.int32), (channels, 256))
    counts = histogram(pixels)
    lowest = jnp.min(jnp.where(counts > 0, levels, 255), axis=1)
    highest = jnp.max(jnp.where(counts > 0, levels, 0), axis=1)
    mask = 256 - (1 << (8 - op.value.astype(jnp.int32)))
    tables = {
        "AutoContrast": _autocontrast(levels, lowest, highest),
        "Equalize": _equalize(levels, counts, highest),
        "Invert": 255 - levels,
        "Posterize": levels & mask,
        "Solarize": jnp.where(levels.astype(jnp.float32) < op.value, levels, 255 - levels),
        "Contrast": _blend(_mean_grey(pixels), levels, op.value),
        "Brightness": _blend(0, levels, op.value),
    }
    chosen = jnp.select([op.kind == _KIND[name] for name in tables], list(tables.values()), levels)
    return chosen.astype(jnp.uint8)


def _autocontrast(levels: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
    """Stretches each channel's range to 0 .. 255; a channel of one level stays."""
    shortfalls = jnp.asarray(_autocontrast_shortfalls())[low, high][:, None]
    span = (high - low)[:, None]
    above = jnp.clip(levels - low[:, None], 0, span)
    stretched = 255 * above // jnp.maximum(span, 1)
    is_whole = 255 * above == stretched * span
    step = stretched * jnp.asarray(_GCD)[span] // 255
    falls_short = is_whole & ((shortfalls >> step) & 1 == 1)
    return jnp.where(span == 0, levels, stretched - falls_short.astype(levels.dtype))


@functools.cache
def _autocontrast_shortfalls() -> np.ndarray:
    """Where Pillow's float64 is one level below the exact quotient 255 * (level - low) / span.

    That can happen only where the quotient is a whole number, which it is at gcd(255, span) + 1
    levels, evenly spaced.

    Returns:
        int32 [256 low, 256 high]; bit m stands for the m-th of these levels. None falls short
        beyond m = 17.
    """
    low, high = np.meshgrid(np.arange(256), np.arange(256), indexing="ij")
    span = np.maximum(high - low, 1)
    scale, gcd = 255.0 / span, _GCD[span]
    bits = np.zeros((256, 256), np.int32)
    for m in range(18):
        pillow = (low + span * m // gcd) * scale + -low * scale
        bits |= ((m <= gcd) & (pillow < 255 * m // gcd)).astype(np.int32) << m
    return bits


def _equalize(levels: jax.Array, counts: jax.Array, highest: jax.Array) -> jax.Array:
    """Makes each channel's histogram flat; one with few pixels below its highest level stays."""
    below = jnp.cumsum(counts, axis=1, dtype=jnp.int32) - counts
    step = jnp.take_along_axis(below, highest[:, None], axis=1) // 255
    flat = jnp.minimum((step // 2 + below) // jnp.maximum(step, 1), 255)
    return jnp.where(step == 0, levels, flat)


# Blends: factor 0 gives the degenerate image, 1 the image itself.


def _blend(degenerate: jax.Array | int, image: jax.Array, factor: jax.Array) -> jax.Array:
    """Grey levels int32: degenerate + factor * (image - degenerate), rounded down."""
    # Pillow rounds the product before it adds. The clip, which never acts, keeps the compiler from
    # joining both into one fused multiply-add: at factor 1.18 that would move 1 % of the pixels by
    # one level.
    difference = (image - degenerate).astype(jnp.float32)
    product = jnp.clip(factor * difference, -1e6, 1e6)
    degenerate = jnp.asarray(degenerate, jnp.float32)
    return jnp.clip(degenerate + product, 0, 255).astype(jnp.int32)


def _blend_stage(op: Op, pixels: jax.Array, width: int) -> jax.Array:
    is_color, is_sharpness = op.kind == _KIND["Color"], op.kind == _KIND["Sharpness"]
    pixels = pixels.astype(jnp.int32)
    degenerate = jnp.where(is_color, _grey(pixels)[None], _smooth(pixels, width))
    factor = jnp.where(is_color | is_sharpness, op.value, 1.0)
    return _blend(degenerate, pixels, factor).astype(jnp.uint8)


def _grey(pixels: jax.Array) -> jax.Array:
    """Luma int32 [P] of int32 [C, P], Pillow's 16-bit weights (ITU-R 601-2)."""
    if pixels.shape[0] == 1:
        return pixels[0]
    red, green, blue = pixels
    return (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16


def _mean_grey(pixels: jax.Array) -> jax.Array:
    """The mean luma of uint8 [C, P], rounded: int32 []."""
    grey = _grey(pixels.astype(jnp.int32))
    return (2 * jnp.sum(grey, dtype=jnp.int32) + grey.size) // (2 * grey.size)


def _smooth(pixels: jax.Array, width: int) -> jax.Array:
    """Weights 1 and, at the centre, 5 over the 3x3 neighbourhood; the outermost pixels stay.

    Of int32 [C, P].
    """
    place = np.arange(pixels.shape[1])
    row, column = place // width, place % width
    inner = (row > 0) & (row < row[-1]) & (column > 0) & (column < width - 1)
    lines = _moved(pixels, width) + pixels + _moved(pixels, -width)
    total = _moved(lines, 1) + lines + _moved(lines, -1) + 4 * pixels
    # total / 13 to the nearest: (2 * total + 13) // 26, which up to 2 * 13 * 255 + 13 is this
    return jnp.where(inner[None], ((2 * total + 13) * 10083) >> 18, pixels)


def _moved(pixels: jax.Array, places: int) -> jax.Array:
    """int32 [C, P] with every pixel so many places later, zeros where nothing comes."""
    return jax.lax.pad(pixels, jnp.int32(0), ((0, 0, 0), (places, -places, 0)))
