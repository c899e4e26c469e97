"""The state of training: networks, optimiser, the rows of every example, the sums of the epoch."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from sop_jax.mesh import by_rows, replicated
from sop_jax.methods.base import Method
from sop_jax.models.api import Model
from sop_jax.table import create

# Folded into the key of the run, so that no draw depends on another.
KEY_INIT, KEY_AUGMENT, KEY_EPOCH_END, KEY_LOSS = 0, 1, 2, 3


class Resident(NamedTuple):
    """A training set that lives on the devices, replicated: picking a batch moves nothing."""

    images: jax.Array  # [N, H * W * C] uint8, see `flat`
    labels: jax.Array  # [N] int32, the given labels


def flat(images: np.ndarray) -> np.ndarray:
    """[N, H * W * C] of images [N, H, W, C], as they lie on the devices: a row each.

    A TPU looks up rows; images in another layout it would copy, all of them, at every dispatch.
    """
    return images.reshape(len(images), -1)


class Sums(NamedTuple):
    """Running sums of the epoch; in the state, so that a run killed inside one loses none."""

    loss: jax.Array  # sum over steps of the batch loss
    steps: jax.Array  # number of steps
    correct: jax.Array  # examples whose plain-view prediction equals the given label
    rows: jax.Array  # examples seen
    metrics: dict  # sum over steps of each of the method's own metrics


class TrainState(NamedTuple):
    """Everything that training changes.

    `table` and `tracker` are sharded by rows, the rest is replicated.
    """

    step: jax.Array  # int32, updates done
    params: tuple  # one tree per network
    model_state: tuple  # batch statistics, one tree per network
    opt_state: Any
    table: dict  # the method's rows, leaves [N_padded, ...]
    tracker: dict  # rows kept for every method, see `track`
    shared: Any  # the method's small replicated state
    sums: Sums
    key: jax.Array  # typed key of the run; never changes, folded with the step, the epoch, the row
    plan: Any  # a method's own plan of this epoch, int32 [S, streams * B]; () where it has none


def epoch_sums(metrics: Sequence[str] = ()) -> Sums:
    """Sums at the start of an epoch; `metrics` are the names of the method's own."""
    own = {name: jnp.float32(0) for name in metrics}
    return Sums(jnp.float32(0), jnp.int32(0), jnp.int32(0), jnp.int32(0), own)


def init_tracker(num_rows: int, num_classes: int, track_predictions: bool = True) -> dict:
    """Tracker rows of N examples, all zeros; `probs` only with `track_predictions`."""
    rows = {
        "margin": jnp.zeros((num_rows, 1)),
        "prediction": jnp.zeros((num_rows, 1), jnp.int32),
    }
    return rows | {"probs": jnp.zeros((num_rows, num_classes))} if track_predictions else rows


def track(rows: dict, logits: jax.Array, labels: jax.Array, epoch: jax.Array) -> dict:
    """Updates the tracker's rows from a plain view's logits [B, K], for every method alike.

    margin [B, 1]: mean over epochs of the given label's logit minus the largest other (AUM,
      Pleiss et al. 2020).
    probs [B, K], if kept: mean over epochs of softmax(logits). The early ones, before a network
      has memorised the wrong labels, are in it: a window of the last would not show those.
    prediction [B, 1]: int32, the latest argmax.
    """
    logits = jax.lax.stop_gradient(logits)
    given = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    own = jnp.max(jnp.where(given, logits, -jnp.inf), -1)
    margin = own - jnp.max(jnp.where(given, -jnp.inf, logits), -1)
    epochs_seen = (epoch + 1).astype(rows["margin"].dtype)
    tracked = {
        "margin": rows["margin"] + (margin[:, None] - rows["margin"]) / epochs_seen,
        "prediction": jnp.argmax(logits, axis=-1, keepdims=True).astype(jnp.int32),
    }
    if "probs" in rows:
        moved = (jax.nn.softmax(logits) - rows["probs"]) / epochs_seen
        tracked["probs"] = rows["probs"] + moved
    return tracked


def init_state(
    key: jax.Array,
    method: Method,
    model: Model,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, int, int],
    labels: jax.Array,
    num_classes: int,
    track_predictions: bool = True,
    plan_shape: tuple[int, int] | None = None,
) -> TrainState:
    """The state before the first step.

    Args:
      labels: the given ones, int32 [N].
      plan_shape: [S, streams * B] of the plans of a method that has its own.
    """
    split = jax.random.split(jax.random.fold_in(key, KEY_INIT), method.num_nets + 1)
    networks = [model.init(key_net, image_shape) for key_net in split[1:]]
    params = tuple(own for own, _ in networks)
    rows = method.init_rows(split[0], labels)
    trained = {name: rows[name][:1] for name in method.row_learning_rates}
    return TrainState(
        step=jnp.int32(0),
        params=params,
        model_state=tuple(own for _, own in networks),
        opt_state=optimizer.init({"network": params, "rows": trained}),
        table=create(rows),
        tracker=create(init_tracker(labels.shape[0], num_classes, track_predictions)),
        shared=method.init_shared(),
        sums=epoch_sums(method.metrics),
        key=key,
        plan=() if plan_shape is None else jnp.zeros(plan_shape, jnp.int32),
    )


def count_correct(tracked: dict, label: jax.Array, weight: jax.Array) -> jax.Array:
    """int32, real examples whose tracked prediction equals the given label."""
    right = (tracked["prediction"][:, 0] == label).astype(weight.dtype)
    return jnp.sum(weight * right).astype(jnp.int32)


def state_shardings(abstract: TrainState, mesh: Mesh) -> TrainState:
    """Sharding of every leaf: its field's name decides. `abstract` is of `jax.eval_shape`."""

    def of_field(name: str, field: Any) -> Any:
        own = by_rows(mesh) if name in ("table", "tracker") else replicated(mesh)
        return jax.tree.map(lambda _: own, field)

    return TrainState(*map(of_field, TrainState._fields, abstract))
