"""CDR: only the weights that matter for the given labels follow their gradient.

Xia et al., "Robust early-learning", ICLR 2021, Algorithm 1. With tau the noise rate, the share
1 - tau of all kernel entries with the largest |weight * gradient| is critical at a step; the others
are moved by weight decay (and momentum) alone.
"""

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax

from sop_jax.fields import Bounds
from sop_jax.methods import ce
from sop_jax.methods.base import Method, Problem

UNKNOWN_RATE = 0.2  # where nobody knows the noise rate


def critical_gradients(noise_rate: float) -> optax.GradientTransformation:
    """Keeps the gradients of critical weights, times 1 - noise_rate, and zeroes the other kernels'.

    Kernels are the leaves of two and four axes; their entries are ranked together, all networks'
    in one ranking, and int((1 - noise_rate) * entries) of them pass (at equal scores, more). Other
    leaves (biases, batch-norm) keep their whole gradient. This is the published code; the paper's
    decay is that of the L1 norm, here it is the optimiser's own.
    """
    kept_share = 1 - noise_rate

    def is_kernel(weight):
        return weight.ndim in (2, 4)

    def update(updates, state, params):
        scores = jax.tree.map(lambda g, w: jnp.abs(w * g), updates, params)
        pooled = [score.ravel() for score in jax.tree.leaves(scores) if is_kernel(score)]
        ranked = jnp.sort(jnp.concatenate(pooled))
        threshold = ranked[len(ranked) - max(int(kept_share * len(ranked)), 1)]

        def keep(gradient, score):
            if not is_kernel(gradient):
                return gradient
            # a NaN is not below the threshold: it stays, for the loop to see
            return jnp.where(score < threshold, 0, kept_share * gradient)

        return jax.tree.map(keep, updates, scores), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def defaults(problem: Problem) -> dict[str, Any]:
    """The nominal noise rate where it is known."""
    return {"noise_rate": UNKNOWN_RATE if problem.noise_rate is None else problem.noise_rate}


def make(problem: Problem, *, noise_rate: Annotated[float | None, Bounds(0, 1)] = None) -> Method:
    """Cross-entropy on the weak view, with critical gradients before the configured optimiser.

    Args:
      noise_rate: tau, share of the weights held back; unset: the noise's rate, 0.2 if unknown
    """
    noise_rate = defaults(problem)["noise_rate"] if noise_rate is None else noise_rate

    def network_transform(transform, steps_per_epoch):
        return optax.chain(critical_gradients(noise_rate), transform)

    return dataclasses.replace(
        ce.make(problem), network_transform=network_transform, defaults=defaults
    )
