"""Focal loss: cross-entropy that makes light of confident examples (Lin et al. 2017, eq. 4)."""

import functools
from typing import Annotated

import jax
import jax.numpy as jnp

from sop_jax.fields import Bounds
from sop_jax.methods.base import Method, Problem, of_example_loss


def focal_loss(logits: jax.Array, labels: jax.Array, gamma: float) -> jax.Array:
    """-(1 - p_y)^gamma * log p_y of each example [B]; gamma = 0 is cross-entropy.

    Args:
      logits: [B, K] float. labels: [B] int.
      gamma: how little a confident example counts.
    """
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=-1)[:, 0]
    return -((-jnp.expm1(log_p)) ** gamma) * log_p


def make(problem: Problem, *, gamma: Annotated[float, Bounds(1, 1e6)] = 3.0) -> Method:
    """The focal loss on the weak view; gamma = 3 in the comparison of losses of Zhou et al. 2022.

    Args:
      gamma: power of 1 - p, at least 1: below, the gradient has no bound at p = 1
    """
    del problem
    return of_example_loss(functools.partial(focal_loss, gamma=gamma))
