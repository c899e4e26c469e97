"""Rows of a batch to the devices that compute with them and back, of a table over many devices.

Each device holds a part of the table, and a part of the batch whose rows lie anywhere. With
`table.gather` alone, the compiler lets every device look up the whole batch, leaf by leaf; on 256
chips that takes a fifth of a step. Here the leaves travel packed as bits, and a device that holds
no more rows than the batch has compares each of them with all of the batch, which a TPU does faster
than it looks up single rows (6 million comparisons in the time of 6,000 look-ups). Only the indices
and the batch's rows move between devices.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from sop_jax import table
from sop_jax.mesh import AXIS
from sop_jax.table import Rows


class Exchange(NamedTuple):
    """`table.gather` and `table.scatter`, equal to them in every bit, on the devices of a mesh.

    A step's index is int32 [B], its real entries unique, B a multiple of the devices.
    """

    mesh: Mesh | None = None  # None, or of one device: the plain functions

    def _is_plain(self, stored: Rows) -> bool:
        return self.mesh is None or self.mesh.devices.size == 1 or not jax.tree.leaves(stored)

    def gather(self, stored: Rows, index: jax.Array) -> Rows:
        """See `table.gather`."""
        if self._is_plain(stored):
            return table.gather(stored, index)
        return table.values(self._on_devices(_gather)(stored, index))

    def scatter(self, stored: Rows, index: jax.Array, rows: Rows) -> Rows:
        """See `table.scatter`."""
        if self._is_plain(stored):
            return table.scatter(stored, index, rows)
        written = jax.tree.map(table.as_stored, stored, rows)
        return self._on_devices(_scatter)(stored, index, written)

    def _on_devices(self, function):
        split = PartitionSpec(AXIS)
        # unchecked: a sum that is scattered counts as different on each device, which it is
        return functools.partial(jax.shard_map, mesh=self.mesh, out_specs=split, check_vma=False)(
            function, in_specs=split
        )


def _gather(own: Rows, index: jax.Array) -> Rows:
    """Rows [B / devices, ...] of this device's part of the batch, as stored."""
    everyones = jax.lax.all_gather(index, AXIS, tiled=True)
    count, batch = jax.tree.leaves(own)[0].shape[0], everyones.shape[0]
    if count <= batch:
        bits = _packed(own)
        found = jnp.zeros((batch, bits.shape[1]), jnp.uint32)
        found = found.at[_places(everyones, count)].set(bits, mode="drop")
    else:
        row = _own_row(everyones, count)
        found = _packed(jax.tree.map(lambda leaf: leaf.at[row].get(mode="fill", fill_value=0), own))
    # one device has each row, the others zeros
    found = jax.lax.psum_scatter(found, AXIS, scatter_dimension=0, tiled=True)
    return _unpacked(found, own)


def _scatter(own: Rows, index: jax.Array, rows: Rows) -> Rows:
    """This device's part of the table with the batch's rows written into it."""
    count = jax.tree.leaves(own)[0].shape[0]
    everyones = jax.lax.all_gather(index, AXIS, tiled=True)
    bits = jax.lax.all_gather(_packed(rows), AXIS, tiled=True)
    if count <= everyones.shape[0]:
        place = _places(everyones, count)
        new = bits.at[place].get(mode="fill", fill_value=0)
        written = (place < everyones.shape[0])[:, None]
        return _unpacked(jnp.where(written, new, _packed(own)), own)
    row = _own_row(everyones, count)
    parts = _unpacked(bits, own)
    return jax.tree.map(lambda leaf, part: leaf.at[row].set(part, mode="drop"), own, parts)


def _own_row(everyones: jax.Array, count: int) -> jax.Array:
    """int32 [B]: which of this device's rows each entry is, or `count` where it has none."""
    row = everyones - jax.lax.axis_index(AXIS).astype(jnp.int32) * count
    return jnp.where((row >= 0) & (row < count), row, count)


def _places(everyones: jax.Array, count: int) -> jax.Array:
    """int32 [count]: where in the batch each of this device's rows is, B where nowhere."""
    batch = everyones.shape[0]
    is_entry = _own_row(everyones, count)[:, None] == jnp.arange(count, dtype=jnp.int32)[None, :]
    place = jnp.where(is_entry, jnp.arange(batch, dtype=jnp.int32)[:, None], batch)
    return jnp.min(place, axis=0)


def _packed(rows: Rows) -> jax.Array:
    """uint32 [M, words]: the bits of all leaves [M, ...], side by side."""
    return jnp.concatenate([_words(leaf) for leaf in jax.tree.leaves(rows)], axis=1)


def _words(leaf: jax.Array) -> jax.Array:
    if leaf.dtype == jnp.bool_:
        words = leaf.astype(jnp.uint32)
    elif leaf.dtype.itemsize < 4:  # a word for each value
        unsigned = jnp.dtype(f"uint{8 * leaf.dtype.itemsize}")
        words = jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)
    else:
        words = jax.lax.bitcast_convert_type(leaf, jnp.uint32)  # [..., 2] of eight bytes
    return words.reshape(leaf.shape[0], -1)


def _unpacked(words: jax.Array, like: Rows) -> Rows:
    """Leaves [M, ...] of such bits; `like` has their dtypes and, behind the first, dimensions."""
    leaves, tree = jax.tree.flatten(like)
    made, start = [], 0
    for leaf in leaves:
        size, shape = leaf.dtype.itemsize, (words.shape[0], *leaf.shape[1:])
        width = math.prod(leaf.shape[1:]) * max(1, size // 4)
        own = words[:, start : start + width]
        start += width
        if leaf.dtype == jnp.bool_:
            made.append(own.reshape(shape) != 0)
        elif size < 4:
            narrow = own.reshape(shape).astype(jnp.dtype(f"uint{8 * size}"))
            made.append(jax.lax.bitcast_convert_type(narrow, leaf.dtype))
        else:
            whole = own.reshape(shape if size == 4 else (*shape, size // 4))
            made.append(jax.lax.bitcast_convert_type(whole, leaf.dtype))
    return jax.tree.unflatten(tree, made)
