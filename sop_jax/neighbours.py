"""The votes of the nearest neighbours in feature space, in which a row's own label has no say."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

NEIGHBOURS = 30
_CHUNK = 1024  # queries at a time: their distances to all rows are held at once


def votes(features: np.ndarray, label: np.ndarray, num_classes: int) -> np.ndarray:
    """Share of each class among the labels of the nearest other rows, by cosine; exact.

    Args:
      features: float [n, d]. label: int [n], the given labels.

    Returns:
      float64 [n, K]; from NEIGHBOURS rows, or all others where there are fewer.
    """
    rows = len(label)
    count = min(NEIGHBOURS, rows - 1)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    unit = jnp.asarray(features / np.maximum(lengths, 1e-12), jnp.float32)
    found = []
    for start in range(0, rows, _CHUNK):
        own = np.minimum(np.arange(start, start + _CHUNK), rows - 1)
        found.append(np.asarray(_nearest(unit, own, count)))
    nearest = np.concatenate(found)[:rows]
    votes_at = np.arange(rows)[:, None] * num_classes + label[nearest]
    counts = np.bincount(votes_at.ravel(), minlength=rows * num_classes)
    return counts.reshape(rows, num_classes) / count


@functools.partial(jax.jit, static_argnames="count")
def _nearest(unit: jax.Array, own: jax.Array, count: int) -> jax.Array:
    """int32 [Q, count], the nearest rows of the rows at `own` [Q], without themselves."""
    similarity = unit[own] @ unit.T
    similarity = similarity.at[jnp.arange(own.shape[0]), own].set(-jnp.inf)
    return jax.lax.top_k(similarity, count)[1]
