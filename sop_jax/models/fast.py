"""A small network for short schedules, after airbench94.

Source: Jordan 2024, "94% on CIFAR-10 in 3.29 seconds" (arXiv 2404.00498), and its code.

A 2x2 first layer that whitens patches, three groups of two 3x3 convolutions, no shortcuts:
convolutions start as the identity. Nothing here looks at labels. The norms have no scale, and their
biases learn 64 times as fast as the rest. The width is the first group's; the others have four
times as many channels.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sop_jax.fields import Bounds
from sop_jax.models.network import Network, Sample
from sop_jax.models.resnet import torch_uniform

# a parameter multiplied by c learns c*c times as fast, so one learning rate serves them all
BIAS_SPEED = 8.0
LOGIT_SCALE = 1 / 9
_CHUNK = 500  # images at a time, to keep the patches of 5,000 images out of memory


def whitening_filters(
    images: np.ndarray, mean: Sequence[float], std: Sequence[float], eps: float = 5e-4
) -> np.ndarray:
    """Filters whose outputs on 2x2 patches are uncorrelated and of variance 1, and their negatives.

    Args:
      images: uint8 [M, H, W, C], training images; a few thousand are enough.
      mean, std: C numbers each, of pixels / 255: the filters are for normalised images.
      eps: added to each eigenvalue of the patches' covariance, so that faint directions are not
        blown up.

    Returns:
      float32 [2, 2, C, 8*C]: eigenvectors / sqrt(eigenvalue + eps), rising by eigenvalue, then the
      same negated. Computed in float64 on the host.
    """
    size = 4 * images.shape[-1]
    total, products, count = np.zeros(size), np.zeros((size, size)), 0
    for start in range(0, len(images), _CHUNK):
        pixels = (images[start : start + _CHUNK] / 255.0 - np.asarray(mean)) / np.asarray(std)
        # [M, H-1, W-1, C, 2, 2]
        windows = np.lib.stride_tricks.sliding_window_view(pixels, (2, 2), axis=(1, 2))
        patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, size)
        total, products, count = (
            total + patches.sum(0),
            products + patches.T @ patches,
            count + len(patches),
        )
    centre = total / count
    values, vectors = np.linalg.eigh(products / count - np.outer(centre, centre))
    filters = (vectors / np.sqrt(values + eps)).reshape(2, 2, images.shape[-1], size)
    return np.concatenate([filters, -filters], axis=-1).astype(np.float32)


def identity_start(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Initialiser of a kernel [3, 3, I, O]: output i is input i while there is one.

    The other outputs start as torch does.
    """
    kernel, copied = torch_uniform(key, shape, dtype), jnp.arange(min(shape[2:]))
    return kernel.at[..., copied].set(0).at[1, 1, copied, copied].set(1)


class FastBias(nn.Module):
    """Adds a bias that learns BIAS_SPEED**2 times as fast as the learning rate says."""

    @nn.compact
    def __call__(self, x):
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return x + jnp.broadcast_to(jnp.asarray(BIAS_SPEED * bias, x.dtype), x.shape)


class Whitening(nn.Module):
    """The 2x2 first layer, 8*C outputs: fixed filters, in the state, or trained ones.

    `filters` [2, 2, C, 8*C] are needed at initialisation alone: from then on the state holds them,
    checkpoints too, so that a run goes on, and a trained network predicts, without the images that
    they came from.
    """

    fixed: bool
    filters: np.ndarray | None
    dtype: Any

    @nn.compact
    def __call__(self, x):
        if self.fixed:
            kernel = self.variable("batch_stats", "kernel", lambda: jnp.asarray(self.filters)).value
        else:
            kernel = self.param("kernel", torch_uniform, (2, 2, x.shape[-1], 8 * x.shape[-1]))
        kernel = jnp.asarray(kernel, self.dtype)
        x = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return nn.gelu(FastBias()(x))


class FastNet(Network):
    """Whitening, three groups of conv-pool-BN-GELU-conv-BN-GELU, global max-pool, linear layer.

    The linear layer has no bias.
    """

    num_classes: int
    width: int
    dtype: Any = jnp.float32
    whitening: bool = True
    filters: np.ndarray | None = None

    @nn.compact
    def __call__(self, x, *, train: bool):
        def conv(x, features):
            return nn.Conv(
                features, (3, 3), use_bias=False, dtype=self.dtype, kernel_init=identity_start
            )(x)

        def activate(x):
            x = nn.BatchNorm(
                not train, momentum=0.6, use_scale=False, use_bias=False, dtype=self.dtype
            )(x)
            return nn.gelu(FastBias()(x))

        x = Whitening(self.whitening, self.filters, self.dtype)(x)
        for features in (self.width, 4 * self.width, 4 * self.width):
            x = activate(nn.max_pool(conv(x, features), (2, 2), (2, 2), "SAME"))
            x = activate(conv(x, features))
        x = jnp.max(x, axis=(1, 2))
        self.sow("intermediates", "features", x)
        return LOGIT_SCALE * nn.Dense(
            self.num_classes, use_bias=False, dtype=self.dtype, kernel_init=torch_uniform
        )(x)

    def last_layer(self, params: Any) -> tuple[jax.Array, jax.Array]:
        """See `Network`."""
        weight = LOGIT_SCALE * params["Dense_0"]["kernel"].T
        return weight, jnp.zeros(self.num_classes)

    def fitted(self, sample: Callable[[], Sample]) -> "FastNet":
        """With the filters that whiten patches of the sample, unless that layer is trained."""
        return self.clone(filters=whitening_filters(*sample())) if self.whitening else self


def fast_net(
    num_classes: int,
    dtype: Any,
    *,
    width: Annotated[int, Bounds(1, 8192)] = 16,
    whitening: bool = True,
) -> FastNet:
    """The network of this module.

    Args:
      width: channels of the first group; the others have four times as many
      whitening: first layer fixed, to filters that whiten training patches
    """
    return FastNet(num_classes, width, dtype, whitening)
