"""A network as two pure functions, by name."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sop_jax.config import suggestion
from sop_jax.errors import UserError
from sop_jax.models import fast, resnet

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "small_resnet": resnet.small_resnet,
    "resnet18": resnet.resnet18,
    "resnet34": resnet.resnet34,
    "preact_resnet18": resnet.preact_resnet18,
    "fast_net": fast.FastNet,
}


@dataclasses.dataclass(frozen=True)
class Model:
    """A network.

    Attributes:
      init: (key, image shape (H, W, C)) -> (params, model_state).
      apply: (params, model_state, images float [M,H,W,C], train) -> (logits float32 [M,K], model_state). With
        train=True batch-norm uses and updates the statistics of the global batch.
    """

    init: Callable
    apply: Callable


def find(
    name: str, num_classes: int, dtype: Any = jnp.float32, width: int = 16, activation: str = "silu",
    filters: np.ndarray | None = None,
) -> Model:
    """The network called `name`; UserError if unknown.

    `width` (first stage) is small_resnet's and fast_net's, `activation` small_resnet's. `filters` are what fast_net
    starts with as its fixed first layer (`fast.whitening_filters`); None: that layer is trained, unless the state that
    it is applied with holds it.
    """
    if name not in NETWORKS:
        raise UserError(f"model.name={name!r} is unknown{suggestion(name, list(NETWORKS))}; "
                        f"the networks are {', '.join(NETWORKS)}")
    options = {"small_resnet": {"width": width, "activation": activation},
               "fast_net": {"width": width, "filters": filters}}
    module = NETWORKS[name](num_classes=num_classes, dtype=dtype, **options.get(name, {}))

    def init(key, shape):
        variables = module.init(key, jnp.zeros((1, *shape), dtype), train=False)
        return variables["params"], variables.get("batch_stats", {})

    def apply(params, model_state, images, train):
        variables = {"params": params, "batch_stats": model_state}
        if not train:
            logits, updated = module.apply(variables, images.astype(dtype), train=False), model_state
        else:
            logits, new = module.apply(variables, images.astype(dtype), train=True, mutable=["batch_stats"])
            updated = new["batch_stats"]
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), updated

    return Model(init, apply)


def num_parameters(params: Any) -> int:
    """Number of trained values in a tree of parameters."""
    return sum(x.size for x in jax.tree.leaves(params))
