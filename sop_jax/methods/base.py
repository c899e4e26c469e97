"""What a noisy-label method is: a frozen dataclass of pure functions.

To add one: one file, one config, one test. Letters: N examples, n training rows, B batch, K
classes, V views. `rows` is always a dict of arrays with one row per example: [B, ...] in a batch,
[n, ...] at an epoch's end.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sop_jax.errors import UserError
from sop_jax.general import ASYMMETRIC_KINDS

Rows = dict[str, jax.Array]


class Problem(NamedTuple):
    """What a method may know of its data before training."""

    num_classes: int  # K
    num_examples: int = 1  # n, the training rows
    noise_kind: str = "none"  # config.noise.kind
    noise_rate: float | None = None  # nominal share of redrawn labels; None where nobody knows it
    steps_per_epoch: int = 1
    epochs: int = 1

    @property
    def asymmetric(self) -> bool:
        """Whether a label's wrong value depends on its class."""
        return self.noise_kind in ASYMMETRIC_KINDS


class Batch(NamedTuple):
    """All that a loss may see. True labels are not here, and cannot be reached from here."""

    image: jax.Array  # [B, V, H, W, C] float, augmented and normalised, views as `Method.views`
    label: jax.Array  # [B] int32, the given labels
    index: jax.Array  # [B] int32, row in the table; the number of rows for a padded entry
    weight: jax.Array  # [B] float32, 1 for a real example and 0 for a padded one


class Clock(NamedTuple):
    """When a step happens."""

    epoch: jax.Array  # int32, epochs done
    progress: jax.Array  # float32, epochs done with the fraction of this one


class Epoch(NamedTuple):
    """What `on_epoch_end` sees: the training rows alone, as numbers, nothing padded or held out."""

    rows: Rows  # leaves [n, ...]
    label: jax.Array  # [n] int32, the given labels
    shared: Any  # the method's replicated state
    number: jax.Array  # int32, the epoch that ended, from 0
    key: jax.Array  # typed key of this epoch's end


class LossOut(NamedTuple):
    """What a loss hands back beside its value."""

    logits: jax.Array | None = None  # [B, K] of a plain weak view; None as `Method.plain_view` says
    # rows the loss computed itself (moving averages and the like), for `update_rows`
    rows: Any = ()
    metrics: Mapping[str, jax.Array] = {}  # the scalars named by `Method.metrics`


class Forward(Protocol):
    """The networks, as a loss or a score calls them. Batch statistics are the step's business."""

    def __call__(self, net: int, images: jax.Array, train: bool = True) -> jax.Array:
        """Logits float32 [M, K] of images [M, H, W, C] by network number `net`.

        With train=True (the default in a loss) batch-norm uses the batch's own statistics and
        updates the running ones, each call going on from the call before; with train=False (the
        default in `score`) it uses the running ones.
        """

    def features(self, net: int, images: jax.Array) -> jax.Array:
        """The input of the last layer, float32 [M, d], in evaluation mode."""


class Loss(Protocol):
    def __call__(
        self, forward: Forward, batch: Batch, rows: Rows, shared: Any, clock: Clock, key: jax.Array
    ) -> tuple[jax.Array, LossOut]:
        """(scalar, LossOut).

        `rows` are the gathered rows [B, ...], differentiated with the network parameters. The
        scalar is a sum over real rows (`batch.weight`) divided by the nominal B, so that row
        updates do not depend on how full a batch is. `key` is the step's own.
        """


class InitRows(Protocol):
    def __call__(self, key: jax.Array, labels: jax.Array) -> Rows:
        """Rows [N, ...] before the first step, from the given labels int32 [N]."""


class UpdateRows(Protocol):
    def __call__(self, rows: Rows, out: LossOut) -> Rows:
        """Rows [B, ...] to write back, from those that the optimiser left: projection, averages."""


class Score(Protocol):
    def __call__(self, forward: Forward, images: jax.Array, labels: jax.Array) -> Rows:
        """Row leaves [M, ...] of plain training images [M, H, W, C] with given labels [M].

        `forward` evaluates, unless it is called with train=True.
        """


class OnEpochEnd(Protocol):
    def __call__(self, epoch: Epoch) -> tuple[Rows, Any]:
        """(rows [n, ...], shared) for the next epoch, of the same structure."""


class NetworkTransform(Protocol):
    def __call__(
        self, transform: optax.GradientTransformation, steps_per_epoch: int
    ) -> optax.GradientTransformation:
        """The optimiser of the network parameters, made from the configured one."""


class Plan(Protocol):
    def __call__(
        self, rng: np.random.Generator, epoch: int, rows: dict[str, np.ndarray], shared: Any
    ) -> np.ndarray | None:
        """The batches of an epoch, int [steps_per_epoch, streams * B].

        They hold positions among the n training rows. A position occurs at most once in a batch; -1
        is a padded entry. Stream s of a batch is its entries [s * B, (s + 1) * B). None: the usual
        plan, every row once in random order (one stream only).
        """


class Active(Protocol):
    def __call__(self, clock: Clock) -> jax.Array:
        """bool [num_nets], who learns at this step.

        Of the others nothing moves: neither weights and batch statistics nor momentum and decay.
        """


