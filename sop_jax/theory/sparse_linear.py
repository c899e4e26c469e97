"""The linear model that explains SOP: y = J theta + s with J of low rank and s sparse.

Source: section 3 of the SOP paper (Liu, Zhu, Qu, You, ICML 2022; arXiv 2202.14026).

Everything here is float64 NumPy on the host: drawing problems and measuring what the theorems speak
of. Parameters in the row space of J are held by their coordinates there: with the compact SVD
J = U S V^T, theta = V z and J theta = B z where B = U S is [N, r]. Norms and gradient descent are
the same in z as in theta, at r/p of the work.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Problem(NamedTuple):
    """Problems of one shape, along a leading axis [T], or one without it. All float64."""

    jacobian: np.ndarray  # J [T, N, p], of rank r
    observed: np.ndarray  # y [T, N]
    # theta* [T, p], in the row space of J: the minimum-norm solution of J theta = y - s* (eq. 14)
    theta: np.ndarray
    noise: np.ndarray  # s* [T, N], k entries not 0


class Factors(NamedTuple):
    """Compact SVD J = left @ diag(singular) @ right^T of each problem."""

    left: np.ndarray  # U [T, N, r]
    singular: np.ndarray  # [T, r], falling
    right: np.ndarray  # V [T, p, r]

    @property
    def basis(self) -> np.ndarray:
        """B = U S [T, N, r]: J theta = B z for theta = V z."""
        return self.left * self.singular[..., None, :]


def draw(
    seed: Sequence[int], num_rows: int, num_parameters: int, rank: int, sparsity: int
) -> Problem:
    """One random problem of the SOP paper's section 3.2.

    Args:
      seed: whole numbers that name the problem, such as (config.seed, trial); equal ones give equal
        problems.
      num_rows: N.
      num_parameters: p.
      rank: r <= min(N, p).
      sparsity: k <= N.

    Returns:
      J = A B with A [N, r] and B [r, p] standard normal; k random entries of s* standard normal;
      y = J theta + s* for a standard normal theta, of which theta* is the projection onto the row
      space of J.
    """
    random = np.random.default_rng(list(seed))
    row_space = random.standard_normal((rank, num_parameters))
    theta = random.standard_normal(num_parameters)
    jacobian = random.standard_normal((num_rows, rank)) @ row_space
    noise = np.zeros(num_rows)
    noise[random.permutation(num_rows)[:sparsity]] = random.standard_normal(sparsity)
    minimum_norm = np.linalg.pinv(row_space) @ (row_space @ theta)
    return Problem(jacobian, jacobian @ minimum_norm + noise, minimum_norm, noise)


def stack(problems: Sequence[Problem]) -> Problem:
    """Problems of one shape along a new leading axis [T]."""
    return Problem(*map(np.stack, zip(*problems, strict=True)))


def factor(jacobian: np.ndarray, rank: int) -> Factors:
    """Compact SVD of J [..., N, p] of known rank r."""
    left, singular, right = np.linalg.svd(jacobian, full_matrices=False)
    return Factors(left[..., :rank], singular[..., :rank], np.swapaxes(right, -1, -2)[..., :rank])


def coherence(left: np.ndarray) -> np.ndarray:
    """mu = (N/r) max_i ||U^T e_i||^2 [...] of the column space [..., N, r] (Definition 3.4).

    It lies between 1 and N/r.
    """
    num_rows, rank = left.shape[-2:]
    return num_rows / rank * np.max(np.sum(left**2, axis=-1), axis=-1)


def recovery_is_guaranteed(left: np.ndarray, sparsity: int) -> np.ndarray:
    """Whether k^2 r < N / (4 mu) [...], sufficient for exact recovery (Proposition 3.5)."""
    num_rows, rank = left.shape[-2:]
    return sparsity**2 * rank < num_rows / (4 * coherence(left))


def threshold(factors: Factors, theta: np.ndarray) -> np.ndarray:
    """||U S^-1 V^T theta*||_inf [...]: lambda_0 of Proposition 3.5 but for the null-space factor.

    Above it, nu = U S^-1 V^T theta* is dual feasible, so that theta* is recovered from data without
    noise.
    """
    coordinates = np.einsum("...pr,...p->...r", factors.right, theta) / factors.singular
    return np.max(np.abs(np.einsum("...nr,...r->...n", factors.left, coordinates)), axis=-1)


def penalty_of(alpha: np.ndarray | float, log_gamma: float) -> np.ndarray | float:
    """lambda = -log(gamma) / (2 alpha), what a ratio alpha of learning rates amounts to (eq. 23).

    The function is its own inverse.
    """
    return -log_gamma / (2 * alpha)


def relative_difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """||a - b|| / max(||a||, ||b||) [...] over the last axis (Figure 2); 0 where both are 0."""
    difference = np.linalg.norm(a - b, axis=-1)
    scale = np.maximum(np.linalg.norm(a, axis=-1), np.linalg.norm(b, axis=-1))
    return np.divide(difference, scale, out=np.zeros_like(difference), where=scale > 0)
