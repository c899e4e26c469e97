"""Label smoothing: cross-entropy to a label mixed with the uniform one (Szegedy et al. 2016)."""

import functools
from typing import Annotated

import jax
import optax

from sop_jax.fields import Bounds
from sop_jax.methods.base import Method, Problem, of_example_loss


def smoothed_cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float) -> jax.Array:
    """(1 - r) * (-log p_y) + r * mean_k(-log p_k) of each example [B], with r = smoothing.

    Args:
      logits: [B, K] float. labels: [B] int.
      smoothing: share of the target that is spread over all K classes.
    """
    targets = optax.smooth_labels(
        jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype), smoothing
    )
    return optax.softmax_cross_entropy(logits, targets)


def make(problem: Problem, *, smoothing: Annotated[float, Bounds(0, 1)] = 0.05) -> Method:
    """Label smoothing on the weak view; 0.05 in the comparison of losses of Zhou et al. 2022.

    Args:
      smoothing: share of the target spread over all K classes
    """
    del problem
    return of_example_loss(functools.partial(smoothed_cross_entropy, smoothing=smoothing))
