"""One flat `optax.multi_transform` over the network and every trained row leaf.

Rows take plain gradient descent at a constant rate: no momentum and no decay (paper, appendix A).
That is built in here and not configurable: a momentum kept for a batch of rows would mix different
examples.

Batch rule: the loss is a mean over the batch and a row is touched once an epoch, so a row moves by
rate / B. Rates are meant at B = 128 and used as rate * B / 128, which makes an epoch's row updates
independent of B.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from sop_jax.errors import UserError, suggestion
from sop_jax.fields import SIZE, Field, of_function
from sop_jax.schedules import by_step

REFERENCE_BATCH_SIZE = 128


def sgd(
    learning_rate: optax.ScalarOrSchedule,
    momentum: float,
    weight_decay: float,
    nesterov: bool = False,
) -> optax.GradientTransformation:
    """SGD as torch does it: decay is added to the gradient before momentum, on all parameters."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.trace(decay=momentum, nesterov=nesterov),
        optax.scale_by_learning_rate(learning_rate),
    )


def muon(
    learning_rate: optax.ScalarOrSchedule, momentum: float, nesterov: bool
) -> optax.GradientTransformation:
    """Muon for convolution kernels [h, w, I, O], read as matrices [h*w*I, O].

    Each update is orthogonal, so of norm sqrt(O), and afterwards each kernel is brought back to
    that norm: under a batch-norm its length means nothing, and the learning rate stays the share of
    it that a step moves. Source: Jordan 2024, and the code of airbench94_muon.
    """
    matrix = optax.contrib.MuonDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=3)
    orthogonal = optax.contrib.scale_by_muon(
        beta=momentum,
        nesterov=nesterov,
        weight_dimension_numbers=lambda tree: jax.tree.map(lambda _: matrix, tree),
    )

    def update(updates, state, params=None):
        # it raises a float to an integer count, which strict promotion would refuse
        with jax.numpy_dtype_promotion("standard"):
            return orthogonal.update(updates, state, params)

    return optax.chain(
        optax.GradientTransformation(orthogonal.init, update),
        optax.scale_by_learning_rate(learning_rate),
        optax.stateless(lambda updates, params: jax.tree.map(_to_unit_columns, updates, params)),
    )


def _to_unit_columns(update: jax.Array, kernel: jax.Array) -> jax.Array:
    """The update that ends at norm sqrt(O): columns of length 1 in the mean."""
    moved = kernel + update
    return moved * (kernel.shape[-1] ** 0.5 / jnp.linalg.norm(moved)) - kernel


class AverageState(NamedTuple):
    """State of `average_parameters`."""

    count: jax.Array  # int32, updates done
    average: Any  # like the parameters


def average_parameters(decay: float) -> optax.GradientTransformation:
    """Keeps the exponential moving average of the parameters; the last of a chain.

    It changes no update. It starts as a copy of the parameters; update t (from 0) decays by
    min(decay, (1 + t) / (10 + t)), so that this start, which nothing was learned in, is soon
    forgotten.
    """

    def init(params):
        return AverageState(jnp.int32(0), jax.tree.map(jnp.copy, params))

    def update(updates, state, params):
        kept = jnp.minimum(decay, (1 + state.count) / (10 + state.count))
        moved = optax.apply_updates(params, updates)
        average = jax.tree.map(
            lambda old, new: old + (1 - kept).astype(old.dtype) * (new - old), state.average, moved
        )
        return updates, AverageState(state.count + 1, average)

    return optax.GradientTransformation(init, update)


def averaged(opt_state: Any, params: Any) -> Any:
    """The averaged network parameters, or `params` where none are kept (optimizer.ema=0)."""
    average = optax.tree.get(opt_state, "average")
    return params if average is None else average["network"]


class ScheduleOf(Protocol):
    def __call__(self, peak: float) -> optax.Schedule:
        """The configured schedule, by step, of a rate that is `peak` at its height."""


def _sgd(common: ConfigDict, schedule: ScheduleOf) -> optax.GradientTransformation:
    rate = schedule(common.learning_rate)
    return sgd(rate, common.momentum, common.weight_decay, common.nesterov)


def _muon(
    common: ConfigDict,
    schedule: ScheduleOf,
    *,
    muon_learning_rate: Annotated[float, SIZE] = 0.24,
) -> optax.GradientTransformation:
    """Muon on convolution kernels, SGD on the rest.

    Args:
      muon_learning_rate: of kernels: share of its norm that a step moves one by
    """
    kernels = muon(schedule(muon_learning_rate), common.momentum, common.nesterov)
    return optax.multi_transform(
        {"kernels": kernels, "rest": _sgd(common, schedule)},
        lambda params: jax.tree.map(lambda x: "kernels" if x.ndim == 4 else "rest", params),
    )


# name -> factory (config.optimizer, schedule, *, field=default, ...); the keyword arguments are
# fields of config.optimizer.
OPTIMIZERS: Mapping[str, Callable[..., optax.GradientTransformation]] = {
    "sgd": _sgd,
    "muon": _muon,
}


def fields(name: str) -> dict[str, Field]:
    """The fields of an optimiser, by name. Raises UserError for an unknown optimiser."""
    if name not in OPTIMIZERS:
        raise UserError(
            f"config.optimizer.name={name!r} is unknown{suggestion(name, list(OPTIMIZERS))}; "
            f"choose from {', '.join(OPTIMIZERS)}"
        )
    return of_function(OPTIMIZERS[name])


def network_optimizer(config: ConfigDict, steps_per_epoch: int) -> optax.GradientTransformation:
    """The network's optimiser with the configured schedule; `config` is complete."""
    o = config.optimizer
    own = {name: o[name] for name in fields(o.name)}
    make = OPTIMIZERS[o.name]
    network = make(o, lambda peak: by_step(config, peak, steps_per_epoch), **own)
    return optax.chain(network, average_parameters(o.ema)) if o.ema else network


def make_optimizer(
    network: optax.GradientTransformation, row_learning_rates: Mapping[str, float], batch_size: int
) -> optax.GradientTransformation:
    """The optimiser of {"network": parameters, "rows": {name: gathered rows [B, ...]}}.

    Args:
      network: transformation of the network parameters.
      row_learning_rates: rate at B = 128 of every trained row leaf, by name.
      batch_size: the nominal global batch size B.
    """
    scale = batch_size / REFERENCE_BATCH_SIZE
    rows = {f"rows.{name}": optax.sgd(rate * scale) for name, rate in row_learning_rates.items()}
    labels = {"network": "network", "rows": {name: f"rows.{name}" for name in row_learning_rates}}
    return optax.multi_transform({"network": network, **rows}, labels)
