"""Proposition 3.2 on small problems, and the Hessian it is checked with."""

import jax
import jax.numpy as jnp
import numpy as np

from sop_jax.theory import landscape, sparse_linear

PROBLEM = sparse_linear.draw((3,), 4, 6, 2, 2)


def test_gradient_and_hessian_are_those_of_h():
    def h(point):
        theta, u, v = jnp.split(point, [6, 10])
        return 0.5 * jnp.sum((PROBLEM.jacobian @ theta + u * u - v * v - PROBLEM.observed) ** 2)

    point = np.random.default_rng(0).standard_normal(14)
    with jax.enable_x64(True):
        gradient, hessian = jax.jit(jax.grad(h))(point), jax.jit(jax.hessian(h))(point)
    _, own_gradient, own_hessian = landscape.gradient_and_hessian(PROBLEM, point)
    np.testing.assert_allclose(own_gradient, gradient, atol=1e-10)
    np.testing.assert_allclose(own_hessian, hessian, atol=1e-10)


def test_the_least_squares_fit_is_a_saddle_of_known_curvature():
    """u = v = 0, theta the least squares fit: critical, of curvature -2 ||rho||_inf (Prop. 3.2)."""
    theta = np.linalg.lstsq(PROBLEM.jacobian, PROBLEM.observed, rcond=1e-10)[0]
    rho, gradient, hessian = landscape.gradient_and_hessian(
        PROBLEM, np.concatenate([theta, np.zeros(8)])
    )
    np.testing.assert_allclose(gradient, 0, atol=1e-10)
    np.testing.assert_allclose(np.linalg.eigvalsh(hessian)[0], -2 * np.abs(rho).max(), rtol=1e-9)


def test_every_critical_point_is_a_global_minimum_or_a_strict_saddle():
    found = landscape.critical_points(PROBLEM, 60, np.random.default_rng(0))
    assert (
        len(found.residual) >= 50
        and found.is_global.sum() >= 3
        and found.is_strict_saddle.sum() >= 3
    )
    assert np.all(found.is_global | found.is_strict_saddle)
