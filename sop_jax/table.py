"""Per-example state: a pytree whose leaves have one row per training example, sharded by rows.

This is the only module that knows how rows are stored. The table is padded to a multiple of 256
rows, whatever the number of devices, so that a checkpoint written on 8 devices restores on 1.

bfloat16 leaves are stored as their bits, uint16: XLA:CPU would scatter bfloat16 by way of a float32
copy of the whole table. `gather` and `values` give such rows back as float32: it is a way to store
rows, not to compute with them. So uint16 is no dtype of rows.

A padded batch entry carries the index `padded(N)`: it reads zeros and writes nothing. (An
index of -1 would wrap to the last row, even with mode="drop".)
"""

from typing import Any

import jax
import jax.numpy as jnp

from sop_jax.errors import UserError

PAD_MULTIPLE = 256
Rows = Any  # pytree of arrays [N, ...] or, for the rows of a batch, [B, ...]


def padded(num_rows: int) -> int:
    """Number of rows stored for `num_rows` examples: the next multiple of 256."""
    return -(-num_rows // PAD_MULTIPLE) * PAD_MULTIPLE


def _stored(leaf: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(leaf, jnp.uint16) if leaf.dtype == jnp.bfloat16 else leaf


def _value(leaf: jax.Array) -> jax.Array:
    if leaf.dtype != jnp.uint16:
        return leaf
    return jax.lax.bitcast_convert_type(leaf, jnp.bfloat16).astype(jnp.float32)


def create(rows: Rows) -> Rows:
    """Pads every leaf [N, ...] with zero rows to [padded(N), ...], as it is stored.

    Raises UserError for a leaf of uint16, which would be read back as bfloat16.
    """

    def pad(path, leaf):
        if leaf.dtype == jnp.uint16:
            raise UserError(
                f"rows{jax.tree_util.keystr(path)} is of dtype uint16, which stands for the bits "
                "of bfloat16 rows; make it uint32 or int32"
            )
        extra = padded(leaf.shape[0]) - leaf.shape[0]
        return _stored(jnp.pad(leaf, [(0, extra)] + [(0, 0)] * (leaf.ndim - 1)))

    return jax.tree.map_with_path(pad, rows)


def values(table: Rows) -> Rows:
    """The stored leaves [M, ...], or some of their rows, as numbers."""
    return jax.tree.map(_value, table)


def gather(table: Rows, index: jax.Array) -> Rows:
    """Rows of a batch: leaves [N_padded, ...] and index int32 [B] -> leaves [B, ...].

    Padded entries read zeros.
    """
    return values(jax.tree.map(lambda leaf: leaf.at[index].get(mode="fill", fill_value=0), table))


def scatter(table: Rows, index: jax.Array, rows: Rows) -> Rows:
    """Writes leaves [B, ...] back at index int32 [B], whose real entries are unique.

    Padded entries are dropped.
    """

    def put(leaf, row):
        return leaf.at[index].set(as_stored(leaf, row), mode="drop")

    return jax.tree.map(put, table, rows)


def as_stored(leaf: jax.Array, row: jax.Array) -> jax.Array:
    """Values [B, ...] for a stored leaf, in its dtype."""
    return _stored(row.astype(jnp.bfloat16 if leaf.dtype == jnp.uint16 else leaf.dtype))
