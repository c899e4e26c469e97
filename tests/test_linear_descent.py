"""Gradient descent on the linear model: its step is the gradient's, its end that of the flow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from sop_jax.errors import UserError
from sop_jax.theory import linear_descent as descent
from sop_jax.theory import sparse_linear as model


def lanes(alphas, trials=1):
    problems = model.stack([model.draw((5, t), 12, 20, 2, 2) for t in range(trials)])
    basis = model.factor(problems.jacobian, 2).basis
    instance = np.repeat(np.arange(trials), len(alphas))
    return basis[instance], problems.observed[instance], np.tile(alphas, trials)


def test_a_step_is_the_gradient_of_h_with_learning_rates_tau_and_alpha_tau():
    """In the full theta, by automatic differentiation; the step holds its r coordinates."""
    problem = model.draw((0,), 6, 9, 2, 2)
    factors = model.factor(problem.jacobian, 2)
    random, alpha, tau = np.random.default_rng(0), 3.0, 1e-3
    z, u, v = random.standard_normal(2), random.standard_normal(6), random.standard_normal(6)

    def h(theta, u, v):
        return 0.5 * jnp.sum((problem.jacobian @ theta + u * u - v * v - problem.observed) ** 2)

    with jax.enable_x64(True):
        theta = factors.right @ z
        d_theta, d_u, d_v = map(np.asarray, jax.jit(jax.grad(h, argnums=(0, 1, 2)))(theta, u, v))
        new = list(
            map(np.asarray, descent.step(factors.basis, problem.observed, alpha, tau, (z, u, v)))
        )
    np.testing.assert_allclose(factors.right @ new[0], theta - tau * d_theta, atol=1e-12)
    np.testing.assert_allclose(new[1], u - alpha * tau * d_u, atol=1e-12)
    np.testing.assert_allclose(new[2], v - alpha * tau * d_v, atol=1e-12)


def test_the_invariants_of_the_flow_hold_up_to_the_step():
    """theta = J^T nu exactly and u v = gamma^2 with an error in proportion to tau (eq. 20)."""
    basis, observed, _ = (x[0] for x in lanes([1.0]))
    alpha, gamma, errors = 20.0, 0.01, []
    step, residual = jax.jit(descent.step), jax.jit(descent.residual)
    for tau, steps in ((2e-5, 500), (1e-5, 1000)):
        state, nu = (np.zeros(2), np.full(12, gamma), np.full(12, gamma)), np.zeros(12)
        for _ in range(steps):
            with jax.enable_x64(True):
                nu = nu - tau * np.asarray(residual(basis, observed, *state))
                state = tuple(map(np.asarray, step(basis, observed, alpha, tau, state)))
        np.testing.assert_allclose(state[0], basis.T @ nu, atol=1e-12)
        errors.append(np.max(np.abs(state[1] * state[2] / gamma**2 - 1)))
    assert 0.3 < errors[1] / errors[0] < 0.7 and errors[0] < 0.02


@settings(max_examples=25, deadline=None)
@given(st.floats(0.1, 30), st.floats(-20, 20), st.floats(1, 4000), st.floats(-16, -2))
def test_the_limit_of_a_scalar_problem(slope, observed, alpha, log_gamma):
    """N = r = 1: the root of b^2 nu + 2 gamma^2 sinh(4 alpha nu) = y, in t = 4 alpha nu."""
    found = descent.exact_limit(
        np.full((1, 1, 1), slope), np.full((1, 1), observed), np.array([alpha]), log_gamma
    )

    def equation(t):
        return slope**2 * t / (4 * alpha) + 2 * np.exp(2 * log_gamma) * np.sinh(t) - observed

    root = brentq(equation, -60, 60, xtol=1e-14) / (4 * alpha)
    np.testing.assert_allclose(found.nu[0, 0], root, rtol=1e-6, atol=1e-10 / slope**2)
    np.testing.assert_allclose(
        slope * found.coordinates[0, 0] + found.noise[0, 0], observed, atol=1e-9
    )


def test_the_limit_without_a_jacobian_is_the_observation():
    """B = 0: s = y and nu = asinh(y / (2 gamma^2)) / (4 alpha)."""
    observed = np.array([[1.5, -0.25, 0.0]])
    found = descent.exact_limit(np.zeros((1, 3, 2)), observed, np.array([10.0]), -4.0)
    np.testing.assert_allclose(found.noise, observed, atol=1e-10)
    np.testing.assert_allclose(found.nu, np.arcsinh(observed / (2 * np.exp(-8))) / 40, atol=1e-7)


def test_descent_ends_at_the_limit():
    basis, observed, alpha = lanes([4.0, 300.0, 4000.0], trials=2)
    ended = descent.descend(basis, observed, alpha, -4.0, 1_000_000)
    limit = descent.exact_limit(basis, observed, alpha, -4.0)
    assert ended.converged.all() and limit.residual.max() < 1e-10
    assert model.relative_difference(ended.coordinates, limit.coordinates).max() < 0.01
    assert model.relative_difference(ended.noise, limit.noise).max() < 0.01


def test_descent_with_a_given_step_stops_at_the_cap():
    basis, observed, alpha = lanes([400.0])
    step = descent.safe_step(basis, observed, alpha)[0]
    ended = descent.descend(basis, observed, alpha, -5.0, 300, step_size=step)
    assert ended.iterations[0] == 300 and not ended.converged[0]
    by_hand = (np.zeros(2), np.full(12, np.exp(-5.0)), np.full(12, np.exp(-5.0)))
    with jax.enable_x64(True):
        by_hand = jax.lax.fori_loop(
            0,
            300,
            lambda _, s: descent.step(basis[0], observed[0], 400.0, step, s),
            tuple(map(jnp.asarray, by_hand)),
        )
    np.testing.assert_allclose(ended.coordinates[0], by_hand[0], rtol=1e-9)
    np.testing.assert_allclose(ended.u[0], by_hand[1], rtol=1e-9)


def test_divergence_names_alpha_and_the_limit():
    basis, observed, alpha = lanes([4.0, 4000.0])
    with pytest.raises(
        UserError, match=r"diverges at alpha=4000.*step_size <= .* = ([0-9.e-]+) "
    ) as error:
        descent.descend(basis, observed, alpha, -5.0, 10_000, step_size=1e-4)
    limit = min(0.5 / np.linalg.norm(basis[1], 2) ** 2, 0.02 / (4000 * np.abs(observed[1]).max()))
    assert f"= {limit:.3g} " in str(error.value)
