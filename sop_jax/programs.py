"""From a step to compiled programs on the mesh: the making of batches, scans, shardings."""

import time
from typing import Protocol

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from sop_jax.compiler import options_for_one_run, options_for_steps
from sop_jax.data.augment import Augment, alternating_mirror, example_keys, views
from sop_jax.mesh import by_batch, platform, replicated
from sop_jax.methods.base import Batch
from sop_jax.state import KEY_AUGMENT, Resident, TrainState
from sop_jax.step import EpochEnd, Step


def make_batch(
    augment: Augment,
    names: tuple[str, ...],
    key: jax.Array,
    epoch: jax.Array,
    resident: Resident,
    example: jax.Array,
    index: jax.Array,
    num_rows: int,
    image_shape: tuple[int, int, int],
) -> Batch:
    """Builds a batch on the devices.

    Args:
      names: 'weak' or 'strong' of each view.
      key: typed key of the run.
      example, index: int32 [B], which images and which rows of the table (see data/pipeline.py).
      num_rows: of the padded table.
      image_shape: (H, W, C).
    """
    key = jax.random.fold_in(key, KEY_AUGMENT)
    keys = example_keys(key, epoch, example)
    mirror = alternating_mirror(key, epoch, example) if augment.alternating_flip else None
    images = resident.images[example].reshape(-1, *image_shape)
    return Batch(
        image=views(augment, keys, images, names, mirror),
        label=resident.labels[example],
        index=index,
        weight=(index < num_rows).astype(jnp.float32),
    )


class PlannedStep(Protocol):
    def __call__(
        self, state: TrainState, resident: Resident, example: jax.Array, index: jax.Array
    ) -> tuple[TrainState, jax.Array]:
        """(new state, loss) from example, index int32 [B]; of S steps: from [S, B], losses [S]."""


def step_from_plan(
    step: Step,
    augment: Augment,
    names: tuple[str, ...],
    steps_per_epoch: int,
    image_shape: tuple[int, int, int],
) -> PlannedStep:
    """The step with the making of its batch, whose views are `names`."""

    def one(state: TrainState, resident: Resident, example: jax.Array, index: jax.Array):
        num_rows = jax.tree.leaves(state.tracker)[0].shape[0]
        epoch = state.step // steps_per_epoch
        batch = make_batch(
            augment, names, state.key, epoch, resident, example, index, num_rows, image_shape
        )
        state, record = step(state, batch)
        return state, record["loss"]

    return one


def repeated(one: PlannedStep) -> PlannedStep:
    """S steps in one call: a scan, but for a single step, which XLA:CPU runs far faster outside."""

    def run(state: TrainState, resident: Resident, example: jax.Array, index: jax.Array):
        if example.shape[0] == 1:
            state, loss = one(state, resident, example[0], index[0])
            return state, loss[None]
        return jax.lax.scan(lambda s, plan: one(s, resident, *plan), state, (example, index))

    return run


class Init(Protocol):
    def __call__(self, key: jax.Array, labels: jax.Array) -> TrainState:
        """The state before the first step, from the run's typed key and given labels int32 [N]."""


def compile_init(init: Init, shardings: TrainState) -> Init:
    """Jits an initialiser onto the mesh."""
    return jax.jit(init, out_shardings=shardings, compiler_options=options_for_one_run())


def compile_epoch_end(end: EpochEnd, shardings: TrainState) -> EpochEnd:
    """Jits an epoch's end; the old state is donated, so dead."""
    return jax.jit(end, donate_argnums=0, out_shardings=shardings)


def compile_steps(run: PlannedStep, shardings: TrainState, mesh: Mesh) -> PlannedStep:
    """Jits `run` of `repeated`, one device call for its S steps; the old state is donated, so dead.

    `shardings` is a tree like the state.
    """
    copied, split = replicated(mesh), by_batch(mesh)
    return jax.jit(
        run,
        donate_argnums=0,
        in_shardings=(shardings, Resident(copied, copied), split, split),
        out_shardings=(shardings, copied),
        compiler_options=options_for_steps(platform(mesh)),
    )


class Programs:
    """The compiled steps: one program for each number of steps a call, counting their seconds.

    Runs that differ in their seed alone share them.
    """

    def __init__(self, run_steps: PlannedStep):
        self._run_steps = run_steps
        self._compiled: dict[int, PlannedStep] = {}
        self.compile_seconds = 0.0

    def __call__(
        self, state: TrainState, resident: Resident, example: jax.Array, index: jax.Array
    ) -> tuple[TrainState, jax.Array]:
        """Runs the S steps of example, index int32 [S, B], on the mesh; losses are float32 [S]."""
        compiled = self._compiled.get(len(example))
        if compiled is None:
            start = time.perf_counter()
            compiled = self.lower(state, resident, example, index).compile()
            self._compiled[len(example)] = compiled
            self.compile_seconds += time.perf_counter() - start
        return compiled(state, resident, example, index)

    def lower(
        self, state: TrainState, resident: Resident, example: jax.Array, index: jax.Array
    ) -> jax.stages.Lowered:
        """The program of such a call before it is compiled: its text, and what it costs."""
        return self._run_steps.lower(state, resident, example, index)
