"""Squared error on the logits, rescaled for classification (Hui & Belkin 2021, Zhou et al. 2022;
methods.md, 1.7).
"""

import functools

import jax
import jax.numpy as jnp

from sop_jax.methods.base import Method, of_example_loss


def rescaled_mse(logits: jax.Array, labels: jax.Array, scale: float, weight: float) -> jax.Array:
    """(1/K) * [weight * (z_y - scale)^2 + sum_{k != y} z_k^2] of each example [B]; logits z [B, K],
    labels int [B].
    """
    given = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return jnp.mean(jnp.where(given, weight, 1) * (logits - scale * given) ** 2, axis=-1)


def make(*, num_classes: int, target_scale: float = 15.0, target_weight: float = 1.0) -> Method:
    """The rescaled squared error on the weak view; M = 15 and kappa = 1 are the values of Zhou et
    al. 2022.
    """
    del num_classes
    return of_example_loss(
        functools.partial(rescaled_mse, scale=target_scale, weight=target_weight)
    )
