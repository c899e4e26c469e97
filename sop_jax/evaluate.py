"""Accuracy over every test example, the pass that ends an epoch, and neural collapse.

The only module, with `grading.py`, that sees true training labels.
"""

import functools
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from sop_jax import collapse
from sop_jax.compiler import options_for_steps
from sop_jax.data.augment import normalise
from sop_jax.mesh import by_rows, platform, put, replicated
from sop_jax.methods.base import Method
from sop_jax.models.api import Model
from sop_jax.optimizer import averaged
from sop_jax.state import Resident, TrainState, count_correct, track
from sop_jax.step import Networks
from sop_jax.table import gather, padded, scatter


class OfImages(Protocol):
    def __call__(
        self, params: tuple, model_state: tuple, images: jax.Array, index: np.ndarray
    ) -> np.ndarray:
        """float32 [R, ...] of images uint8 [M, H * W * C] (`state.flat`) at index int [R]."""


def make_predict(
    model: Model, image_shape: tuple, mean: tuple, std: tuple, mesh: Mesh, batch_size: int
) -> OfImages:
    """Returns predict(params, model_state, images, index) -> probs [R, K].

    Probabilities are the mean over the networks of the softmax in evaluation mode, on the plain
    images. The last batch is padded and cut again on the host, so no example is dropped or counted
    twice.
    """

    def mean_probs(params, model_state, inputs):
        probs = [
            jax.nn.softmax(model.apply(own, statistics, inputs, False)[0])
            for own, statistics in zip(params, model_state, strict=True)
        ]
        return sum(probs) / len(probs)

    return _in_batches(mean_probs, image_shape, mean, std, mesh, batch_size)


def make_features(
    model: Model, image_shape: tuple, mean: tuple, std: tuple, mesh: Mesh, batch_size: int
) -> OfImages:
    """Like `make_predict`, of `Model.features`: features [R, d] of the first network."""

    def features(params, model_state, inputs):
        return model.features(params[0], model_state[0], inputs)

    return _in_batches(features, image_shape, mean, std, mesh, batch_size)


class _OfBatch(Protocol):
    def __call__(self, params: tuple, model_state: tuple, inputs: jax.Array) -> jax.Array:
        """[B, ...] of normalised images [B, H, W, C]."""


