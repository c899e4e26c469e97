"""GCE: generalised cross-entropy, between cross-entropy and the mean absolute error.

Zhang & Sabuncu, NeurIPS 2018, arXiv 1805.07836. Its gradient is p_y^q times that of cross-entropy,
so an example whose given label the network finds unlikely counts little.
"""

import functools
from typing import Annotated

import jax
import jax.numpy as jnp

from sop_jax.fields import Bounds
from sop_jax.methods.base import Method, Problem, of_example_loss


def gce_loss(logits: jax.Array, labels: jax.Array, q: float) -> jax.Array:
    """(1 - p_y^q) / q of each example [B] (the paper's L_q).

    p^q is taken as exp(q log p), whose gradient is finite where p underflows.

    Args:
      logits: [B, K] float. labels: [B] int.
      q: in (0, 1]; near 0 it is cross-entropy, at 1 the mean absolute error.
    """
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=-1)[:, 0]
    return -jnp.expm1(q * log_p) / q


def make(problem: Problem, *, q: Annotated[float, Bounds(1e-6, 1)] = 0.7) -> Method:
    """GCE on the weak view, not truncated; 0.7 is the paper's q in all its experiments.

    Args:
      q: near 0 cross-entropy, which fits fast; 1 the mean absolute error, which bears most noise
    """
    del problem
    return of_example_loss(functools.partial(gce_loss, q=q))
