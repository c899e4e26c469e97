"""Puts the parts together for one configuration and one data set: mesh, network, method, steps."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from sop_jax import methods, models
from sop_jax.data import pipeline
from sop_jax.data.augment import Augment
from sop_jax.data.dataset import Dataset
from sop_jax.data.pipeline import steps_per_dispatch
from sop_jax.errors import UserError
from sop_jax.evaluate import (
    OfImages,
    TrainingPass,
    make_features,
    make_predict,
    make_training_pass,
)
from sop_jax.fitting import fit
from sop_jax.limits import check_memory, check_sizes, size
from sop_jax.mesh import check_batch_size, fetch, put, replicated
from sop_jax.methods.base import Method, Problem
from sop_jax.models import Sample
from sop_jax.models.api import Classifier
from sop_jax.optimizer import make_optimizer, network_optimizer
from sop_jax.programs import (
    Init,
    Programs,
    compile_epoch_end,
    compile_init,
    compile_steps,
    repeated,
    step_from_plan,
)
from sop_jax.settings import complete, idle
from sop_jax.state import Resident, TrainState, flat, init_state, state_shardings
from sop_jax.step import EpochEnd, make_epoch_end, make_step
from sop_jax.table import padded, values

# Steps that a half network takes at least, where the run itself takes as many: with fewer it has
# learnt nothing yet on small sets.
CROSSFIT_STEPS = 250


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything a run needs that does not change while it trains.

    Attributes:
      config: resolved, every field that the run uses has a value.
      start: (key, given labels int32 [N]) -> TrainState, on the mesh, jitted.
      abstract: the state's shapes, dtypes and shardings.
      programs: the compiled steps.
      training_pass, epoch_end: what ends an epoch; None where the method has no such thing.
      predict: probs [R, K] of images. features: features [R, d] of the first network.
      classifier: parameters of a network -> (W [K, d], b [K]) of its last layer.
    """

    config: ConfigDict
    dataset: Dataset
    mesh: Mesh
    method: Method
    start: Init
    abstract: TrainState
    programs: Programs
    training_pass: TrainingPass | None
    epoch_end: EpochEnd | None
    predict: OfImages
    features: OfImages
    classifier: Classifier

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.dataset.class_names)

    @property
    def steps_per_epoch(self) -> int:
        """Updates in one pass over the training rows."""
        return pipeline.steps_per_epoch(len(self.dataset.train_index), self.config.batch_size)

    def init(self) -> TrainState:
        """The state before the first step."""
        labels = put(self.dataset.train.labels, replicated(self.mesh))
        return self.start(jax.random.key(self.config.seed), labels)

    def resident(self, images: jax.Array | None = None) -> Resident:
        """The training set on every device; `images`, flat, where they are there already."""
        copied = replicated(self.mesh)
        images = put(flat(self.dataset.train.images), copied) if images is None else images
        return Resident(images, put(self.dataset.train.labels, copied))

    def plan(self, state: TrainState, epoch: int) -> tuple[TrainState, np.ndarray, np.ndarray]:
        """The batches of an epoch: (state, example, index), both int32 [S, streams * B].

        A plan of the method's own is made from the rows as they are when the epoch begins; the
        state keeps it, so that a run stopped inside the epoch goes on with it.
        """
        trained, padded_index = self.dataset.train_index, padded(len(self.dataset.train.labels))
        usual = pipeline.epoch_plan(
            trained, self.config.batch_size, self.config.seed, epoch, padded_index
        )
        if self.method.plan is None:
            return state, *usual
        if int(state.step) % self.steps_per_epoch:
            index = fetch(state.plan)
        else:
            index = self._own_plan(state, epoch, padded_index)
            index = usual[1] if index is None else index
            state = state._replace(plan=put(index, replicated(self.mesh)))
        return state, pipeline.examples_of(index, padded_index, trained[0]), index

    def _own_plan(self, state: TrainState, epoch: int, padded_index: int) -> np.ndarray | None:
        """Table indices of the method's plan, made from the rows as they are now."""
        trained = self.dataset.train_index
        rows = {}
        for name, leaf in fetch(state.table).items():
            rows[name] = np.asarray(values(leaf[trained]))
        rng = np.random.default_rng([self.config.seed, epoch])
        positions = self.method.plan(rng, epoch, rows, fetch(state.shared))
        if positions is None:
            return None
        return pipeline.own_plan(positions, trained, self.abstract.plan.shape, padded_index)

    def end_epoch(self, state: TrainState, resident: Resident) -> TrainState:
        """What the method does after an epoch's last step; the old state may be dead."""
        if self.training_pass is not None:
            state = self.training_pass(state, resident, self.dataset.train_index)
        if self.epoch_end is not None:
            index = put(self.dataset.train_index, replicated(self.mesh))
            state = self.epoch_end(state, resident.labels, index)
        return state

    def of_seed(self, config: ConfigDict, dataset: Dataset) -> "Experiment":
        """The same programs for a config and data that differ in seed and given labels alone."""
        return dataclasses.replace(self, config=config, dataset=dataset)


