"""The training step: gather rows, differentiate, update, project, scatter. State in, state out.

Plain single-device code: shardings are stated once, on the state and on the index arrays, by
`compile_steps`. Nothing of size N is created in a step; donated, the table is updated in place.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from sop_jax import compiler
from sop_jax import mesh as meshes
from sop_jax import table as tables
from sop_jax.data import augment as augmentation
from sop_jax.methods.base import Batch, Method
from sop_jax.models.api import Model


class Resident(NamedTuple):
    """A training set that lives on the devices, replicated, so that picking a batch moves nothing
    between them.
    """

    images: jax.Array  # [N, H, W, C] uint8
    labels: jax.Array  # [N] int32, the given labels


class Sums(NamedTuple):
    """Running sums of the epoch; in the state, so that a run killed inside an epoch loses none of
    them.
    """

    loss: jax.Array  # sum over steps of the batch loss
    steps: jax.Array  # number of steps
    correct: jax.Array  # rows whose weak-view prediction equals the given label
    rows: jax.Array  # rows seen


class TrainState(NamedTuple):
    """Everything that training changes. `table` and `tracker` are sharded by rows, the rest is
    replicated.
    """

    step: jax.Array  # int32, updates done
    params: tuple  # one tree per network
    model_state: tuple  # batch statistics, one tree per network
    opt_state: Any
    table: dict  # the method's rows, leaves [N_padded, ...]
    tracker: dict  # rows kept for every method, see `track`
    shared: Any  # the method's small replicated state
    sums: Sums
    # typed key of the run; never changes, folded with the step, the epoch and the row
    key: jax.Array


def epoch_sums() -> Sums:
    """Sums at the start of an epoch."""
    return Sums(jnp.float32(0), jnp.int32(0), jnp.int32(0), jnp.int32(0))


def init_tracker(num_rows: int, num_classes: int, track_predictions: bool = True) -> dict:
    """Tracker rows of N examples, all zeros; `probs` only with `track_predictions`."""
    rows = {"margin": jnp.zeros((num_rows, 1)), "prediction": jnp.zeros((num_rows, 1), jnp.int32)}
    return rows | {"probs": jnp.zeros((num_rows, num_classes))} if track_predictions else rows


def track(
    rows: dict, logits: jax.Array, labels: jax.Array, epoch: jax.Array, window_start: int
) -> dict:
    """Updates the tracker's rows from the weak view's training logits [B, K], for every method
    alike.

    margin [B, 1]: mean over epochs of the given label's logit minus the largest other (AUM, Pleiss
    et al. 2020). probs [B, K], if kept: mean over the epochs from `window_start` on of
    softmax(logits); before that, the latest. prediction [B, 1]: int32, the latest argmax.
    """
    logits = jax.lax.stop_gradient(logits)
    given = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    margin = jnp.max(jnp.where(given, logits, -jnp.inf), -1) - jnp.max(
        jnp.where(given, -jnp.inf, logits), -1
    )
    tracked = {
        "margin": rows["margin"] + (margin[:, None] - rows["margin"]) / (epoch + 1),
        "prediction": jnp.argmax(logits, axis=-1, keepdims=True).astype(jnp.int32),
    }
    if "probs" in rows:
        probs_seen = jnp.maximum(epoch - window_start, 0) + 1
        tracked["probs"] = rows["probs"] + (jax.nn.softmax(logits) - rows["probs"]) / probs_seen
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
) -> TrainState:
    """The state before the first step; `labels` are the given ones, int32 [N]."""
    key_rows, *key_nets = jax.random.split(jax.random.fold_in(key, 0), method.num_nets + 1)
    networks = [model.init(k, image_shape) for k in key_nets]
    params = tuple(p for p, _ in networks)
    rows = method.init_rows(key_rows, labels)
    trained = {name: rows[name][:1] for name in method.row_learning_rates}
    return TrainState(
        step=jnp.int32(0),
        params=params,
        model_state=tuple(s for _, s in networks),
        opt_state=optimizer.init({"network": params, "rows": trained}),
        table=tables.create(rows),
        tracker=tables.create(init_tracker(labels.shape[0], num_classes, track_predictions)),
        shared=method.init_shared(),
        sums=epoch_sums(),
        key=key,
    )


def make_step(
    method: Method,
    apply: Callable,
    optimizer: optax.GradientTransformation,
    steps_per_epoch: int,
    window_start: int = 0,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict]]:
    """The step as a pure function (state, batch) -> (state, metrics).

    Args:
      apply: (params, model_state, images [M,H,W,C], train) -> (logits [M,K], model_state), as
        `Model.apply`.
      optimizer: made by `make_optimizer`, over {"network": params, "rows": trained rows of the
        batch}.
      steps_per_epoch: the step number divided by it is the epoch.
      window_start: first epoch of the tracker's mean prediction.

    Returns:
      The step. Its metrics are {"loss": scalar}; the epoch's sums travel in the state.
    """
    trained_names = tuple(method.row_learning_rates)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict]:
        chex.assert_rank([batch.image, batch.label, batch.index, batch.weight], [5, 1, 1, 1])
        epoch = state.step // steps_per_epoch
        rows = tables.gather(state.table, batch.index)
        fixed = {name: row for name, row in rows.items() if name not in trained_names}

        def objective(variables):
            def forward(net, images):
                return apply(variables["network"][net], state.model_state[net], images, True)

            key = jax.random.fold_in(state.key, state.step)
            return method.loss(forward, batch, {**fixed, **variables["rows"]}, state.shared, key)

        variables = {"network": state.params, "rows": {name: rows[name] for name in trained_names}}
        (loss, out), gradients = jax.value_and_grad(objective, has_aux=True)(variables)
        updates, opt_state = optimizer.update(gradients, state.opt_state, variables)
        variables = optax.apply_updates(variables, updates)
        rows = method.update_rows({**fixed, **variables["rows"]}, out)

        tracked = track(
            tables.gather(state.tracker, batch.index), out.logits, batch.label, epoch, window_start
        )
        correct = jnp.sum(batch.weight * (tracked["prediction"][:, 0] == batch.label)).astype(
            jnp.int32
        )
        sums = jax.tree.map(
            lambda s: jnp.where(state.step % steps_per_epoch == 0, 0, s), state.sums
        )
        return TrainState(
            step=state.step + 1,
            params=variables["network"],
            model_state=out.model_state,
            opt_state=opt_state,
            table=tables.scatter(state.table, batch.index, rows),
            tracker=tables.scatter(state.tracker, batch.index, tracked),
            shared=state.shared,
            sums=Sums(
                sums.loss + loss.astype(jnp.float32),
                sums.steps + 1,
                sums.correct + correct,
                sums.rows + jnp.sum(batch.weight).astype(jnp.int32),
            ),
            key=state.key,
        ), {"loss": loss}

    return step


def make_batch(
    augment: augmentation.Augment,
    num_views: int,
    key: jax.Array,
    epoch: jax.Array,
    resident: Resident,
    example: jax.Array,
    index: jax.Array,
    num_rows: int,
) -> Batch:
    """Builds a batch on the devices from example numbers and table indices, both int32 [B] (see
    data/pipeline.py).
    """
    key = jax.random.fold_in(key, 1)
    keys = augmentation.example_keys(key, epoch, example)
    mirror = (
        augmentation.alternating_mirror(key, epoch, example) if augment.alternating_flip else None
    )
    return Batch(
        image=augmentation.views(augment, keys, resident.images[example], num_views, mirror),
        label=resident.labels[example],
        index=index,
        weight=(index < num_rows).astype(jnp.float32),
    )


def state_shardings(abstract: TrainState, mesh: Mesh) -> TrainState:
    """Sharding of every leaf: the field's name decides. `abstract` comes from `jax.eval_shape`."""
    by_field = {
        name: meshes.rows(mesh) if name in ("table", "tracker") else meshes.replicated(mesh)
        for name in TrainState._fields
    }
    return TrainState(
        *(
            jax.tree.map(lambda _, s=by_field[name]: s, leaf)
            for name, leaf in zip(TrainState._fields, abstract, strict=True)
        )
    )