def _in_batches(
    function: _OfBatch,
    image_shape: tuple,
    mean: tuple,
    std: tuple,
    mesh: Mesh,
    batch_size: int,
) -> OfImages:
    """`function` over any number of images, a batch at a time."""

    @functools.partial(jax.jit, compiler_options=options_for_steps(platform(mesh)))
    def of_batch(params, model_state, images, index):
        inputs = normalise(images[index].reshape(-1, *image_shape), mean, std)
        values = function(params, model_state, inputs)
        return jax.lax.with_sharding_constraint(values, replicated(mesh))

    def of_images(
        params: tuple, model_state: tuple, images: jax.Array, index: np.ndarray
    ) -> np.ndarray:
        total = -(-len(index) // batch_size) * batch_size
        batches = np.resize(index, total).astype(np.int32).reshape(-1, batch_size)
        values = [
            of_batch(params, model_state, images, put(batch, by_rows(mesh))) for batch in batches
        ]
        return np.concatenate([np.asarray(value) for value in values])[: len(index)]

    return of_images


class NoEvaluation:
    """For `loop.train`, where there is nothing to evaluate on."""

    keys: tuple[str, ...] = ()

    def __call__(self, state: TrainState) -> dict:
        return {}


class TrainingPass(Protocol):
    def __call__(self, state: TrainState, resident: Resident, index: np.ndarray) -> TrainState:
        """The state after a pass over the plain images at index int [n]; the old one is dead."""


def make_training_pass(
    method: Method,
    model: Model,
    image_shape: tuple,
    mean: tuple,
    std: tuple,
    mesh: Mesh,
    batch_size: int,
    steps_per_epoch: int,
    shardings: TrainState,
) -> TrainingPass | None:
    """The pass that ends an epoch, in evaluation mode; None where the method needs none.

    `method.score` writes its rows, and where the loss saw no plain view, the tracker reads the
    predictions of this pass. `shardings` is a tree like the state.
    """
    if method.score is None and method.plain_view:
        return None

    @functools.partial(
        jax.jit,
        donate_argnums=0,
        out_shardings=shardings,
        compiler_options=options_for_steps(platform(mesh)),
    )
    def of_batch(
        state: TrainState, resident: Resident, example: jax.Array, index: jax.Array
    ) -> TrainState:
        forward = Networks(model, state.params, state.model_state, train=False)
        images, label = resident.images[example], resident.labels[example]
        inputs = normalise(images.reshape(-1, *image_shape), mean, std)
        if method.score is not None:
            scored = method.score(forward, inputs, label)
            part = {name: state.table[name] for name in scored}
            state = state._replace(table={**state.table, **scatter(part, index, scored)})
        if not method.plain_view:
            logits = sum(forward(net, inputs) for net in range(method.num_nets)) / method.num_nets
            epoch = state.step // steps_per_epoch - 1
            tracked = track(gather(state.tracker, index), logits, label, epoch)
            num_rows = jax.tree.leaves(state.tracker)[0].shape[0]
            correct = count_correct(tracked, label, (index < num_rows).astype(jnp.float32))
            state = state._replace(
                tracker=scatter(state.tracker, index, tracked),
                sums=state.sums._replace(correct=state.sums.correct + correct),
            )
        return state

    def of_rows(state: TrainState, resident: Resident, index: np.ndarray) -> TrainState:
        total = -(-len(index) // batch_size) * batch_size
        example = np.resize(index, total).astype(np.int32)
        real = np.arange(total) < len(index)
        stored = np.where(real, example, padded(resident.labels.shape[0])).astype(np.int32)
        for start in range(0, total, batch_size):
            own = slice(start, start + batch_size)
            placed = [put(part[own], by_rows(mesh)) for part in (example, stored)]
            state = of_batch(state, resident, *placed)
        return state

    return of_rows


def evaluation_params(state: TrainState) -> tuple:
    """The network parameters to predict with: the averaged ones where optimizer.ema keeps them.

    Batch statistics are no parameters: the running ones of `state.model_state` go with either.
    """
    return averaged(state.opt_state, state.params)


def accuracy(probs: np.ndarray, labels: np.ndarray, top: int = 1) -> float:
    """Share of examples whose label [M] is among the `top` most probable classes; probs [M, K]."""
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
    label: np.ndarray,
    true_label: np.ndarray | None,
) -> dict[str, float | None]:
    """Neural collapse of the training examples, by the given labels and by the true ones.

    Args:
      features: [n, d]. weight, bias: [K, d] and [K] of the last layer. label: int [n], the labels
        trained on.
      true_label: int [n] or None, which leaves out COLLAPSE_TRUE_KEYS.

    Returns:
      COLLAPSE_KEYS; nc1_true: NC1 with the classes of the true labels; wrong_at_given and
      wrong_at_true: of the rows whose label is wrong, the shares that lie nearest to the mean of
      the rightly labelled rows of their given class (memorised) and of their true class (not
      believed). A number that some class is too empty for is None.
    """
    found = collapse.metrics(features, label, weight, bias)
    if true_label is not None:
        wrong = label != true_label
        means = collapse.class_means(features[~wrong], label[~wrong], len(bias))
        nearest = collapse.nearest_mean(features[wrong], means)
        found |= {
            "nc1_true": collapse.nc1(features, true_label, len(bias)),
            "wrong_at_given": np.mean(nearest == label[wrong]) if wrong.any() else np.nan,
            "wrong_at_true": np.mean(nearest == true_label[wrong]) if wrong.any() else np.nan,
        }
    return {name: float(value) if np.isfinite(value) else None for name, value in found.items()}
