"""A low-rank matrix with sparse gross errors: double over-parameterisation, and robust PCA.

Y = X + S with X positive semidefinite of small rank and S sparse. Gradient descent on

    1/4 ||U U' + g*g - h*h - Y||_F^2,   U [n, n], g and h [n, n], started at gamma*I, gamma, gamma,

g and h `alpha` times as fast as U, needs neither the rank nor the sparsity (You, Zhu, Qu, Ma,
NeurIPS 2020, arXiv 2006.08857, sections 2 and 3). The paper's theory names as its limit for gamma
-> 0 the solution of min trace(X) + 1/alpha ||S||_1 s.t. X + S = Y, X >= 0: robust PCA over positive
semidefinite X, `robust_pca` here. Where that program recovers X we see the two agree; where it does
not, for alpha too large, descent can end elsewhere and nearer to X (see
benchmarks/results/matrix_recovery.json). Everything in float64.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sop_jax.errors import UserError

STEP = 0.05  # of the step at which descent becomes unstable: tau = STEP * largest_step


class Problem(NamedTuple):
    """`low_rank` + `sparse` = `observed`, each float64 [n, n] and symmetric."""

    low_rank: np.ndarray
    sparse: np.ndarray
    observed: np.ndarray


class Descent(NamedTuple):
    """Where gradient descent ended, float64, and how it came there.

    Attributes:
      low_rank: U U' [n, n]. sparse: g*g - h*h [n, n].
      errors: [T / every], ||U U' - X|| / ||X|| after each `every` iterations.
      largest_rise: greatest increase of that error in any single one of the T iterations, negative
        if it always fell.
      loss: 1/4 ||U U' + g*g - h*h - Y||^2 at the end.
    """

    low_rank: jax.Array
    sparse: jax.Array
    errors: jax.Array
    largest_rise: jax.Array
    loss: jax.Array


def make_problem(size: int, rank: int, rate: float, magnitude: float, seed: int) -> Problem:
    """X = A A' with A [size, rank] standard normal, and S with entries +-magnitude or 0.

    An entry of S is not 0 with probability `rate`. S is symmetric as X is: its upper triangle is
    drawn and mirrored.
    """
    rng = np.random.default_rng(seed)
    factor = rng.standard_normal((size, rank))
    drawn = magnitude * rng.choice([-1.0, 1.0], (size, size)) * (rng.random((size, size)) < rate)
    sparse = np.triu(drawn) + np.triu(drawn, 1).T
    return Problem(factor @ factor.T, sparse, factor @ factor.T + sparse)


def largest_step(observed: jax.Array, alpha: float) -> jax.Array:
    """1 / max(||Y||, alpha ||Y||_inf): a step tau above it is unstable at the minimum.

    For one eigenvalue x of X the loss (u^2 - x)^2 / 4 has curvature 2x at u^2 = x, for an entry s
    of S it has 2s in g; descent needs tau * 2x < 2 and alpha * tau * 2s < 2. ||Y|| and ||Y||_inf
    stand for those of X and S.
    """
    return 1 / jnp.maximum(jnp.linalg.norm(observed, 2), alpha * jnp.max(jnp.abs(observed)))


def descend(
    problem: Problem, alpha: float, gamma: float, step: jax.Array, iterations: int, every: int
) -> Descent:
    """Gradient descent for `iterations`, a multiple of `every`.

    U learns at the rate `step`, g and h at alpha * `step`.
    """
    observed, truth = problem.observed, problem.low_rank
    size = observed.shape[-1]

    def error(factor):
        return jnp.linalg.norm(factor @ factor.T - truth) / jnp.linalg.norm(truth)

    def residual(factor, g, h):
        return factor @ factor.T + g * g - h * h - observed

    def one(carry, _):
        factor, g, h, before, rise = carry
        r = residual(factor, g, h)
        factor = factor - step / 2 * (r + r.T) @ factor
        g, h = g - alpha * step * r * g, h + alpha * step * r * h
        now = error(factor)
        return (factor, g, h, now, jnp.maximum(rise, now - before)), None

    def several(carry, _):
        carry, _ = jax.lax.scan(one, carry, length=every)
        return carry, carry[3]

    factor, flat = gamma * jnp.eye(size, dtype=observed.dtype), jnp.full_like(observed, gamma)
    start = (factor, flat, flat, error(factor), jnp.asarray(-jnp.inf, observed.dtype))
    (factor, g, h, _, rise), errors = jax.lax.scan(several, start, length=iterations // every)
    loss = jnp.sum(residual(factor, g, h) ** 2) / 4
    return Descent(factor @ factor.T, g * g - h * h, errors, rise, loss)


def recover(
    problems: list[Problem],
    alpha: float,
    gamma: float,
    step: float | None,
    iterations: int,
    every: int,
) -> Descent:
    """`descend` on several problems of one size in one program.

    The fields gain a leading dimension, the problems; they are NumPy arrays.

    Args:
      step: tau; None: STEP * largest_step, each problem's own.

    Raises:
      UserError: the step is too large, so that descent diverged.
    """
    with jax.enable_x64(True):
        stacked = Problem(*(jnp.stack(parts) for parts in zip(*problems, strict=True)))
        limits = jax.vmap(largest_step, (0, None))(stacked.observed, alpha)
        steps = STEP * limits if step is None else jnp.full_like(limits, step)

        def one(problem, tau):
            return descend(problem, alpha, gamma, tau, iterations, every)

        ended = Descent(*map(np.asarray, jax.jit(jax.vmap(one))(stacked, steps)))
        limits, steps, observed = map(np.asarray, (limits, steps, stacked.observed))
    first_loss = np.sum(observed**2, axis=(1, 2)) / 4  # up to gamma, which all but is 0
    if not np.all(ended.loss < first_loss):  # NaN too
        raise UserError(
            f"config.matrix.step={np.max(steps):.3g} with config.matrix.alpha={alpha:.3g}: descent "
            "diverged; a step must stay well below 1 / max(||Y||, alpha ||Y||_inf) = "
            f"{np.min(limits):.3g}, so lower alpha or the step, or leave the step unset for {STEP} "
            "of that"
        )
    return ended


def robust_pca(
    observed: np.ndarray, weight: float, iterations: int = 20000, tolerance: float = 1e-6
) -> tuple[np.ndarray, np.ndarray]:
    """(X, S) solving min trace(X) + weight ||S||_1 s.t. X + S = Y, X >= 0, by ADMM.

    X takes the eigenvalues of Y - S + Z / rho lowered by 1 / rho and cut at zero, S the entries of
    Y - X + Z / rho drawn in by weight / rho (Candes, Li, Ma, Wright 2011, section 5, with
    eigenvalues in place of singular values).

    Args:
      observed: Y, float64 [n, n], symmetric.
      weight: of the errors.
      iterations: at most.
      tolerance: on ||Y - X - S|| and on the step of S, relative to ||Y||.

    Raises:
      UserError: not within the tolerance after `iterations`.
    """
    penalty = observed.size / (4 * np.abs(observed).sum())
    sparse, dual, scale = np.zeros_like(observed), np.zeros_like(observed), np.linalg.norm(observed)
    for _ in range(iterations):
        values, vectors = np.linalg.eigh(observed - sparse + dual / penalty)
        low_rank = (vectors * np.maximum(values - 1 / penalty, 0)) @ vectors.T
        wanted, before = observed - low_rank + dual / penalty, sparse
        sparse = np.sign(wanted) * np.maximum(np.abs(wanted) - weight / penalty, 0)
        gap = observed - low_rank - sparse
        dual = dual + penalty * gap
        if max(np.linalg.norm(gap), np.linalg.norm(sparse - before)) <= tolerance * scale:
            return low_rank, sparse
    raise UserError(
        f"robust PCA by ADMM is not within {tolerance} after {iterations} iterations; is "
        f"config.matrix.alpha={1 / weight:.3g} far from the square root of the size?"
    )


def distance(matrices: np.ndarray, others: np.ndarray) -> np.ndarray:
    """||A - B|| / ||B|| of each pair, [problems]."""
    return np.linalg.norm(matrices - others, axis=(-2, -1)) / np.linalg.norm(others, axis=(-2, -1))


def spectrum(matrices: np.ndarray) -> np.ndarray:
    """Eigenvalues of symmetric matrices [..., n, n], falling: [..., n]."""
    return np.linalg.eigvalsh(matrices)[..., ::-1]


def facts(
    descent: Mapping[str, np.ndarray], truth: np.ndarray, convex: np.ndarray, rank: int
) -> dict[str, list]:
    """What the summary says of descents, a list over the problems under each key.

    Args:
      descent: fields of a Descent, each over the problems.
      truth: X [problems, n, n]. convex: X by robust PCA, the same shape.
      rank: of X.

    Returns:
      relative_error: to X.
      distance_to_robust_pca: to its X.
      largest_rise: see Descent.
      eigenvalue_ratio: eigenvalue rank + 1 over eigenvalue rank, small if the rank is found.
      smallest_eigenvalue: of UU', over the largest.
    """
    values = spectrum(descent["low_rank"])
    columns = {
        "relative_error": distance(descent["low_rank"], truth),
        "distance_to_robust_pca": distance(descent["low_rank"], convex),
        "largest_rise": descent["largest_rise"],
        "eigenvalue_ratio": values[:, rank] / values[:, rank - 1],
        "smallest_eigenvalue": values[:, -1] / values[:, 0],
    }
    return {name: column.tolist() for name, column in columns.items()}