def compile_init(init: Callable, shardings: TrainState) -> Callable:
    """Jits an initialiser onto the mesh."""
    return jax.jit(init, out_shardings=shardings, compiler_options=compiler.options_for_one_run())


def step_from_plan(
    step: Callable, augment: augmentation.Augment, num_views: int, steps_per_epoch: int
) -> Callable:
    """The step with the making of its batch: (state, resident, example [B], index [B]) -> (state,
    loss).
    """

    def one(state: TrainState, resident: Resident, example: jax.Array, index: jax.Array):
        num_rows = jax.tree.leaves(state.tracker)[0].shape[0]
        epoch = state.step // steps_per_epoch
        batch = make_batch(augment, num_views, state.key, epoch, resident, example, index, num_rows)
        state, metrics = step(state, batch)
        return state, metrics["loss"]

    return one


def repeated(one: Callable) -> Callable:
    """Any step `one` from plans to a run of S of them: (state, resident, example [S, ...], index)
    -> (state, losses).

    On the CPU keep S = 1: XLA:CPU runs a convolution inside a loop body about 40 times slower.
    """

    def run(state: Any, resident: Resident, example: jax.Array, index: jax.Array):
        if example.shape[0] == 1:
            state, loss = one(state, resident, example[0], index[0])
            return state, loss[None]
        return jax.lax.scan(lambda s, plan: one(s, resident, *plan), state, (example, index))

    return run


def compile_steps(run: Callable, shardings: Any, mesh: Mesh, leading: int = 1) -> Callable:
    """Jits `run` of `repeated`, one device call for its S steps; the old state is donated, so dead.

    `shardings` is a tree like the state; `leading` says how many axes a plan has before the
    batch's.
    """
    copied, split = meshes.replicated(mesh), meshes.columns(mesh, leading)
    return jax.jit(
        run,
        donate_argnums=0,
        in_shardings=(shardings, Resident(copied, copied), split, split),
        out_shardings=(shardings, copied),
        compiler_options=compiler.options_for_steps(),
    )
