"""Proposition 3.2, checked: every critical point of h is a global minimum or a strict saddle.

h(theta, u, v) = 1/2 ||J theta + u*u - v*v - y||^2 (SOP paper, eq. 15) can always be brought to 0.
Where its gradient is 0 but rho is not, some i has u_i = v_i = 0 and rho_i not 0 (Lemma B.1), and
the direction v_i (or u_i, by the sign of rho_i) has curvature -2 |rho_i|. So the smallest
eigenvalue of the Hessian is at most -2 ||rho||_inf there.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import least_squares

from sop_jax.theory.sparse_linear import Problem

CRITICAL = 1e-9  # a point with a gradient below this, against ||y|| (1 + ||J||), counts as critical
GLOBAL = 1e-6  # and as a global minimum if ||rho||_inf is below this share of ||y||


class CriticalPoints(NamedTuple):
    """Critical points found, M of S starts."""

    residual: np.ndarray  # [M], ||rho||_inf
    curvature: np.ndarray  # [M], smallest eigenvalue of the Hessian
    is_global: np.ndarray  # [M] bool: rho = 0 up to rounding
    # [M] bool: the smallest eigenvalue is at most -2 ||rho||_inf (up to 1e-3 of it)
    is_strict_saddle: np.ndarray


def gradient_and_hessian(
    problem: Problem, point: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(rho [N], gradient [p + 2N], Hessian [p + 2N, p + 2N]) of h at point = (theta, u, v)."""
    jacobian, observed = problem.jacobian, problem.observed
    num_rows, num_parameters = jacobian.shape
    theta, u, v = np.split(point, [num_parameters, num_parameters + num_rows])
    rho = jacobian @ theta + u * u - v * v - observed
    outer = np.hstack([jacobian, np.diag(2 * u), np.diag(-2 * v)])  # derivative of rho
    curvature = np.concatenate([np.zeros(num_parameters), 2 * rho, -2 * rho])
    return rho, outer.T @ rho, outer.T @ outer + np.diag(curvature)


def critical_points(
    problem: Problem, num_starts: int, random: np.random.Generator
) -> CriticalPoints:
    """Solves gradient = 0 by Levenberg-Marquardt from random starts.

    In these some random pairs (u_i, v_i) are 0, and stay 0, as they would have to by chance:
    without it hardly a saddle would be found.

    Args:
      problem: one problem, J [N, p].
      num_starts: S.
      random: where the starts come from.
    """
    num_rows, num_parameters = problem.jacobian.shape
    scale = np.linalg.norm(problem.observed) * (1 + np.linalg.norm(problem.jacobian, 2))
    found = []
    for _ in range(num_starts):
        absent = random.random(num_rows) < random.random()
        pairs = random.standard_normal((2, num_rows)) * ~absent
        start = np.concatenate([random.standard_normal(num_parameters), *pairs])
        point = least_squares(
            lambda x: gradient_and_hessian(problem, x)[1],
            start,
            jac=lambda x: gradient_and_hessian(problem, x)[2],
            method="lm",
            xtol=1e-15,
            ftol=1e-15,
            gtol=1e-15,
        ).x
        rho, gradient, hessian = gradient_and_hessian(problem, point)
        if np.linalg.norm(gradient) <= CRITICAL * scale:
            found.append((np.max(np.abs(rho)), np.linalg.eigvalsh(hessian)[0]))
    residual, curvature = np.array(found).reshape(-1, 2).T
    is_global = residual <= GLOBAL * np.linalg.norm(problem.observed)
    return CriticalPoints(
        residual, curvature, is_global, ~is_global & (curvature <= -2 * residual * (1 - 1e-3))
    )
