"""What a noisy-label method is: a frozen dataclass of pure functions. Add one in one file, one
config, one test.

Letters: N examples, B batch, K classes, V views.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Batch(NamedTuple):
    """All that a loss may see. True labels are not here, and cannot be reached from here."""

    image: jax.Array  # [B, V, H, W, C] float, augmented and normalised
    label: jax.Array  # [B] int32, the given labels
    index: jax.Array  # [B] int32, row in the table; the number of rows for a padded entry
    weight: jax.Array  # [B] float32, 1 for a real example and 0 for a padded one


class LossOut(NamedTuple):
    """What a loss hands back beside its value."""

    logits: jax.Array  # [B, K] of the weak view, for training accuracy and the running margin
    model_state: tuple  # new batch statistics, one entry per network
    # rows the loss computed itself (moving averages and the like), for `update_rows`
    rows: Any = ()


# (network, images [M,H,W,C]) -> (logits, model_state)
Forward = Callable[[int, jax.Array], tuple[jax.Array, Any]]


def no_rows(key: jax.Array, labels: jax.Array) -> dict:
    """For methods without per-example state."""
    del key, labels
    return {}


def keep_rows(rows: Any, out: LossOut) -> Any:
    """Rows as the optimiser left them."""
    del out
    return rows


def keep_epoch(table: Any, shared: Any, epoch: jax.Array) -> tuple[Any, Any]:
    """Nothing to do at an epoch's end."""
    del epoch
    return table, shared


def no_noise(rows: Any, labels: jax.Array, num_classes: int) -> jax.Array:
    """A method that does not model the noise estimates none: zeros [N, K]."""
    del rows
    return jnp.zeros((labels.shape[0], num_classes))


@dataclasses.dataclass(frozen=True)
class Method:
    """The contract between a method and `step.py`.

    Attributes:
      loss: (forward, batch, rows, shared, key) -> (scalar, LossOut). `rows` are the gathered rows
        [B, ...] and are differentiated together with the network parameters. The value is a sum
        over real rows divided by the nominal B, so that row updates do not depend on how full a
        batch is.
      init_rows: (key, given labels int32 [N]) -> dict of row leaves [N, ...].
      row_learning_rates: learning rate at B = 128 of each trained row leaf; leaves not named are
        not trained.
      update_rows: (rows [B, ...] after the optimiser, LossOut) -> rows: projection, moving
        averages.
      on_epoch_end: (table, shared, epoch) -> (table, shared), once an epoch.
      init_shared: () -> small replicated pytree handed to every loss (forget rates, priors).
      noise_estimate: (rows [N, ...], given labels [N], K) -> s [N, K], given label minus estimated
        clean label.
      num_nets, num_views: networks trained together; views of each image in a batch (1: weak, 2:
        weak and strong).
    """

    loss: Callable
    init_rows: Callable = no_rows
    row_learning_rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
    update_rows: Callable = keep_rows
    on_epoch_end: Callable = keep_epoch
    init_shared: Callable = tuple
    noise_estimate: Callable = no_noise
    num_nets: int = 1
    num_views: int = 1


def of_example_loss(example_loss: Callable[[jax.Array, jax.Array], jax.Array]) -> Method:
    """A method without per-example state: the weak view's logits [B, K] and given labels [B] go to
    losses [B].
    """

    def loss(forward, batch, rows, shared, key):
        logits, model_state = forward(0, batch.image[:, 0])
        each = example_loss(logits, batch.label)
        return jnp.sum(batch.weight * each) / batch.label.shape[0], LossOut(logits, (model_state,))

    return Method(loss=loss)