class NoiseEstimate(Protocol):
    def __call__(self, rows: Rows, labels: jax.Array, num_classes: int) -> jax.Array:
        """s [n, K], given label minus estimated clean label, entries in [-1, 1]."""


class Diagnostics(Protocol):
    def __call__(self, rows: Rows, labels: jax.Array) -> dict[str, jax.Array]:
        """What the report draws of every row, {name: [n]}: the larger, the likelier it is wrong."""


class Defaults(Protocol):
    def __call__(self, problem: Problem) -> dict[str, Any]:
        """Values, published for the problem, of the method's own fields whose default is None."""


def no_rows(key: jax.Array, labels: jax.Array) -> Rows:
    """For methods without per-example state."""
    del key, labels
    return {}


def keep_rows(rows: Rows, out: LossOut) -> Rows:
    """Rows as the optimiser left them."""
    del out
    return rows


def same_transform(
    transform: optax.GradientTransformation, steps_per_epoch: int
) -> optax.GradientTransformation:
    """The configured optimiser as it is."""
    del steps_per_epoch
    return transform


def no_noise(rows: Rows, labels: jax.Array, num_classes: int) -> jax.Array:
    """A method that does not model the noise estimates none: zeros [n, K]."""
    del rows
    return jnp.zeros((labels.shape[0], num_classes))


def no_diagnostics(rows: Rows, labels: jax.Array) -> dict[str, jax.Array]:
    """Nothing to draw."""
    del rows, labels
    return {}


def no_defaults(problem: Problem) -> dict[str, Any]:
    """No field of the method depends on the problem."""
    del problem
    return {}


@dataclasses.dataclass(frozen=True)
class Method:
    """The contract between a method and the core, which knows no method by name.

    Attributes:
      loss: see `Loss`.
      init_rows: see `InitRows`.
      row_learning_rates: learning rate at B = 128 of each trained row leaf; leaves not named are
        not trained.
      update_rows: see `UpdateRows`.
      init_shared: () -> small replicated pytree, handed to every loss and to `on_epoch_end`.
      score: see `Score`; its leaves are written into the table before `on_epoch_end`. None: no such
        pass.
      on_epoch_end: see `OnEpochEnd`, once an epoch. None: nothing happens.
      network_transform: see `NetworkTransform`.
      plan: see `Plan`. None: every row once an epoch, in random order.
      streams: how many streams of B entries a batch of `plan` has.
      active: see `Active`. None: all networks learn at every step.
      noise_estimate, diagnostics, defaults: see `NoiseEstimate`, `Diagnostics`, `Defaults`.
      views: 'weak' or 'strong', each view of an image in a batch.
      plain_view: whether `LossOut.logits` are those of a plain weak view. False (mixup): they are
        None, and training accuracy and running margins come from a pass over the plain training
        images at the epoch's end.
      metrics: names of `LossOut.metrics`; their means over an epoch's steps stand in metrics.jsonl
        and TensorBoard.
      num_nets: networks trained together.
      exceptions: {name of a test of the common suite: why it cannot hold for this method}.
    """

    loss: Loss
    init_rows: InitRows = no_rows
    row_learning_rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
    update_rows: UpdateRows = keep_rows
    init_shared: Any = tuple
    score: Score | None = None
    on_epoch_end: OnEpochEnd | None = None
    network_transform: NetworkTransform = same_transform
    plan: Plan | None = None
    streams: int = 1
    active: Active | None = None
    noise_estimate: NoiseEstimate = no_noise
    diagnostics: Diagnostics = no_diagnostics
    defaults: Defaults = no_defaults
    views: tuple[str, ...] = ("weak",)
    plain_view: bool = True
    metrics: tuple[str, ...] = ()
    num_nets: int = 1
    exceptions: Mapping[str, str] = dataclasses.field(default_factory=dict)


class ExampleLoss(Protocol):
    def __call__(self, logits: jax.Array, labels: jax.Array) -> jax.Array:
        """The loss of each example [B], from logits [B, K] and given labels int32 [B]."""


def batch_mean(each: jax.Array, weight: jax.Array) -> jax.Array:
    """The sum of `each` [B] over real rows, over the nominal B; `weight` [B] is 0 for padding."""
    return jnp.sum(weight * each) / each.shape[0]


def of_example_loss(example_loss: ExampleLoss) -> Method:
    """A method without per-example state: `example_loss` on the weak view."""

    def loss(forward, batch, rows, shared, clock, key):
        logits = forward(0, batch.image[:, 0])
        return batch_mean(example_loss(logits, batch.label), batch.weight), LossOut(logits)

    return Method(loss=loss)


def check_one_row_each(rows: Rows, labels: jax.Array) -> None:
    """Raises UserError unless every leaf of `rows` has as many rows as there are labels."""
    for name, leaf in rows.items():
        if leaf.shape[0] != labels.shape[0]:
            raise UserError(
                f"the rows {name!r} have {leaf.shape[0]} entries for {labels.shape[0]} labels; a "
                "stored table is padded: pass the rows of these labels alone, "
                "table.gather(state.table, jnp.arange(num_examples))"
            )
