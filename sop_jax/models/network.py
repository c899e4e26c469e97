"""What `api` asks of a network, besides the logits that calling it returns."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn


class Sample(NamedTuple):
    """Training images, and the statistics that they are normalised with."""

    images: np.ndarray  # [M, H, W, C] uint8; a few thousand are enough
    mean: tuple[float, ...]  # C numbers, of pixels / 255
    std: tuple[float, ...]


class Network(nn.Module):
    """A Flax module: (images [M, H, W, C], train) -> logits [M, K].

    It sows the input of its last linear layer, [M, d], as the intermediate 'features'.
    """

    def last_layer(self, params: Any) -> tuple[jax.Array, jax.Array]:
        """(W [K, d], b [K]) of the last layer: logits = W features + b."""
        raise NotImplementedError

    def fitted(self, sample: Callable[[], Sample]) -> "Network":
        """The network with what it takes from training images before it is trained.

        Args:
          sample: hands over some of the images; a network that needs none does not call it.
        """
        del sample
        return self
