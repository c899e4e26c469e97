"""Co-teaching: two networks, each taught by the examples that the other finds easy.

Han et al., NeurIPS 2018, arXiv 1804.06872, Algorithm 1. A network fits clean labels first, so a
small loss speaks for a right label; the networks are exchanged so that one's mistakes are not fed
back to itself.
"""

from typing import Annotated

import jax
import jax.numpy as jnp
import optax

from sop_jax.fields import COUNT, Bounds
from sop_jax.methods.base import LossOut, Method, Problem

UNKNOWN_RATE = 0.2  # forget rate where nobody knows the noise rate


def forget_share(epoch: jax.Array, forget_rate: float, gradual_epochs: int) -> jax.Array:
    """Share of a batch that is dropped in `epoch`: linear from 0 to `forget_rate`, then constant.

    The rate is reached in epoch number gradual_epochs - 1, as in the published code (in the paper,
    one epoch later).
    """
    return forget_rate * jnp.minimum(epoch / max(gradual_epochs - 1, 1), 1.0)


def small_losses(losses: jax.Array, weight: jax.Array, forget: jax.Array) -> jax.Array:
    """1 for the floor((1 - forget) * real) real examples of smallest loss, 0 for the others, [B].

    Args:
      losses: [B]. weight: [B], 1 for a real example and 0 for a padded one.
      forget: scalar in [0, 1], the share dropped.
    """
    losses = jnp.where(weight > 0, jax.lax.stop_gradient(losses), jnp.inf)
    rank = jnp.argsort(jnp.argsort(losses)).astype(weight.dtype)
    # float32 may round a whole number to just below it: (1 - 0.9) * 10
    return (rank < jnp.floor((1 - forget) * jnp.sum(weight) + 1e-3)).astype(weight.dtype)


def mean_of(losses: jax.Array, chosen: jax.Array) -> jax.Array:
    """The mean of losses [B] where chosen [B] is 1; 0 where nothing is chosen."""
    return jnp.sum(chosen * losses) / jnp.maximum(jnp.sum(chosen), 1.0)


def make(
    problem: Problem,
    *,
    forget_rate: Annotated[float | None, Bounds(0, 1)] = None,
    gradual_epochs: Annotated[int, COUNT] = 10,
) -> Method:
    """Two networks on the same weak views, which step together.

    Args:
      forget_rate: share of a batch dropped in the end; unset: the noise's rate, 0.2 if unknown
      gradual_epochs: epochs in which the share dropped rises from 0 to forget_rate
    """

    def defaults(problem):
        known = problem.noise_rate is not None
        return {"forget_rate": problem.noise_rate if known else UNKNOWN_RATE}

    forget_rate = defaults(problem)["forget_rate"] if forget_rate is None else forget_rate

    def loss(forward, batch, rows, shared, clock, key):
        forget = forget_share(clock.epoch, forget_rate, gradual_epochs)
        logits = [forward(net, batch.image[:, 0]) for net in range(2)]
        first, second = (
            optax.softmax_cross_entropy_with_integer_labels(z, batch.label) for z in logits
        )
        easy_for_first = small_losses(first, batch.weight, forget)
        easy_for_second = small_losses(second, batch.weight, forget)
        # each a mean over what is kept, weighted by how full the batch is
        value = mean_of(first, easy_for_second) + mean_of(second, easy_for_first)
        metrics = {
            "forget_share": forget,
            "kept_loss": mean_of(first, easy_for_second),
            "dropped_loss": mean_of(first, batch.weight - easy_for_second),
        }
        out = LossOut(logits=(logits[0] + logits[1]) / 2, metrics=metrics)
        return value * jnp.mean(batch.weight), out

    return Method(
        loss=loss,
        num_nets=2,
        defaults=defaults,
        metrics=("forget_share", "kept_loss", "dropped_loss"),
    )
