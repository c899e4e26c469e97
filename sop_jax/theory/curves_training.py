"""Training of the ReLU network on a pair of curves, and what its tangent kernel predicts of it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sop_jax.theory import curves, relu_network, tangent_kernel
from sop_jax.theory.curves import Pair


def train(
    pair: Pair,
    *,
    depth: int,
    width: int,
    samples: int,
    grid: int,
    steps: int,
    every: int,
    factor: float,
    seeds: Iterable[int],
) -> dict[str, np.ndarray]:
    """Full-batch descent of one network a seed, which draws the sample and the weights.

    Args:
      depth: L. width: n.
      samples: points a curve that it is trained on. grid: points a curve that it is evaluated on.
      steps: a multiple of `every`, the steps between two evaluations.
      factor: the learning rate in units of 1/(nL).
      seeds: S of them.

    Returns:
      loss [S, steps] before each step; grid_accuracy and sample_accuracy [S, steps // every], of
      the sign on the grid and on the sample; limit [S], 2/lam_max of the kernel at the start in the
      units of `factor`; diverged [S], of whose runs the accuracies are NaN.
    """
    on_grid = _float32(curves.labelled_grid(pair, grid))
    runs = []
    for seed in seeds:
        sample = _float32(curves.labelled_sample(pair, samples, seed))
        weights = relu_network.init(seed, sample[0].shape[1], width, depth)
        limit = tangent_kernel.learning_rate_limit(weights, sample[0]) * width * depth
        run = relu_network.descend(
            weights, sample, on_grid, factor / (width * depth), steps=steps, every=every
        )
        lost = relu_network.diverged(run.loss)
        runs.append(
            {
                "loss": run.loss,
                "grid_accuracy": np.where(lost, np.nan, run.grid_accuracy),
                "sample_accuracy": np.where(lost, np.nan, run.sample_accuracy),
                "limit": limit,
                "diverged": lost,
            }
        )
    return _stacked(runs)


def linearised(
    pair: Pair, *, depth: int, width: int, samples: int, steps: int, factor: float, seed: int
) -> dict:
    """The loss before each step [steps], as `train` has it, and as the kernel at the start says.

    With the eigenvalues e of the kernel over N, a part of the error f - y shrinks by exp(-lr e) a
    step under gradient flow ('flow') and by 1 - lr e under descent ('descent'), if the kernel stays
    as it is.
    """
    sample = _float32(curves.labelled_sample(pair, samples, seed))
    weights = relu_network.init(seed, sample[0].shape[1], width, depth)
    rate = factor / (width * depth)
    hidden, output = tangent_kernel.empirical(weights, sample[0], sample[0])
    eigenvalues, vectors = np.linalg.eigh(np.asarray(hidden + output, np.float64) / len(sample[0]))
    error = np.asarray(relu_network.apply(weights, sample[0]) - sample[1], np.float64)
    energy, times = (vectors.T @ error) ** 2 / (2 * len(error)), 2 * np.arange(steps)[:, None]
    run = relu_network.descend(weights, sample, sample, rate, steps=steps, every=steps)
    return {
        "loss": np.asarray(run.loss),
        "flow": np.exp(-rate * times * eigenvalues) @ energy,
        "descent": (1 - rate * eigenvalues) ** times @ energy,
    }


def networks(
    x: np.ndarray, *, depth: int, width: int, seeds: Iterable[int]
) -> dict[str, np.ndarray]:
    """Fresh networks, one a seed, on x [n, d]; each entry float64 [S, n].

    'hidden' and 'output' are parts of the tangent kernel between x_0 and all x; 'start' is f(x).
    """
    x = jnp.asarray(x, jnp.float32)
    fresh = []
    for seed in seeds:
        weights = relu_network.init(seed, x.shape[1], width, depth)
        hidden, output = tangent_kernel.empirical(weights, x[:1], x)
        start = relu_network.apply(weights, x)
        fresh.append({"hidden": hidden[0], "output": output[0], "start": start})
    return {key: values.astype(np.float64) for key, values in _stacked(fresh).items()}


def _stacked(runs: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Arrays along a new leading axis, the runs."""
    return {key: np.stack([np.asarray(run[key]) for run in runs]) for key in runs[0]}


def _float32(arrays: tuple[np.ndarray, ...]) -> tuple[jax.Array, ...]:
    return tuple(jnp.asarray(array, jnp.float32) for array in arrays)
