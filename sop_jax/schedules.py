"""Schedules of the network's learning rate, by name."""

from collections.abc import Callable, Mapping
from typing import Annotated

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from sop_jax.config import require
from sop_jax.errors import UserError, suggestion
from sop_jax.fields import SIZE, Bounds, Field, of_function


def constant(peak: float, epochs: int) -> optax.Schedule:
    """The same rate in all epochs."""
    del epochs
    return optax.constant_schedule(peak)


def step(
    peak: float,
    epochs: int,
    *,
    drop_epochs: tuple[int, ...] = (40, 80),
    drop_factor: Annotated[float, Bounds(0, 1e30)] = 0.1,  # of a rate: within float32
) -> optax.Schedule:
    """A rate that drops at given epochs.

    Args:
      drop_epochs: epochs at whose start the rate is multiplied by drop_factor
      drop_factor: what it is multiplied by
    """
    del epochs
    whole = all(type(drop) is int and 0 < drop < 2**31 for drop in drop_epochs)
    require(
        whole and list(drop_epochs) == sorted(set(drop_epochs)),
        "optimizer.drop_epochs",
        drop_epochs,
        "it must be rising whole numbers from 1 to 2**31 - 1, such as (40,80)",
    )
    return optax.piecewise_constant_schedule(peak, dict.fromkeys(drop_epochs, drop_factor))


def cosine(
    peak: float, epochs: int, *, final_learning_rate: Annotated[float, SIZE] = 2e-4
) -> optax.Schedule:
    """Half a cosine from the rate down to the final one, over all epochs.

    Args:
      final_learning_rate: rate that the curve ends at
    """

    # Not optax.cosine_decay_schedule: it takes pi * epoch / epochs in float32 even of a plain
    # number, which moves the last bits of the rates that metrics.jsonl states.
    def rate(epoch):
        above = (peak - final_learning_rate) * (1 + jnp.cos(jnp.pi * epoch / epochs)) / 2
        return final_learning_rate + above

    return rate


def triangular(
    peak: float, epochs: int, *, warmup: Annotated[float, Bounds(0, 1)] = 0.2
) -> optax.Schedule:
    """A straight rise from 0 and a straight fall to 0, by step.

    Args:
      warmup: share of the steps in which the rate rises
    """
    require(0 < warmup < 1, "optimizer.warmup", warmup, "it must lie in (0, 1)")
    top = warmup * epochs
    rise = optax.linear_schedule(0.0, peak, top)
    return optax.join_schedules([rise, optax.linear_schedule(peak, 0.0, epochs - top)], [top])


# name -> factory (peak, epochs, *, field=default, ...) of a schedule over epochs, counted from 0;
# the keyword arguments are fields of config.optimizer.
SCHEDULES: Mapping[str, Callable[..., optax.Schedule]] = {
    "constant": constant,
    "step": step,
    "cosine": cosine,
    "triangular": triangular,
}
WHOLE_EPOCHS = ("constant", "step", "cosine")  # the others change within an epoch
# Schedules of which a longer run has other rates from the first epoch on.
OF_THE_LENGTH = ("cosine", "triangular")


def fields(name: str) -> dict[str, Field]:
    """The fields of a schedule, by name. Raises UserError for an unknown schedule."""
    if name not in SCHEDULES:
        raise UserError(
            f"config.optimizer.schedule={name!r} is unknown{suggestion(name, list(SCHEDULES))}; "
            f"choose from {', '.join(SCHEDULES)}"
        )
    return of_function(SCHEDULES[name])


def by_epoch(config: ConfigDict, peak: float) -> optax.Schedule:
    """The configured schedule as a function of the epoch, with a fraction or without."""
    own = {name: config.optimizer[name] for name in fields(config.optimizer.schedule)}
    return SCHEDULES[config.optimizer.schedule](peak, config.epochs, **own)


def by_step(config: ConfigDict, peak: float, steps_per_epoch: int) -> optax.Schedule:
    """The configured schedule as a function of the step, an int32.

    The rate is constant over an epoch, but for the triangular schedule.
    """
    of_epoch = by_epoch(config, peak)

    def rate(count: jax.Array) -> jax.Array:
        if config.optimizer.schedule in WHOLE_EPOCHS:
            return of_epoch((count // steps_per_epoch).astype(float))
        return of_epoch(count.astype(float) / steps_per_epoch)

    return rate


def learning_rate_at(config: ConfigDict, epoch: int) -> float:
    """The network's learning rate when an epoch, counted from 0, begins."""
    return float(by_epoch(config, config.optimizer.learning_rate)(epoch))
