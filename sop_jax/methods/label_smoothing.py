"""Label smoothing: cross-entropy against a label mixed with the uniform one (Szegedy et al. 2016;
methods.md, 1.6).
"""

import functools

import jax
import optax

from sop_jax.methods.base import Method, of_example_loss


def smoothed_cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float) -> jax.Array:
    """(1 - r) * (-log p_y) + r * mean_k(-log p_k) of each example [B]; logits [B, K], labels int
    [B], r = smoothing.
    """
    targets = optax.smooth_labels(
        jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype), smoothing
    )
    return optax.softmax_cross_entropy(logits, targets)


def make(*, num_classes: int, smoothing: float = 0.05) -> Method:
    """Label smoothing on the weak view; r = 0.05 in the comparison of losses of Zhou et al.
    2022.
    """
    del num_classes
    return of_example_loss(functools.partial(smoothed_cross_entropy, smoothing=smoothing))
