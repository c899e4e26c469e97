"""One flat `optax.multi_transform` over the network and every trained row leaf, and the schedules of the network.

Rows take plain gradient descent at a constant rate: no momentum and no decay (paper, appendix A). That is built in
here and not configurable: a momentum kept for a batch of rows would mix different examples.

Batch rule: the loss is a mean over the batch and a row is touched once an epoch, so a row moves by rate / B. Rates are
meant at B = 128 and used as rate * B / 128, which makes an epoch's row updates independent of B.
"""

from collections.abc import Mapping

import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

REFERENCE_BATCH_SIZE = 128


def learning_rate_at(config: ConfigDict, epoch):
    """Network learning rate of `epoch` (counted from 0; a number or a traced scalar): constant over the epoch."""
    o = config.optimizer
    if o.schedule == "constant":
        return jnp.full_like(epoch, o.learning_rate, dtype=float)
    if o.schedule == "step":
        passed = sum(jnp.where(epoch >= drop, 1, 0) for drop in o.drop_epochs)
        return o.learning_rate * o.drop_factor ** jnp.asarray(passed, dtype=float)
    low, high = o.final_learning_rate, o.learning_rate
    return low + (high - low) * (1 + jnp.cos(jnp.pi * epoch / config.epochs)) / 2


def sgd(learning_rate: optax.ScalarOrSchedule, momentum: float, weight_decay: float) -> optax.GradientTransformation:
    """SGD as torch does it: decay is added to the gradient before momentum, on all parameters (methods.md, 0.4)."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.trace(decay=momentum),
        optax.scale_by_learning_rate(learning_rate),
    )


def network_optimizer(config: ConfigDict, steps_per_epoch: int) -> optax.GradientTransformation:
    """The network's SGD with the configured epoch-wise schedule."""
    o = config.optimizer
    return sgd(lambda count: learning_rate_at(config, count // steps_per_epoch), o.momentum, o.weight_decay)


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
