"""Look-ups, histograms, warps and crops of one image without reading single elements, for TPUs.

A TPU reads and writes single elements one after the other, about ten cycles each; there, products
with one-hot matrices and selects stand in for them. The products are exact: bfloat16 holds the
integers 0 to 256, and sums are float32. Elsewhere the plain forms are faster; `on_tpu` chooses when
the program is compiled. Both forms of each are equal in every bit.

Images are uint8 [C, P] here, P = H * W pixels row by row: they fill a TPU's 128 lanes, and sums
then run over sublanes, not across lanes.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def on_tpu(tpu: Callable, otherwise: Callable, *arrays: jax.Array) -> jax.Array:
    """tpu(*arrays) in a program for a TPU, otherwise(*arrays) in any other."""
    return jax.lax.platform_dependent(*arrays, tpu=tpu, default=otherwise)


def _matches(values: jax.Array, size: int) -> jax.Array:
    """Bool [..., size, P] of integers [..., P]: which of 0 .. size - 1 each is, if any."""
    shape = (*values.shape[:-1], size, values.shape[-1])
    return values[..., None, :] == jax.lax.broadcasted_iota(values.dtype, shape, len(shape) - 2)


def _product(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """float32, of integers 0 .. 256 or booleans."""
    a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
    return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)


def look_up(table: jax.Array, image: jax.Array) -> jax.Array:
    """New grey levels uint8 [C, P]: table uint8 [C, 256] at the levels of an image."""

    def gathered(table, image):
        return jax.vmap(lambda own, levels: own[levels])(table, image)

    def products(table, image):
        rows = _product("chl,chp->clp", table.reshape(-1, 32, 8), _matches(image >> 3, 32))
        found = jnp.sum(jnp.where(_matches(image & 7, 8), rows, 0), axis=1)
        return found.astype(jnp.uint8)

    return on_tpu(products, gathered, table, image)


def histogram(image: jax.Array) -> jax.Array:
    """int32 [C, 256]: how many pixels of each channel have each level."""

    def scattered(image):
        channels = image.shape[0]
        channel = jnp.arange(channels)[:, None]
        return jnp.zeros((channels, 256), jnp.int32).at[channel, image].add(1)

    def products(image):
        counts = _product("chp,clp->chl", _matches(image >> 3, 32), _matches(image & 7, 8))
        return counts.reshape(-1, 256).astype(jnp.int32)

    return on_tpu(products, scattered, image)


def pick(image: jax.Array, row: jax.Array, column: jax.Array, width: int) -> jax.Array:
    """Pixels uint8 [C, P] of an image of this width at row, column int32 [P]; 0 where outside."""
    channels, pixels = image.shape
    height = pixels // width

    def gathered(image, row, column):
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        # one past the end reads the fill value
        source = jnp.where(inside, row * width + column, pixels)
        return image.at[:, source].get(mode="fill", fill_value=0)

    # A product is over 128 numbers: rows, and as many parts of a row as go with them.
    parts = next(n for n in range(width, 0, -1) if width % n == 0 and (height * n <= 128 or n == 1))
    within = width // parts

    def products(image, row, column):
        blocks = image.reshape(channels, height * parts, within)
        inside = (column >= 0) & (column < width)
        part, rest = jnp.divmod(column.astype(jnp.uint32), jnp.uint32(within))
        block = jnp.where(inside, row * parts + part.astype(jnp.int32), -1)
        lines = _product("cbx,bp->cxp", blocks, _matches(block, height * parts))
        chosen = _matches(rest, within)
        return jnp.sum(jnp.where(chosen[None], lines, 0), axis=1).astype(jnp.uint8)

    return on_tpu(products, gathered, image, row, column)


def cut(padded: jax.Array, top: jax.Array, left: jax.Array, height: int, width: int) -> jax.Array:
    """The part [height, width, C] of an image [H, W, C] at (top, left), int32 scalars inside it."""

    def sliced(padded, top, left):
        start = (top, left, jnp.int32(0))
        return jax.lax.dynamic_slice(padded, start, (height, width, padded.shape[-1]))

    def selected(padded, top, left):
        rows = range(padded.shape[0] - height + 1)
        columns = range(padded.shape[1] - width + 1)
        lines = sum(jnp.where(top == k, padded[k : k + height], 0) for k in rows)
        return sum(jnp.where(left == k, lines[:, k : k + width], 0) for k in columns)

    return on_tpu(selected, sliced, padded, top, left)