def resolve(
    config: ConfigDict, dataset: Dataset, devices: Sequence[jax.Device] | None = None
) -> tuple[ConfigDict, list[str]]:
    """Fills the fields that depend on the data or the machine.

    Args:
      devices: those of the run; None: all of this machine.

    Returns:
      The resolved copy, and notes on what was chosen for the data, and by the method.

    Raises:
      UserError: a field that cannot be on this machine or with this data, or that the method
        refuses.
    """
    config = complete(config)
    devices = jax.devices() if devices is None else devices
    platform = devices[0].platform
    if config.dtype == "auto":
        config.dtype = "float32" if platform == "cpu" else "bfloat16"
    if platform == "cpu" and config.steps_per_dispatch > 1:
        raise UserError(
            f"config.steps_per_dispatch={config.steps_per_dispatch} on the CPU: XLA:CPU runs a "
            "convolution inside a loop about 40 times slower; set it to 1, or 0 to choose"
        )
    notes = fit(config, dataset, len(devices), idle(config))
    per_epoch = pipeline.steps_per_epoch(len(dataset.train_index), config.batch_size)
    if config.steps_per_dispatch == 0:
        config.steps_per_dispatch = 1 if platform == "cpu" else steps_per_dispatch(per_epoch)
    if config.crossfit_epochs is None:
        enough = min(config.epochs, -(-CROSSFIT_STEPS // per_epoch))
        config.crossfit_epochs = max(config.epochs // 5, enough)
    problem = problem_of(config, dataset)
    published = methods.from_config(config.method, problem).defaults(problem)
    for name, value in published.items():
        if config.method[name] is None:
            config.method[name] = value
            notes.append(
                f"method.{name} = {value} (the method's default for {problem.num_classes} classes, "
                f"noise.kind={problem.noise_kind!r}, {problem.epochs} epochs)"
            )
    return config, notes


def make_augment(config: ConfigDict, dataset: Dataset) -> Augment:
    """What is done to the training images of this data set."""
    a = config.augment
    mean, std = _statistics(dataset)
    return Augment(a.crop_padding, a.flip, a.strong, a.cutout, mean, std, a.alternating_flip)


def _statistics(dataset: Dataset) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) of pixels / 255 as plain numbers, so that they are constants of the program."""
    return tuple(map(float, dataset.mean)), tuple(map(float, dataset.std))


def problem_of(config: ConfigDict, dataset: Dataset) -> Problem:
    """What the method may know of its data."""
    num_examples = len(dataset.train_index)
    injected = config.noise.kind not in ("none", "human")
    return Problem(
        num_classes=len(dataset.class_names),
        num_examples=num_examples,
        noise_kind=config.noise.kind,
        noise_rate=config.noise.rate if injected else None,
        steps_per_epoch=pipeline.steps_per_epoch(num_examples, config.batch_size),
        epochs=config.epochs,
    )


def build(config: ConfigDict, dataset: Dataset, mesh: Mesh) -> Experiment:
    """Builds the experiment of a resolved config.

    Raises:
      UserError: the batch does not fit the devices, or a field does not fit the data.
    """
    check_batch_size(config.batch_size, mesh)
    problem = problem_of(config, dataset)
    num_classes, per_epoch = problem.num_classes, problem.steps_per_epoch
    method = methods.from_config(config.method, problem)
    check_sizes(config, dataset, method.views, mesh.devices.size)
    mean, std = _statistics(dataset)

    def sample():
        return Sample(dataset.train.images[dataset.train_index[:5000]], mean, std)

    model = models.from_config(config.model, num_classes, jnp.dtype(config.dtype), sample)
    network = method.network_transform(network_optimizer(config, per_epoch), per_epoch)
    optimiser = make_optimizer(network, method.row_learning_rates, config.batch_size)
    image_shape = dataset.train.images.shape[1:]
    plan_shape = (per_epoch, method.streams * config.batch_size)

    def init(key, labels):
        return init_state(
            key,
            method,
            model,
            optimiser,
            image_shape,
            labels,
            num_classes,
            config.track_predictions,
            plan_shape if method.plan is not None else None,
        )

    shapes = jax.eval_shape(init, jax.random.key(0), jnp.asarray(dataset.train.labels))
    check_memory(memory_of(shapes, dataset, mesh), mesh)
    shardings = state_shardings(shapes, mesh)
    step = make_step(method, model, optimiser, per_epoch, mesh)
    augment = make_augment(config, dataset)
    one = step_from_plan(step, augment, method.views, per_epoch, image_shape)
    epoch_end = None
    if method.on_epoch_end is not None:
        epoch_end = compile_epoch_end(make_epoch_end(method, per_epoch), shardings)
    images_per_batch = _eval_batch_size(config.batch_size, mesh)
    of_images = (image_shape, mean, std, mesh, images_per_batch)
    return Experiment(
        config=config,
        dataset=dataset,
        mesh=mesh,
        method=method,
        start=compile_init(init, shardings),
        abstract=jax.tree.map(_with_sharding, shapes, shardings),
        programs=Programs(compile_steps(repeated(one), shardings, mesh)),
        training_pass=make_training_pass(method, model, *of_images, per_epoch, shardings),
        epoch_end=epoch_end,
        predict=make_predict(model, *of_images),
        features=make_features(model, *of_images),
        classifier=model.classifier,
    )


def memory_of(state: TrainState, dataset: Dataset, mesh: Mesh) -> dict[str, int]:
    """Bytes on every device, by part; activations are not counted. `state`: shapes will do."""
    network = (state.params, state.model_state, state.opt_state)
    return {
        "network and optimiser": size(network),
        "gradients": size(state.params),
        "rows": size((state.table, state.tracker)) // mesh.devices.size,
        "images": dataset.train.images.nbytes + dataset.test.images.nbytes,
    }


def _with_sharding(shape: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)


def _eval_batch_size(batch_size: int, mesh: Mesh) -> int:
    """At least 500 and a multiple of the devices, so a small batch does not slow evaluation."""
    return max(batch_size, -(-500 // mesh.devices.size) * mesh.devices.size)
