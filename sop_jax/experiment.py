"""Puts the parts together for one configuration and one data set: mesh, network, method, optimiser,
compiled step.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from sop_jax import mesh as meshes
from sop_jax import methods, models, optimizer, table
from sop_jax import step as steps
from sop_jax.config import ASYMMETRIC_KINDS
from sop_jax.data import pipeline
from sop_jax.data.augment import Augment
from sop_jax.data.dataset import Dataset
from sop_jax.errors import UserError
from sop_jax.evaluate import make_features, make_predict
from sop_jax.methods import sop


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything a run needs that does not change while it trains.

    Attributes:
      config: resolved, every field that the run uses has a value.
      start: (key, given labels int32 [N]) -> TrainState, on the mesh, jitted. abstract: its shapes,
        dtypes, shardings.
      step: (state, resident, example [B], index [B]) -> (state, loss), not compiled: `seeds.py`
        makes programs of it.
      predict: (params, model_state, images, rows) -> probs [R, K].
      features: likewise -> features [R, d] of the first network. classifier: its params -> (W [K,
        d], b [K]).
      end_epoch: (state, epoch) -> state, the method's `on_epoch_end`, or None where it has none.
    """

    config: ConfigDict
    dataset: Dataset
    mesh: Mesh
    method: methods.Method
    start: Callable[[jax.Array, jax.Array], steps.TrainState]
    abstract: steps.TrainState
    step: Callable
    predict: Callable
    features: Callable
    classifier: Callable
    end_epoch: Callable | None

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.dataset.class_names)

    @property
    def steps_per_epoch(self) -> int:
        """Updates in one pass over the training rows."""
        return pipeline.steps_per_epoch(len(self.dataset.train_rows), self.config.batch_size)

    def init(self) -> steps.TrainState:
        """The state before the first step."""
        return self.start(jax.random.key(self.config.seed), jnp.asarray(self.dataset.train.labels))

    def plan(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The batches of an epoch, see `pipeline.epoch_plan`."""
        padded = table.padded(len(self.dataset.train.labels))
        return pipeline.epoch_plan(
            self.dataset.train_rows, self.config.batch_size, self.config.seed, epoch, padded
        )


def resolve(config: ConfigDict, num_classes: int) -> tuple[ConfigDict, list[str]]:
    """Fills the fields that depend on the data or the machine; returns the copy and a note for each
    choice made.
    """
    config, notes = config.copy_and_resolve_references(), []
    platform = jax.default_backend()
    if config.dtype == "auto":
        config.dtype = "float32" if platform == "cpu" else "bfloat16"
    if config.seeds_by == "auto":
        # benchmarks/NOTES.md: on a CPU vmap wins with toy images alone; no GPU yet
        config.seeds_by = "unroll"
    if config.steps_per_dispatch == 0:
        config.steps_per_dispatch = 1 if platform == "cpu" else 64
    if platform == "cpu" and config.steps_per_dispatch != 1:
        raise UserError(
            f"config.steps_per_dispatch={config.steps_per_dispatch} on the CPU: XLA:CPU runs a convolution "
            "inside a loop about 40 times slower; set it to 1, or 0 to choose"
        )
    method = config.method
    if method.name in ("sop", "sop_plus"):
        asymmetric = config.noise.kind in ASYMMETRIC_KINDS
        published = sop.published_learning_rates(num_classes, asymmetric, method.variant)
        for name, rate in zip(("learning_rate_u", "learning_rate_v"), published, strict=True):
            if method[name] is None:
                method[name] = rate
                notes.append(
                    f"method.{name} = {rate:g} (published for {num_classes} classes, "
                    f"{'asymmetric' if asymmetric else 'symmetric or human'} noise, at B = 128)"
                )
    return config, notes


def tracked_epochs(epochs: int) -> int:
    """How many epochs at the end the tracker averages training predictions over: a quarter of the
    run.
    """
    return max(1, epochs // 4)


def make_augment(config: ConfigDict, dataset: Dataset) -> Augment:
    """What is done to the training images of this data set."""
    a = config.augment
    mean, std = _statistics(dataset)
    return Augment(a.crop_padding, a.flip, a.strong, a.cutout, mean, std, a.alternating_flip)


def _statistics(dataset: Dataset) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) of pixels / 255 as plain numbers, so that they are constants of the program."""
    return tuple(map(float, dataset.mean)), tuple(map(float, dataset.std))


def build(config: ConfigDict, dataset: Dataset, mesh: Mesh) -> Experiment:
    """Builds the experiment; `config` is resolved. Raises UserError where the batch does not fit
    the devices.
    """
    meshes.check_batch_size(config.batch_size, mesh)
    num_classes = len(dataset.class_names)
    method = methods.from_config(config.method, num_classes)
    mean, std = _statistics(dataset)
    filters = None
    if config.model.name == "fast_net" and config.model.whitening:
        filters = models.whitening_filters(
            dataset.train.images[dataset.train_rows[:5000]], mean, std
        )
    model = models.api.find(
        config.model.name,
        num_classes,
        jnp.dtype(config.dtype),
        config.model.width,
        config.model.activation,
        filters,
        config.model.classifier,
        config.model.feature_dim,
    )
    augment = make_augment(config, dataset)
    per_epoch = pipeline.steps_per_epoch(len(dataset.train_rows), config.batch_size)
    optimiser = optimizer.make_optimizer(
        optimizer.network_optimizer(config, per_epoch), method.row_learning_rates, config.batch_size
    )
    step = steps.make_step(
        method, model.apply, optimiser, per_epoch, config.epochs - tracked_epochs(config.epochs)
    )

    def init_state(key, labels):
        return steps.init_state(
            key,
            method,
            model,
            optimiser,
            dataset.train.images.shape[1:],
            labels,
            num_classes,
            config.track_predictions,
        )

    shapes = jax.eval_shape(init_state, jax.random.key(0), jnp.asarray(dataset.train.labels))
    shardings = steps.state_shardings(shapes, mesh)
    end_epoch = None
    if method.on_epoch_end is not methods.base.keep_epoch:
        end_epoch = jax.jit(
            functools.partial(_end_epoch, method), donate_argnums=0, out_shardings=shardings
        )
    eval_batch_size = _eval_batch_size(config.batch_size, mesh)
    return Experiment(
        config=config,
        dataset=dataset,
        mesh=mesh,
        method=method,
        start=steps.compile_init(init_state, shardings),
        abstract=_with_shardings(shapes, shardings),
        step=steps.step_from_plan(step, augment, method.num_views, per_epoch),
        predict=make_predict(model.apply, mean, std, mesh, eval_batch_size),
        features=make_features(model.features, mean, std, mesh, eval_batch_size),
        classifier=model.classifier,
        end_epoch=end_epoch,
    )


def _end_epoch(
    method: methods.Method, state: steps.TrainState, epoch: jax.Array
) -> steps.TrainState:
    table_, shared = method.on_epoch_end(state.table, state.shared, epoch)
    return state._replace(table=table_, shared=shared)


def _with_shardings(shapes: Any, shardings: Any) -> Any:
    return jax.tree.map(
        lambda s, d: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=d), shapes, shardings
    )


def _eval_batch_size(batch_size: int, mesh: Mesh) -> int:
    """At least 500 and a multiple of the devices, so that a small training batch does not slow
    evaluation.
    """
    return max(batch_size, -(-500 // mesh.devices.size) * mesh.devices.size)
