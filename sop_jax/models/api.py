"""A network as pure functions, by name."""

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from sop_jax.errors import UserError, suggestion
from sop_jax.fields import Field, of_function, refuse
from sop_jax.models import fast, resnet
from sop_jax.models.network import Network, Sample

# name -> factory (num_classes, dtype, *, field=default, ...); the keyword arguments are the fields
# of config.model, with their meanings in the `Args:` of the docstring.
NETWORKS: Mapping[str, Callable[..., Network]] = {
    "small_resnet": resnet.small_resnet,
    "resnet18": resnet.resnet18,
    "resnet34": resnet.resnet34,
    "preact_resnet18": resnet.preact_resnet18,
    "fast_net": fast.fast_net,
}


class Init(Protocol):
    def __call__(self, key: jax.Array, shape: tuple[int, int, int]) -> tuple[Any, Any]:
        """(params, model_state) from a typed key, for images of shape (H, W, C)."""


class Apply(Protocol):
    def __call__(
        self, params: Any, model_state: Any, images: jax.Array, train: bool
    ) -> tuple[jax.Array, Any]:
        """(logits float32 [M, K], model_state) of float images [M, H, W, C].

        With train=True batch-norm uses and updates the statistics of the global batch.
        """


class Features(Protocol):
    def __call__(self, params: Any, model_state: Any, images: jax.Array) -> jax.Array:
        """h float32 [M, d], the input of the last layer, in evaluation mode."""


class Classifier(Protocol):
    def __call__(self, params: Any) -> tuple[jax.Array, jax.Array]:
        """(W float32 [K, d], b float32 [K]) of the last layer: logits = W h + b."""


@dataclasses.dataclass(frozen=True)
class Model:
    """A network, as the four functions that are called of it."""

    init: Init
    apply: Apply
    features: Features
    classifier: Classifier


def _factory(name: str) -> Callable[..., Network]:
    if name not in NETWORKS:
        raise UserError(
            f"model.name={name!r} is unknown{suggestion(name, list(NETWORKS))}; "
            f"the networks are {', '.join(NETWORKS)}"
        )
    return NETWORKS[name]


def fields(name: str) -> dict[str, Field]:
    """The fields of a network, by name. Raises UserError for an unknown network."""
    return of_function(_factory(name))


def find(
    name: str,
    num_classes: int,
    dtype: Any = jnp.float32,
    sample: Callable[[], Sample] | None = None,
    **values: Any,
) -> Model:
    """The network called `name`, of K = `num_classes` logits.

    Args:
      dtype: of its arithmetic; parameters and logits are float32.
      sample: hands over training images to a network that takes something from them before it is
        trained. None: it only goes on from a state that holds it, or needs no images.
      values: fields of the network, as in config.model.

    Raises:
      UserError: no such network, a field that is not its own, or a value that cannot be.
    """
    make, known = _factory(name), fields(name)
    for field in values:
        if field not in known:
            owners = {other: fields(other) for other in NETWORKS}
            refuse(f"model.{field}", f"network {name!r}", known, owners)
    checked = {field: known[field].checked(f"model.{field}", values[field]) for field in values}
    network = make(num_classes, dtype, **checked)
    return _as_functions(network if sample is None else network.fitted(sample), dtype)


def from_config(
    config: ConfigDict, num_classes: int, dtype: Any, sample: Callable[[], Sample] | None = None
) -> Model:
    """The network that a complete `config.model` describes; see `find`."""
    values = {name: config[name] for name in fields(config.name)}
    return find(config.name, num_classes, dtype, sample, **values)


def _as_functions(network: Network, dtype: Any) -> Model:
    def init(key, shape):
        with _usual_promotion():
            variables = network.init(key, jnp.zeros((1, *shape), dtype), train=False)
        return variables["params"], variables.get("batch_stats", {})

    def call(params, model_state, images, train, mutable):
        variables = {"params": params, "batch_stats": model_state}
        with _usual_promotion():
            return network.apply(variables, images.astype(dtype), train=train, mutable=mutable)

    def apply(params, model_state, images, train):
        logits, new = call(params, model_state, images, train, ["batch_stats"] if train else [])
        model_state = new["batch_stats"] if train else model_state
        wide = logits.dtype if logits.dtype.itemsize >= 4 else jnp.float32
        return logits.astype(wide), model_state

    def features(params, model_state, images):
        _, kept = call(params, model_state, images, False, ["intermediates"])
        return kept["intermediates"]["features"][0].astype(jnp.float32)

    return Model(init, apply, features, network.last_layer)


def _usual_promotion() -> AbstractContextManager:
    """Flax's batch norm mixes bfloat16 with float32, which strict promotion would refuse."""
    return jax.numpy_dtype_promotion("standard")
