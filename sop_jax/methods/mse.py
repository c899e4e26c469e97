"""Squared error on the logits, rescaled for classes (Hui & Belkin 2021, Zhou et al. 2022)."""

import functools
from typing import Annotated

import jax
import jax.numpy as jnp

from sop_jax.fields import SIZE
from sop_jax.methods.base import Method, Problem, of_example_loss


def rescaled_mse(logits: jax.Array, labels: jax.Array, scale: float, weight: float) -> jax.Array:
    """(1/K) * [weight * (z_y - scale)^2 + sum_{k != y} z_k^2] of each example [B].

    Args:
      logits: z [B, K] float. labels: [B] int.
      scale: the logit wanted at the given label. weight: of that label's error among the K.
    """
    given = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return jnp.mean(jnp.where(given, weight, 1) * (logits - scale * given) ** 2, axis=-1)


def make(
    problem: Problem,
    *,
    target_scale: Annotated[float, SIZE] = 15.0,
    target_weight: Annotated[float, SIZE] = 1.0,
) -> Method:
    """The rescaled squared error on the weak view; 15 and 1 are the values of Zhou et al. 2022.

    Args:
      target_scale: the logit wanted at the given label (0 elsewhere)
      target_weight: weight of the given label's error among the K
    """
    del problem
    return of_example_loss(
        functools.partial(rescaled_mse, scale=target_scale, weight=target_weight)
    )
