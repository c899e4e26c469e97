"""The ReLU network of the two-manifold problem, without biases, and its full-batch descent.

Source: lecture 4 of the ICASSP 2022 short course, "Network Architecture and Training Procedure".

    a^0 = x,   a^l = ReLU(W^l a^{l-1}),  W^l ~ N(0, 2/n),  l = 1..L,   f = W^{L+1} a^L,
    W^{L+1} ~ N(0, 1)

f is O(1) at the start and its tangent kernel O(nL), so the learning rate is a multiple of 1/(nL).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# W^1 [d, n], then L - 1 of [n, n], W^{L+1} [n, 1]: transposed, points are rows
Weights = list[jax.Array]
WEIGHTS = 1  # second word of the weights' seed, so that the sample's stream is another
RISEN = 2.0  # times the first loss: stable descent does not get there


class Descent(NamedTuple):
    """What one run went through."""

    loss: jax.Array  # before each step [steps]
    grid_accuracy: jax.Array  # [steps / every], of the sign, after every `every` steps
    sample_accuracy: jax.Array  # [steps / every]


def init(seed: int, dimension: int, width: int, depth: int) -> Weights:
    """float32 weights of L = depth hidden layers of n = width units on inputs [d = dimension].

    Drawn by NumPy, in a stream of its own for each seed: XLA would compile a generator for every
    shape.
    """
    random = np.random.default_rng([seed, WEIGHTS])

    def draw(inputs: int, outputs: int) -> np.ndarray:
        return random.standard_normal((inputs, outputs), dtype=np.float32)

    inputs = [dimension] + [width] * (depth - 1)
    scale = np.sqrt(2 / width, dtype=np.float32)
    hidden = [jnp.asarray(draw(size, width) * scale) for size in inputs]
    return [*hidden, jnp.asarray(draw(width, 1))]


@jax.jit
def apply(weights: Weights, x: jax.Array) -> jax.Array:
    """f(x) [n] for rows x [n, d]."""
    for weight in weights[:-1]:
        x = jax.nn.relu(x @ weight)
    return (x @ weights[-1])[:, 0]


def loss(weights: Weights, x: jax.Array, y: jax.Array) -> jax.Array:
    """Half the mean squared error of f over the rows x [n, d] against y [n]."""
    return 0.5 * jnp.mean((apply(weights, x) - y) ** 2)


@functools.partial(jax.jit, static_argnames=("steps", "every"))
def descend(
    weights: Weights,
    sample: tuple[jax.Array, jax.Array],
    grid: tuple[jax.Array, jax.Array],
    learning_rate: float,
    *,
    steps: int,
    every: int,
) -> Descent:
    """Gradient descent on the whole sample, evaluated on it and on the grid.

    Both are (x [N, d], y [N]). `steps` is a multiple of `every`.
    """

    def step(weights, _):
        value, gradient = jax.value_and_grad(loss)(weights, *sample)
        return jax.tree.map(lambda w, g: w - learning_rate * g, weights, gradient), value

    def record(weights, _):
        weights, losses = jax.lax.scan(step, weights, length=every)
        return weights, (losses, accuracy(weights, *grid), accuracy(weights, *sample))

    _, (losses, on_grid, on_sample) = jax.lax.scan(record, weights, length=steps // every)
    return Descent(losses.reshape(-1), on_grid, on_sample)


def accuracy(weights: Weights, x: jax.Array, y: jax.Array) -> jax.Array:
    """Share of rows whose sign f(x) is the label y = +-1."""
    return jnp.mean(jnp.sign(apply(weights, x)) == y)


def diverged(losses: jax.Array) -> bool:
    """Whether a loss curve [steps] left the finite numbers, or rose and stayed at 1/2 or above.

    Above the limit 2/lam_max the loss rises at first, but often the steps shrink the kernel until
    descent is stable and learns: that is not called divergence. 1/2 is the loss of f = 0, and so of
    a network of dead ReLUs.
    """
    lost = (jnp.max(losses) > RISEN * losses[0]) & (losses[-1] >= 0.5)
    return bool(lost | ~jnp.all(jnp.isfinite(losses)))
