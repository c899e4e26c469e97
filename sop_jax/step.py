"""The training step: gather rows, differentiate, update, project, scatter. State in, state out.

Single-device code but for the exchange of rows (`exchange.py`): shardings are stated once, on the
state and on the index arrays, in `programs.py`. Nothing of size N is created in a step; donated,
the table is updated in place.
"""

import functools
import itertools
from typing import Any, Protocol

import chex
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.tree_util import DictKey, SequenceKey

from sop_jax.exchange import Exchange
from sop_jax.methods.base import Batch, Clock, Epoch, LossOut, Method
from sop_jax.models.api import Model
from sop_jax.state import KEY_EPOCH_END, KEY_LOSS, Sums, TrainState, count_correct, track
from sop_jax.table import gather, scatter


class Networks:
    """The networks as a method calls them (`methods.base.Forward`).

    Batch statistics go on from call to call; after the last, `model_state` holds the newest.
    """

    def __init__(self, model: Model, params: tuple, model_state: tuple, train: bool):
        self._model, self._params, self._train = model, params, train
        self.model_state = list(model_state)

    def __call__(self, net: int, images: jax.Array, train: bool | None = None) -> jax.Array:
        """Logits float32 [M, K]; `train` None is True in a loss and False in a score."""
        train = self._train if train is None else train
        logits, self.model_state[net] = self._model.apply(
            self._params[net], self.model_state[net], images, train
        )
        return logits

    def features(self, net: int, images: jax.Array) -> jax.Array:
        """The input of the last layer, float32 [M, d], in evaluation mode."""
        return self._model.features(self._params[net], self.model_state[net], images)


class Step(Protocol):
    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict]:
        """One update: (new state, {"loss": scalar})."""


def make_step(
    method: Method,
    model: Model,
    optimizer: optax.GradientTransformation,
    steps_per_epoch: int,
    mesh: Mesh | None = None,
) -> Step:
    """The step as a pure function (state, batch) -> (state, record).

    Args:
      optimizer: made by `make_optimizer`, over {"network": params, "rows": trained rows}.
      steps_per_epoch: the step number divided by it is the epoch.
      mesh: of the devices that the table and the batch are spread over; None for one device.

    Returns:
      The step. Its record is {"loss": scalar}; the epoch's sums travel in the state.
    """
    trained_names = tuple(method.row_learning_rates)
    exchange = Exchange(mesh)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict]:
        chex.assert_rank([batch.image, batch.label, batch.index, batch.weight], [5, 1, 1, 1])
        epoch = state.step // steps_per_epoch
        clock = Clock(epoch, state.step.astype(jnp.float32) / steps_per_epoch)
        key = jax.random.fold_in(jax.random.fold_in(state.key, KEY_LOSS), state.step)
        kept = {"rows": state.table, "tracker": state.tracker if method.plain_view else {}}
        taken = exchange.gather(kept, batch.index)
        rows = taken["rows"]
        fixed = {name: leaf for name, leaf in rows.items() if name not in trained_names}

        def objective(variables):
            forward = Networks(model, variables["network"], state.model_state, train=True)
            own_rows = {**fixed, **variables["rows"]}
            loss, out = method.loss(forward, batch, own_rows, state.shared, clock, key)
            return loss, (out, tuple(forward.model_state))

        variables = {"network": state.params, "rows": {name: rows[name] for name in trained_names}}
        gradient_of = jax.value_and_grad(objective, has_aux=True)
        (loss, (out, model_state)), gradients = gradient_of(variables)
        _check(method, out)
        updates, opt_state = optimizer.update(gradients, state.opt_state, variables)
        variables = optax.apply_updates(variables, updates)
        params = variables["network"]
        if method.active is not None:
            learns = method.active(clock)
            params = _hold(learns, params, state.params)
            model_state = _hold(learns, model_state, state.model_state)
            opt_state = _hold_optimizer(learns, opt_state, state.opt_state)
        rows = method.update_rows({**fixed, **variables["rows"]}, out)

        tracked, correct = {}, jnp.int32(0)
        if method.plain_view:
            tracked = track(taken["tracker"], out.logits, batch.label, epoch)
            correct = count_correct(tracked, batch.label, batch.weight)
        kept = exchange.scatter(kept, batch.index, {"rows": rows, "tracker": tracked})
        first = state.step % steps_per_epoch == 0
        sums = jax.tree.map(
            lambda total: jnp.where(first, jnp.zeros_like(total), total), state.sums
        )
        return TrainState(
            step=state.step + 1,
            params=params,
            model_state=model_state,
            opt_state=opt_state,
            table=kept["rows"],
            tracker=kept["tracker"] if method.plain_view else state.tracker,
            shared=state.shared,
            sums=Sums(
                sums.loss + loss.astype(jnp.float32),
                sums.steps + 1,
                sums.correct + correct,
                sums.rows + jnp.sum(batch.weight).astype(jnp.int32),
                {name: sums.metrics[name] + out.metrics[name] for name in method.metrics},
            ),
            key=state.key,
            plan=state.plan,
        ), {"loss": loss}

    return step


def _check(method: Method, out: LossOut) -> None:
    """Raises ValueError, while the step is traced, where a loss does not keep its method's word."""
    if (out.logits is not None) != method.plain_view:
        raise ValueError(
            f"Method.plain_view is {method.plain_view}, but LossOut.logits is "
            f"{'None' if out.logits is None else 'given'}: one of them is wrong"
        )
    if set(out.metrics) != set(method.metrics):
        raise ValueError(
            f"Method.metrics names {sorted(method.metrics)}, but LossOut.metrics holds "
            f"{sorted(out.metrics)}: they must be the same"
        )


def _hold(learns: jax.Array, new: tuple, old: tuple) -> tuple:
    """One tree per network: `new` where it learns (bool [num_nets]), `old` where it does not."""
    return tuple(
        jax.tree.map(functools.partial(jnp.where, learns[net]), now, before)
        for net, (now, before) in enumerate(zip(new, old, strict=True))
    )


def _hold_optimizer(learns: jax.Array, new: Any, old: Any) -> Any:
    """The optimiser's `new` state, with what belongs to a network that does not learn as in `old`.

    A leaf belongs to network i where ("network", i) is in its path, as in the variables. What
    belongs to none, such as the count of a schedule, goes on.
    """

    def choose(path, now, before):
        for part, place in itertools.pairwise(path):
            if part == DictKey("network") and isinstance(place, SequenceKey):
                return jnp.where(learns[place.idx], now, before)
        return now

    return jax.tree_util.tree_map_with_path(choose, new, old)


class EpochEnd(Protocol):
    def __call__(self, state: TrainState, labels: jax.Array, index: jax.Array) -> TrainState:
        """The state with the rows and the shared state of the next epoch.

        Args:
          labels: the given labels int32 [N]. index: int32 [n], the training rows.
        """


def make_epoch_end(method: Method, steps_per_epoch: int) -> EpochEnd:
    """`method.on_epoch_end` as a function of the state after an epoch's last step."""

    def end(state: TrainState, labels: jax.Array, index: jax.Array) -> TrainState:
        number = state.step // steps_per_epoch - 1
        key = jax.random.fold_in(jax.random.fold_in(state.key, KEY_EPOCH_END), number)
        epoch = Epoch(gather(state.table, index), labels[index], state.shared, number, key)
        rows, shared = method.on_epoch_end(epoch)
        return state._replace(table=scatter(state.table, index, rows), shared=shared)

    return end
