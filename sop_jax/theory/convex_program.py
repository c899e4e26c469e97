"""The convex program that SOP solves in disguise (SOP paper, eq. 26).

    min 1/2 ||theta||^2 + lambda ||s||_1   subject to   y = J theta + s

Its dual is the quadratic program max <y, nu> - 1/2 ||J^T nu||^2 over the box |nu| <= lambda, with
theta = J^T nu. `solve` is a primal-dual interior-point method for the pair, batched over problems;
`solve_cvxpy` is the reference.
"""

from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sop_jax.errors import UserError

# Of the mean complementarity product, relative to lambda times the mean of |y|. At 1e-11 the s of
# a large problem with a tiny entry may still be 1e-5 away.
GAP = 1e-13
MAX_ITERATIONS = 100
BATCH = 128  # programs solved at a time: their matrices [N, N] are all in memory
TO_BOUNDARY = 0.995  # share of the way to the boundary that a step may go


class Solution(NamedTuple):
    """Solutions of L programs. float64."""

    nu: np.ndarray  # dual variable [L, N]
    coordinates: np.ndarray  # z = B^T nu [L, r]: theta = V z
    noise: np.ndarray  # s = y - B z [L, N]


def _solve(basis, observed, penalty):
    """One program by Mehrotra's predictor-corrector method.

    With s = plus - minus, both >= 0, and the slacks up = lambda - nu and down = lambda + nu of the
    box, the optimum is B B^T nu + plus - minus = y and plus*up = minus*down = 0. A Newton step on
    it towards given products leaves one positive definite system for nu: B B^T plus the diagonal
    plus/up + minus/down.
    """
    gram, scale = basis @ basis.T, jnp.mean(jnp.abs(observed))

    def products(nu, plus, minus):
        return jnp.stack([plus * (penalty - nu), minus * (penalty + nu)])

    def newton(nu, plus, minus):
        """A function of aims [2, N]: the step that makes the products, to first order, the aims."""
        up, down = penalty - nu, penalty + nu
        root = jax.lax.rsqrt(plus / up + minus / down)
        factored = jax.scipy.linalg.cho_factor(
            jnp.eye(len(nu)) + root[:, None] * gram * root[None, :]
        )

        def towards(aims):
            left_plus, left_minus = aims - products(nu, plus, minus)
            right = observed - gram @ nu - plus + minus - left_plus / up + left_minus / down
            d_nu = root * jax.scipy.linalg.cho_solve(factored, root * right)
            return d_nu, (left_plus + plus * d_nu) / up, (left_minus - minus * d_nu) / down

        return towards

    def longest(nu, plus, minus, d_nu, d_plus, d_minus):
        """The longest step <= 1 that leaves all four non-negative."""
        values = jnp.stack([plus, minus, penalty - nu, penalty + nu])
        moves = jnp.stack([d_plus, d_minus, -d_nu, d_nu])
        return jnp.minimum(1.0, jnp.min(jnp.where(moves < 0, -values / moves, jnp.inf)))

    def iterate(carry):
        point, count = carry
        mean = jnp.mean(products(*point))
        towards = newton(*point)
        affine = towards(jnp.zeros((2, len(observed))))
        length = longest(*point, *affine)
        reached = jnp.mean(products(*(x + length * d for x, d in zip(point, affine, strict=True))))
        d_nu, d_plus, d_minus = affine
        second_order = jnp.stack([-d_plus * d_nu, d_minus * d_nu])
        move = towards((reached / mean) ** 3 * mean - second_order)
        length = TO_BOUNDARY * longest(*point, *move)
        return tuple(x + length * d for x, d in zip(point, move, strict=True)), count + 1

    def goes_on(carry):
        (nu, plus, minus), count = carry
        unmet = jnp.max(jnp.abs(observed - gram @ nu - plus + minus))
        open_gap = jnp.mean(products(nu, plus, minus)) > GAP * penalty * scale
        return (open_gap | (unmet > 1e-10 * scale)) & (count < MAX_ITERATIONS)

    start = (
        jnp.zeros_like(observed),
        jnp.maximum(observed, 0) + scale,
        jnp.maximum(-observed, 0) + scale,
    )
    (nu, _, _), _ = jax.lax.while_loop(goes_on, iterate, (start, 0))
    coordinates = basis.T @ nu
    return Solution(nu, coordinates, observed - basis @ coordinates)


@jax.jit
def _solve_all(*arrays):
    return jax.lax.map(lambda program: _solve(*program), arrays, batch_size=BATCH)


def solve(basis: np.ndarray, observed: np.ndarray, penalty: np.ndarray) -> Solution:
    """Solves L programs.

    Args:
      basis: B [L, N, r] with J = B V^T and V of orthonormal columns
        (`sparse_linear.Factors.basis`).
      observed: y [L, N], not all 0. penalty: lambda [L] > 0.
    """
    programs = [np.asarray(x, np.float64) for x in (basis, observed, penalty)]
    with jax.enable_x64(True):
        return Solution(*map(np.asarray, _solve_all(*programs)))


def kkt_residual(
    basis: np.ndarray, observed: np.ndarray, penalty: np.ndarray, solution: Solution
) -> np.ndarray:
    """The largest violation [L] of the optimality conditions, each relative to its own scale.

    They are (SOP paper, Lemma B.2) B z + s = y, z = B^T nu, |nu| <= lambda, and
    nu_i = lambda sign(s_i) where s_i is not 0, the last as the gap
    sum_i (lambda |s_i| - nu_i s_i) against lambda ||y||_1.
    """
    nu, coordinates, noise = solution
    largest, penalty = np.max(np.abs(observed), axis=-1), np.asarray(penalty)
    unmet = np.einsum("...nr,...r->...n", basis, coordinates) + noise - observed
    fit = np.max(np.abs(unmet), axis=-1) / largest
    dual = np.linalg.norm(coordinates - np.einsum("...nr,...n->...r", basis, nu), axis=-1)
    dual /= np.maximum(np.linalg.norm(coordinates, axis=-1), np.finfo(np.float64).tiny)
    outside = np.maximum(np.max(np.abs(nu), axis=-1) / penalty - 1, 0)
    gap = np.sum(penalty[..., None] * np.abs(noise) - nu * noise, axis=-1)
    gap = np.abs(gap) / (penalty * np.sum(np.abs(observed), axis=-1))
    return np.max([fit, dual, outside, gap], axis=0)


def import_cvxpy() -> ModuleType:
    """The module cvxpy, which only an extra of the package installs; a UserError says which."""
    try:
        import cvxpy
    except ImportError:
        raise UserError(
            "the reference solver needs CVXPY, which is not installed: "
            "pip install 'sop-jax[theory]' (in a checkout: pip install -e '.[theory]')"
        ) from None
    return cvxpy


def solve_cvxpy(
    jacobian: np.ndarray, observed: np.ndarray, penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    """One program by CVXPY, as the paper solved it: (theta [p], s [N]).

    Args:
      jacobian: J [N, p]. observed: y [N]. penalty: lambda.

    Raises:
      UserError: CVXPY is not installed.
    """
    cvxpy = import_cvxpy()
    theta, noise = cvxpy.Variable(jacobian.shape[1]), cvxpy.Variable(jacobian.shape[0])
    objective = cvxpy.Minimize(0.5 * cvxpy.sum_squares(theta) + penalty * cvxpy.norm1(noise))
    program = cvxpy.Problem(objective, [jacobian @ theta + noise == observed])
    program.solve(solver=cvxpy.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
    return theta.value, noise.value
