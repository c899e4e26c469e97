"""Per-example state: any pytree whose leaves have one row per training example, sharded over the mesh by rows.

This is the only module that knows how rows are stored. The table is padded to a multiple of 256 rows, whatever the
number of devices, so that a checkpoint written on 8 devices restores on 1.

A padded batch entry carries the index `num_rows(table)`: it reads zeros and writes nothing. (An index of -1 would wrap
to the last row, even with mode="drop".)
"""

from typing import Any

import jax
import jax.numpy as jnp

PAD_MULTIPLE = 256
Rows = Any  # pytree of arrays [N, ...] or, for the rows of a batch, [B, ...]


def padded(num_rows: int) -> int:
    """Number of rows stored for `num_rows` examples: the next multiple of 256."""
    return -(-num_rows // PAD_MULTIPLE) * PAD_MULTIPLE


def create(rows: Rows) -> Rows:
    """Pads every leaf [N, ...] with zero rows to [padded(N), ...]."""

    def pad(leaf):
        extra = padded(leaf.shape[0]) - leaf.shape[0]
        return jnp.pad(leaf, [(0, extra)] + [(0, 0)] * (leaf.ndim - 1))

    return jax.tree.map(pad, rows)


def gather(table: Rows, index: jax.Array) -> Rows:
    """Rows of a batch: leaves [N_padded, ...] and index int32 [B] -> leaves [B, ...]; padded entries read zeros."""
    return jax.tree.map(lambda leaf: leaf.at[index].get(mode="fill", fill_value=0), table)


def scatter(table: Rows, index: jax.Array, rows: Rows) -> Rows:
    """Writes leaves [B, ...] back at index int32 [B], whose real entries are unique; padded entries are dropped."""
    return jax.tree.map(
        lambda leaf, row: leaf.at[index].set(row.astype(leaf.dtype), mode="drop"), table, rows
    )
