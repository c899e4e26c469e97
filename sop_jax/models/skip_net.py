"""The hour-glass network that serves as a deep image prior (Ulyanov et al. 2018).

As You, Zhu, Qu, Ma (NeurIPS 2020, arXiv 2006.08857) set it for robust recovery: five scales, 128
channels, four in each skip branch, reflection padding, biases on. It is fitted to one image and
classifies nothing, so `api.NETWORKS` does not list it.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from sop_jax.models.resnet import torch_uniform

SLOPE = 0.2  # of the leaky ReLU


class SkipNet(nn.Module):
    """Maps an input [1, H, W, D] to an image [1, H, W, channels] in (0, 1).

    H and W are multiples of 2**scales. At every scale: two 3x3 convolutions, the first of stride 2;
    the coarser scales; doubling (bilinear); joined with a 1x1 convolution of what came in; a 3x3
    and a 1x1 convolution. Each convolution is followed by a norm and a leaky ReLU, but for the
    last, which a sigmoid follows.
    """

    width: int = 128
    scales: int = 5
    skip_width: int = 4
    channels: int = 3
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.sigmoid(self._conv(self._scale(x, self.scales), self.channels, 1))

    def _scale(self, x, coarser: int):
        """The network from this scale down and back: [1, h, w, d] to [1, h, w, width]."""
        skip = self._block(x, self.skip_width, 1)
        deep = self._block(self._block(x, self.width, 3, stride=2), self.width, 3)
        if coarser > 1:
            deep = self._scale(deep, coarser - 1)
        deep = jax.image.resize(deep, (*x.shape[:3], self.width), "bilinear")
        joined = self._norm(jnp.concatenate([skip, deep], axis=-1))
        return self._block(self._block(joined, self.width, 3), self.width, 1)

    def _block(self, x, features: int, kernel: int, stride: int = 1):
        return nn.leaky_relu(self._norm(self._conv(x, features, kernel, stride)), SLOPE)

    def _conv(self, x, features: int, kernel: int, stride: int = 1):
        edge = kernel // 2
        x = jnp.pad(x, ((0, 0), (edge, edge), (edge, edge), (0, 0)), mode="reflect") if edge else x
        conv = nn.Conv(
            features,
            (kernel, kernel),
            stride,
            padding="VALID",
            dtype=self.dtype,
            kernel_init=torch_uniform,
        )
        return conv(x)

    def _norm(self, x):
        """Batch norm by the batch's own statistics: in a batch of one, each channel's norm."""
        return nn.InstanceNorm(epsilon=1e-5, dtype=self.dtype)(x)
