"""Residual networks for 32x32 (and smaller) images: 3x3 stride-1 stem and no max-pool.

The ImageNet stem costs about 7 points on CIFAR-10N. Parameter counts with 10 classes: ResNet-18
11,173,962, ResNet-34 21,282,122, PreAct ResNet-18 11,171,274 (the published form: a BN + ReLU after
the stem, none before pooling). Initialisation is torch's default, which the published results used.
Running batch variances are biased here and unbiased in torch: a factor M/(M-1), M = B*H*W values.
"""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from sop_jax.errors import UserError
from sop_jax.fields import Bounds
from sop_jax.models.etf import EtfClassifier, etf_weight
from sop_jax.models.network import Network

torch_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def _conv(dtype: Any) -> Callable:
    return partial(nn.Conv, use_bias=False, padding=1, dtype=dtype, kernel_init=torch_uniform)


def _shortcut(x, features: int, stride: int, dtype: Any):
    return nn.Conv(
        features,
        (1, 1),
        strides=stride,
        padding=0,
        use_bias=False,
        dtype=dtype,
        kernel_init=torch_uniform,
    )(x)


class BasicBlock(nn.Module):
    """conv-BN-ReLU-conv-BN plus shortcut, then ReLU (He et al. 2015)."""

    features: int
    outputs: int
    stride: int
    dtype: Any
    activation: Callable

    @nn.compact
    def __call__(self, x, norm):
        conv = _conv(self.dtype)
        y = self.activation(norm()(conv(self.features, (3, 3), strides=self.stride)(x)))
        y = norm()(conv(self.outputs, (3, 3))(y))
        if x.shape != y.shape:
            x = norm()(_shortcut(x, self.outputs, self.stride, self.dtype))
        return self.activation(x + y)


class PreActBlock(nn.Module):
    """BN-ReLU-conv-BN-ReLU-conv, a shortcut from after the first activation (He et al. 2016)."""

    features: int
    outputs: int
    stride: int
    dtype: Any
    activation: Callable

    @nn.compact
    def __call__(self, x, norm):
        conv = _conv(self.dtype)
        pre = self.activation(norm()(x))
        y = conv(self.features, (3, 3), strides=self.stride)(pre)
        y = conv(self.outputs, (3, 3))(self.activation(norm()(y)))
        if x.shape != y.shape:
            x = _shortcut(pre, self.outputs, self.stride, self.dtype)
        return x + y


class ResNet(Network):
    """Stem, stages of blocks, global average pool, linear layer.

    The width doubles, and the stride is 2, from the second stage on.

    Attributes:
      feature_dim: channels that the last convolution puts out instead of the stage's own (Zhu et
        al. 2021: K of them save a fifth of ResNet-18).
      etf: the linear layer's weights are fixed.
    """

    stages: tuple[int, ...]
    num_classes: int
    width: int = 64
    block: type[nn.Module] = BasicBlock
    dtype: Any = jnp.float32
    activation: Callable = nn.relu
    feature_dim: int | None = None
    etf: bool = False

    @property
    def num_features(self) -> int:
        """d, the inputs of the linear layer."""
        return self.feature_dim or self.width * 2 ** (len(self.stages) - 1)

    @nn.compact
    def __call__(self, x, *, train: bool):
        norm = partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            dtype=self.dtype,
        )
        x = self.activation(norm()(_conv(self.dtype)(self.width, (3, 3))(x)))
        for stage, blocks in enumerate(self.stages):
            for i in range(blocks):
                stride = 2 if stage > 0 and i == 0 else 1
                last = stage + 1 == len(self.stages) and i + 1 == blocks
                features = self.width * 2**stage
                outputs = self.num_features if last else features
                x = self.block(features, outputs, stride, self.dtype, self.activation)(x, norm)
        x = jnp.mean(x, axis=(1, 2))
        self.sow("intermediates", "features", x)
        if self.etf:
            return EtfClassifier(self.num_classes, self.dtype)(x)
        return nn.Dense(self.num_classes, dtype=self.dtype, kernel_init=torch_uniform)(x)

    def last_layer(self, params: Any) -> tuple[jax.Array, jax.Array]:
        """See `Network`."""
        if self.etf:
            weight = etf_weight(self.num_classes, self.num_features)
            return jnp.asarray(weight, jnp.float32), params["EtfClassifier_0"]["bias"]
        return params["Dense_0"]["kernel"].T, params["Dense_0"]["bias"]


Last = Literal["learnt", "etf"]
Width = Annotated[int, Bounds(1, 8192)]


def _of_stages(
    stages: tuple[int, ...], num_classes: int, classifier: Last, **options: Any
) -> ResNet:
    network = ResNet(stages, num_classes, etf=classifier == "etf", **options)
    if network.etf and network.num_features < num_classes:
        raise UserError(
            "config.model.classifier='etf' needs at least as many features as classes, "
            f"{num_classes}, but there are {network.num_features}; raise model.feature_dim or, in "
            "small_resnet, model.width"
        )
    return network


def _published(stages: tuple[int, ...], block: type[nn.Module]) -> Callable[..., ResNet]:
    """A factory of a residual network 64 channels wide, as published."""

    def make(
        num_classes: int,
        dtype: Any,
        *,
        classifier: Last = "learnt",
        feature_dim: Width | None = None,
    ) -> ResNet:
        """A published residual network.

        Args:
          classifier: last layer; etf: weights fixed as a simplex ETF, the bias learnt
          feature_dim: channels that the last block puts out; unset: its own width
        """
        options = {"dtype": dtype, "feature_dim": feature_dim, "block": block}
        return _of_stages(stages, num_classes, classifier, **options)

    return make


resnet18 = _published((2, 2, 2, 2), BasicBlock)
resnet34 = _published((3, 4, 6, 3), BasicBlock)
preact_resnet18 = _published((2, 2, 2, 2), PreActBlock)


def small_resnet(
    num_classes: int,
    dtype: Any,
    *,
    width: Width = 16,
    activation: Literal["silu", "relu"] = "silu",
    classifier: Last = "learnt",
    feature_dim: Width | None = None,
) -> ResNet:
    """Three blocks, for digits, MNIST and reduced CIFAR.

    With 'silu' the loss is smooth and float32 runs on 1 and 8 devices agree to 1e-6 over 20 steps;
    at the kink of 'relu' a rounding difference flips a gradient every few steps, and they part at
    1e-5 to 1e-2 (measured on digits).

    Args:
      width: channels of the first stage
      activation: silu is smooth: equal losses on any number of devices
      classifier: last layer; etf: weights fixed as a simplex ETF, the bias learnt
      feature_dim: channels that the last block puts out; unset: its own width
    """
    options = {"dtype": dtype, "feature_dim": feature_dim, "width": width}
    options["activation"] = {"relu": nn.relu, "silu": nn.silu}[activation]
    return _of_stages((1, 1, 1), num_classes, classifier, **options)
