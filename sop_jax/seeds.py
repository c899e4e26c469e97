"""Several seeds of one config trained in one program, so that a small network fills the device.

A single seed is a group of one: its state, its program and its checkpoint are those of its
  experiment alone.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from sop_jax import config as configs
from sop_jax import experiment as experiments
from sop_jax import mesh as meshes
from sop_jax import step as steps
from sop_jax.data.dataset import Dataset
from sop_jax.experiment import Experiment
from sop_jax.step import Resident, TrainState


class Seeds(NamedTuple):
    """The states of several seeds, in the order of the group."""

    members: tuple[TrainState, ...]

    @property
    def step(self) -> jax.Array:
        """int32, updates done: every seed is at the same one."""
        return self.members[0].step


State = TrainState | Seeds


@dataclasses.dataclass(frozen=True)
class Group:
    """Experiments that differ in their seed alone: in their labels' noise, initialisation, order,
    augmentation.

    Attributes:
      members: one experiment a seed. They share images, compiled functions and everything else but
        labels and rows.
      abstract: shapes, dtypes and shardings of the group's state.
      run_steps: (state, resident, example, index) -> (state, losses), jitted; the old state is
        dead. One seed: as `steps.repeated`. R seeds: example, index [S, R, B] and losses [S, R].
    """

    members: tuple[Experiment, ...]
    abstract: State
    run_steps: Callable

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of each member."""
        return tuple(member.config.seed for member in self.members)

    @property
    def labels_sha256(self) -> str:
        """Hash of the given labels: the data set's own for one seed, else the hash of the seeds'
        hashes.
        """
        hashes = [member.dataset.noise.sha256 for member in self.members]
        return (
            hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
        )

    @property
    def plan_sharding(self) -> NamedSharding:
        """Of the arrays that `plan` returns."""
        return meshes.columns(self.members[0].mesh, _leading(self.members))

    def init(self) -> State:
        """The state before the first step."""
        return join([member.init() for member in self.members])

    def plan(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The batches of an epoch, (example, index): int32 [S, B] for one seed, [S, R, B] for R."""
        plans = [member.plan(epoch) for member in self.members]
        return (
            plans[0]
            if len(plans) == 1
            else tuple(np.stack(parts, axis=1) for parts in zip(*plans, strict=True))
        )

    def resident(self) -> Resident:
        """The images, once for all seeds, and the given labels, [N] for one seed, [R, N] for R; on
        every device.
        """
        copied = meshes.replicated(self.members[0].mesh)
        labels = [member.dataset.train.labels for member in self.members]
        return Resident(
            meshes.put(self.members[0].dataset.train.images, copied),
            meshes.put(labels[0] if len(labels) == 1 else np.stack(labels), copied),
        )

    def end_epoch(self, state: State, epoch: int) -> State:
        """The method's `on_epoch_end` on every seed; the old state is dead where it has one."""
        if self.members[0].end_epoch is None:
            return state
        return join(
            [m.end_epoch(s, epoch) for m, s in zip(self.members, split(state), strict=True)]
        )


def join(states: list[TrainState]) -> State:
    """The group's state from its seeds' states; the inverse of `split`."""
    return states[0] if len(states) == 1 else Seeds(tuple(states))


def split(state: State) -> tuple[TrainState, ...]:
    """The state of each seed."""
    return state.members if isinstance(state, Seeds) else (state,)


def build(config: ConfigDict, datasets: list[Dataset], mesh: Mesh) -> Group:
    """Builds the group of a resolved config from the data set of each of its seeds, in order.

    Raises:
      UserError: as `experiment.build`.
    """
    own = list(zip(configs.each_seed(config), datasets, strict=True))
    first = experiments.build(*own[0], mesh)
    members = tuple(
        dataclasses.replace(first, config=member, dataset=dataset) for member, dataset in own
    )
    make_run = (
        steps.repeated
        if len(members) == 1
        else {"unroll": _unrolled, "vmap": _vmapped}[config.seeds_by]
    )
    abstract = join([first.abstract] * len(members))
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    run_steps = steps.compile_steps(make_run(first.step), shardings, mesh, _leading(members))
    return Group(members, abstract, run_steps)


def _leading(members: tuple[Experiment, ...]) -> int:
    """How many axes a plan has before the batch's: steps and, of several seeds, seeds."""
    return 1 if len(members) == 1 else 2


def _unrolled(one: Callable) -> Callable:
    """Each step runs the step `one` of every seed, one after the other: what is compiled for a seed
    is as if alone.
    """

    def each(
        state: Seeds, resident: Resident, example: jax.Array, index: jax.Array
    ) -> tuple[Seeds, jax.Array]:
        done = [
            one(member, Resident(resident.images, resident.labels[r]), example[r], index[r])
            for r, member in enumerate(state.members)
        ]
        return Seeds(tuple(member for member, _ in done)), jnp.stack([loss for _, loss in done])

    return steps.repeated(each)


def _vmapped(one: Callable) -> Callable:
    """Each step is the step `one` batched over seeds; states are stacked before the S steps and
    parted after them.
    """

    each = jax.vmap(one, in_axes=(0, Resident(None, 0), 0, 0))

    def run(
        state: Seeds, resident: Resident, example: jax.Array, index: jax.Array
    ) -> tuple[Seeds, jax.Array]:
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *state.members)
        stacked, losses = steps.repeated(each)(stacked, resident, example, index)
        return Seeds(
            tuple(
                jax.tree.map(lambda leaf, r=r: leaf[r], stacked) for r in range(len(state.members))
            )
        ), losses

    return run
