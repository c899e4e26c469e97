"""ELR: early-learning regularisation (Liu, Niles-Weed, Razavian, Fernandez-Granda, NeurIPS 2020).

arXiv 2007.00151. A network learns the clean labels before it memorises the wrong ones. ELR keeps a
moving average of its early predictions of every example and pulls later ones towards it, which
cancels the gradient of a wrong label.
"""

from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax

from sop_jax.fields import SIZE, Bounds
from sop_jax.methods.base import (
    LossOut,
    Method,
    Problem,
    Rows,
    batch_mean,
    check_one_row_each,
)

EPS = 1e-4  # predictions are clipped to [EPS, 1 - EPS] (published code)


def clipped_softmax(logits: jax.Array) -> jax.Array:
    """p [B, K] clipped to [EPS, 1 - EPS], not normalised again; no gradient beyond the bounds."""
    return jnp.clip(jax.nn.softmax(logits), EPS, 1 - EPS)


def moved_target(target: jax.Array, logits: jax.Array, momentum: float) -> jax.Array:
    """momentum * t + (1 - momentum) * p of each example [B, K], without gradient.

    Args:
      target: t [B, K], the moving averages so far; they start at 0. logits: [B, K].
      momentum: beta in [0, 1].
    """
    probs = jax.lax.stop_gradient(clipped_softmax(logits))
    probs = probs / jnp.sum(probs, axis=-1, keepdims=True)
    return momentum * target + (1 - momentum) * probs


def elr_loss(logits: jax.Array, labels: jax.Array, target: jax.Array, weight: float) -> jax.Array:
    """-log p_y + weight * log(1 - <p, t>) of each example [B] (the paper's L_ELR).

    Args:
      logits: [B, K] float. labels: [B] int.
      target: t [B, K], already moved by `moved_target`.
      weight: lambda. The second term is at most 0, and at least log(EPS).
    """
    agreement = jnp.sum(clipped_softmax(logits) * target, axis=-1)
    plain = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return plain + weight * jnp.log(1 - agreement)


def _believed(rows: Rows, num_classes: int) -> jax.Array:
    """The targets [n, K] normalised to sum 1; uniform where no example was seen yet."""
    total = jnp.sum(rows["target"], axis=-1, keepdims=True)
    return jnp.where(total > 0, rows["target"] / jnp.where(total > 0, total, 1), 1 / num_classes)


def noise_estimate(rows: Rows, labels: jax.Array, num_classes: int) -> jax.Array:
    """Given label minus the normalised target, [n, K]; zeros before an example was seen.

    Args:
      rows: {"target": [n, K]}, one row for each label. labels: the given ones, int32 [n].

    Raises:
      UserError: as many rows as labels are wanted.
    """
    check_one_row_each(rows, labels)
    noise = jax.nn.one_hot(labels, num_classes) - _believed(rows, num_classes)
    seen = jnp.sum(rows["target"], axis=-1, keepdims=True) > 0
    return jnp.where(seen, noise, 0.0)


def diagnostics(rows: Rows, labels: jax.Array) -> dict[str, jax.Array]:
    """target_elsewhere [n]: share of the target that is not at the given label."""
    check_one_row_each(rows, labels)
    believed = _believed(rows, rows["target"].shape[-1])
    return {"target_elsewhere": 1 - jnp.take_along_axis(believed, labels[:, None], axis=-1)[:, 0]}


def published(problem: Problem) -> dict[str, Any]:
    """beta and lambda of the published code, of CIFAR-10 below 100 classes and of CIFAR-100."""
    if problem.num_classes >= 100:
        return {"momentum": 0.9, "weight": 7.0}
    if problem.asymmetric:
        return {"momentum": 0.9, "weight": 1.0}
    return {"momentum": 0.7, "weight": 3.0}


def make(
    problem: Problem,
    *,
    momentum: Annotated[float | None, Bounds(0, 1)] = None,
    weight: Annotated[float | None, SIZE] = None,
) -> Method:
    """ELR on the weak view.

    Args:
      momentum: beta, the share of an example's target that a visit keeps; unset: as published
      weight: lambda, weight of the pull towards the target; unset: as published
    """
    momentum = published(problem)["momentum"] if momentum is None else momentum
    weight = published(problem)["weight"] if weight is None else weight

    def loss(forward, batch, rows, shared, clock, key):
        logits = forward(0, batch.image[:, 0])
        # moved before it is used, as the published code does
        target = moved_target(rows["target"], logits, momentum)
        each = elr_loss(logits, batch.label, target, weight)
        return batch_mean(each, batch.weight), LossOut(logits, {"target": target})

    return Method(
        loss=loss,
        init_rows=lambda key, labels: {"target": jnp.zeros((labels.shape[0], problem.num_classes))},
        update_rows=lambda rows, out: out.rows,
        noise_estimate=noise_estimate,
        diagnostics=diagnostics,
        defaults=published,
    )
