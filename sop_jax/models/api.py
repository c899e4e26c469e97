"""A network as two pure functions, by name."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sop_jax.errors import UserError, suggestion
from sop_jax.models import etf, fast, resnet

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
      apply: (params, model_state, images float [M,H,W,C], train) -> (logits float32 [M,K],
        model_state). With train=True batch-norm uses and updates the statistics of the global
        batch.
      features: (params, model_state, images [M,H,W,C]) -> h float32 [M,d], the input of the last
        linear layer, in evaluation mode.
      classifier: params -> (W float32 [K,d], b float32 [K]) of that layer: logits = W h + b.
    """

    init: Callable
    apply: Callable
    features: Callable
    classifier: Callable


def find(
    name: str,
    num_classes: int,
    dtype: Any = jnp.float32,
    width: int = 16,
    activation: str = "silu",
    filters: np.ndarray | None = None,
    classifier: str = "learnt",
    feature_dim: int | None = None,
) -> Model:
    """The network called `name`; UserError if unknown, or if it has no such classifier or features.

    `width` (first stage) is small_resnet's and fast_net's, `activation` small_resnet's. `filters`
    are what fast_net starts with as its fixed first layer (`fast.whitening_filters`); None: that
    layer is trained, unless the state that it is applied with holds it. `classifier` (learnt, or
    etf: fixed as a simplex ETF) and `feature_dim` (channels that the last block puts out; None: the
      network's own) are the residual networks'.
    """
    if name not in NETWORKS:
        raise UserError(
            f"model.name={name!r} is unknown{suggestion(name, list(NETWORKS))}; "
            f"the networks are {', '.join(NETWORKS)}"
        )
    if name == "fast_net":
        if classifier != "learnt" or feature_dim is not None:
            raise UserError(
                "model.name='fast_net' has a learnt classifier and features of its own width: leave "
                "model.classifier and model.feature_dim, or choose a residual network"
            )
        module = fast.FastNet(num_classes, width, dtype, filters)
    else:
        options = {"width": width, "activation": activation} if name == "small_resnet" else {}
        module = NETWORKS[name](
            num_classes=num_classes,
            dtype=dtype,
            feature_dim=feature_dim,
            etf=classifier == "etf",
            **options,
        )
        if module.etf and module.num_features < num_classes:
            raise UserError(
                f"model.classifier='etf' needs at least as many features as classes, {num_classes}, but "
                f"there are {module.num_features}; raise model.feature_dim or model.width"
            )

    def init(key, shape):
        variables = module.init(key, jnp.zeros((1, *shape), dtype), train=False)
        return variables["params"], variables.get("batch_stats", {})

    def apply(params, model_state, images, train):
        variables = {"params": params, "batch_stats": model_state}
        if not train:
            logits, updated = (
                module.apply(variables, images.astype(dtype), train=False),
                model_state,
            )
        else:
            logits, new = module.apply(
                variables, images.astype(dtype), train=True, mutable=["batch_stats"]
            )
            updated = new["batch_stats"]
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), updated

    def features(params, model_state, images):
        variables = {"params": params, "batch_stats": model_state}
        _, kept = module.apply(
            variables, images.astype(dtype), train=False, mutable=["intermediates"]
        )
        return kept["intermediates"]["features"][0].astype(jnp.float32)

    def linear(params):
        if classifier == "etf":
            weight = etf.etf_weight(num_classes, module.num_features)
            return jnp.asarray(weight, jnp.float32), params["EtfClassifier_0"]["bias"]
        weight = params["Dense_0"]["kernel"].T
        if name == "fast_net":
            return fast.LOGIT_SCALE * weight, jnp.zeros(num_classes)
        return weight, params["Dense_0"]["bias"]

    return Model(init, apply, features, linear)


def num_parameters(params: Any) -> int:
    """Number of trained values in a tree of parameters."""
    return sum(x.size for x in jax.tree.leaves(params))
