"""The last layer held fixed as a simplex equiangular tight frame (Zhu et al. 2021, section 5)."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn


def simplex_etf(num_classes: int) -> np.ndarray:
    """sqrt(K/(K-1)) * (I - 11'/K), float64 [K, K]: symmetric.

    Its rows have length 1 and inner products -1/(K-1).
    """
    k = num_classes
    return np.sqrt(k / (k - 1)) * (np.eye(k) - 1 / k)


def etf_weight(num_classes: int, dim: int) -> np.ndarray:
    """W = M [I_K 0], float64 [K, d], d >= K: the ETF of the first K features.

    The other features do not reach the logits.
    """
    return simplex_etf(num_classes) @ np.eye(num_classes, dim)


class EtfClassifier(nn.Module):
    """logits = W h + b with W of `etf_weight`, neither trained nor decayed; b is a parameter."""

    num_classes: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        bias = self.param("bias", nn.initializers.zeros, (self.num_classes,))
        weight = jnp.asarray(etf_weight(self.num_classes, x.shape[-1]), self.dtype)
        logits = x @ weight.T
        return logits + jnp.broadcast_to(jnp.asarray(bias, self.dtype), logits.shape)
