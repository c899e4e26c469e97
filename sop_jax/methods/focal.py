"""Focal loss: cross-entropy that makes light of confident examples (Lin et al. 2017; methods.md,
1.5).
"""

import functools

import jax
import jax.numpy as jnp

from sop_jax.methods.base import Method, of_example_loss


def focal_loss(logits: jax.Array, labels: jax.Array, gamma: float) -> jax.Array:
    """-(1 - p_y)^gamma * log p_y of each example [B]; logits [B, K], labels int [B]. gamma = 0 is
    cross-entropy.
    """
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=-1)[:, 0]
    return -((-jnp.expm1(log_p)) ** gamma) * log_p


def make(*, num_classes: int, focal_gamma: float = 3.0) -> Method:
    """The focal loss on the weak view; gamma = 3 in the comparison of losses of Zhou et al.
    2022.
    """
    del num_classes
    return of_example_loss(functools.partial(focal_loss, gamma=focal_gamma))
