"""Accuracy over every test example, and how far the features of the training examples have
collapsed.

The only module, with `label_issues.py`, that sees true labels.
"""

import functools
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh

from sop_jax import collapse, compiler, optimizer
from sop_jax import mesh as meshes
from sop_jax.data.augment import normalise
from sop_jax.step import TrainState


def make_predict(apply: Callable, mean: tuple, std: tuple, mesh: Mesh, batch_size: int) -> Callable:
    """Returns predict(params, model_state, images uint8 [M,H,W,C] replicated, rows int32 [R]) ->
    probs float32 [R, K].

    Probabilities are the mean over the networks of the softmax in evaluation mode, on the plain
    images. The last batch is padded and cut again on the host, so no example is dropped or counted
    twice.
    """

    def mean_probs(params, model_state, inputs):
        logits = [apply(p, s, inputs, False)[0] for p, s in zip(params, model_state, strict=True)]
        return sum(jax.nn.softmax(z) for z in logits) / len(logits)

    return _in_batches(mean_probs, mean, std, mesh, batch_size)


def make_features(
    features: Callable, mean: tuple, std: tuple, mesh: Mesh, batch_size: int
) -> Callable:
    """Like `make_predict` for `Model.features`: the function returns features float32 [R, d] of the
    first network.
    """
    return _in_batches(
        lambda params, state, inputs: features(params[0], state[0], inputs),
        mean,
        std,
        mesh,
        batch_size,
    )


def _in_batches(
    function: Callable, mean: tuple, std: tuple, mesh: Mesh, batch_size: int
) -> Callable:
    """(params, model_state, images, rows) -> float32 [R, ...] from `function` of (params,
    model_state, normalised).
    """
    rows_sharding = meshes.rows(mesh)

    @functools.partial(jax.jit, compiler_options=compiler.options_for_steps())
    def of_batch(params, model_state, images, index):
        values = function(params, model_state, normalise(images[index], mean, std))
        return jax.lax.with_sharding_constraint(values, meshes.replicated(mesh))

    def of_rows(
        params: tuple, model_state: tuple, images: jax.Array, rows: np.ndarray
    ) -> np.ndarray:
        padded = np.resize(rows, -(-len(rows) // batch_size) * batch_size).astype(np.int32)
        batches = [
            of_batch(params, model_state, images, meshes.put(index, rows_sharding))
            for index in padded.reshape(-1, batch_size)
        ]
        return np.concatenate([np.asarray(b) for b in batches])[: len(rows)]

    return of_rows


def evaluation_params(state: TrainState) -> tuple:
    """The network parameters that predictions are made with: the averaged ones where optimizer.ema
    keeps them.

    Batch statistics are no parameters: the running ones of `state.model_state` go with either.
    """
    return optimizer.averaged(state.opt_state, state.params)


def accuracy(probs: np.ndarray, labels: np.ndarray, top: int = 1) -> float:
    """Share of rows whose label is among the `top` most probable classes; probs [M, K], labels
    [M].
    """
    best = np.argsort(-probs, axis=-1, kind="stable")[:, :top]
    return float(np.mean(np.any(best == labels[:, None], axis=-1)))


def accuracy_per_class(probs: np.ndarray, labels: np.ndarray) -> list[float | None]:
    """Accuracy of each of the K classes; None for a class without examples."""
    correct = probs.argmax(-1) == labels
    return [
        float(correct[labels == k].mean()) if np.any(labels == k) else None
        for k in range(probs.shape[-1])
    ]


COLLAPSE_KEYS = ("nc1", "nc2", "nc3", "self_duality", "nc4")
COLLAPSE_TRUE_KEYS = ("nc1_true", "wrong_at_given", "wrong_at_true")


def collapse_metrics(
    features: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    given: np.ndarray,
    truth: np.ndarray | None,
) -> dict[str, float | None]:
    """Neural collapse of the training examples, by the given labels and by the true ones.

    Args:
      features: [n, d]. weight, bias: [K, d] and [K] of the last layer. given: int [n], the labels
        trained on.
      truth: int [n] or None, which leaves out COLLAPSE_TRUE_KEYS.

    Returns:
      COLLAPSE_KEYS; nc1_true: NC1 with the classes of the true labels; wrong_at_given and
      wrong_at_true: of the rows whose label is wrong, the shares that lie nearest to the mean of
      the rightly labelled rows of their given class (memorised) and of their true class (not
      believed). A number that some class is too empty for is None.
    """
    found = collapse.metrics(features, given, weight, bias)
    if truth is not None:
        wrong = given != truth
        means = collapse.class_means(features[~wrong], given[~wrong], len(bias))
        nearest = collapse.nearest_mean(features[wrong], means)
        found |= {
            "nc1_true": collapse.nc1(features, truth, len(bias)),
            "wrong_at_given": np.mean(nearest == given[wrong]) if wrong.any() else np.nan,
            "wrong_at_true": np.mean(nearest == truth[wrong]) if wrong.any() else np.nan,
        }
    return {name: float(value) if np.isfinite(value) else None for name, value in found.items()}
