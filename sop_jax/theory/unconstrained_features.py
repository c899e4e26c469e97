"""The unconstrained feature model: the last layer alone, with the features as free variables.

Minimises (1/N) sum_i loss(W h_i + b, y_i) + lamW/2 |W|^2 + lamH/2 |H|^2 + lamb/2 |b|^2. For
balanced classes and d >= K-1 every global minimiser is collapsed (Zhu et al., NeurIPS 2021, theorem
3.1), for each of the four losses (Zhou et al., NeurIPS 2022).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from sop_jax.methods.base import ExampleLoss


class Minimum(NamedTuple):
    """Where the descent ended."""

    objective: float  # with the penalties
    gradient: float  # largest entry of the gradient there
    features: np.ndarray  # H, float64 [N, d]
    labels: np.ndarray  # int64 [N]
    weight: np.ndarray  # W, float64 [K, d]
    bias: np.ndarray  # b, float64 [K]


def minimise(
    loss: ExampleLoss,
    num_classes: int,
    per_class: int,
    dim: int,
    weight_decay: float,
    *,
    bias_decay: float = 0.0,
    use_bias: bool = True,
    seed: int = 0,
) -> Minimum:
    """Minimises the model by L-BFGS from a small Gaussian start, in float64.

    Args:
      loss: of each example.
      num_classes: K.
      per_class: examples of each class, so N = K * per_class.
      dim: d.
      weight_decay: lamW = lamH.
      bias_decay: lamb.
      use_bias: False holds b at 0.
      seed: of the start.
    """
    labels = np.repeat(np.arange(num_classes), per_class)
    shapes = (len(labels), dim), (num_classes, dim), (num_classes,)
    sizes = [int(np.prod(shape)) for shape in shapes]

    def unpack(x):
        parts = jnp.split(x, np.cumsum(sizes)[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]

    with jax.enable_x64(True):

        def objective(x):
            features, weight, bias = unpack(x)
            bias = bias * float(use_bias)
            logits = features @ weight.T + bias[None, :]
            squares = jnp.sum(features**2) + jnp.sum(weight**2)
            penalty = weight_decay * squares + bias_decay * jnp.sum(bias**2)
            return jnp.mean(loss(logits, jnp.asarray(labels))) + penalty / 2

        start = 0.1 * np.random.default_rng(seed).normal(size=sum(sizes))
        graded = jax.jit(jax.value_and_grad(objective))
        found = scipy.optimize.minimize(
            lambda x: [np.asarray(part) for part in graded(x)],
            start,
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 20000, "maxfun": 40000, "maxcor": 30, "ftol": 0, "gtol": 1e-12},
        )
        features, weight, bias = (np.asarray(part) for part in unpack(found.x))
    return Minimum(
        float(found.fun), float(np.abs(found.jac).max()), features, labels, weight, bias * use_bias
    )
