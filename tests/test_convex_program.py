"""The batched interior-point solver against closed forms, the optimality conditions and CVXPY."""

import sys

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sop_jax.errors import UserError
from sop_jax.theory import convex_program as program
from sop_jax.theory import sparse_linear as model


def some(trials, num_rows=20, num_parameters=40, rank=3, sparsity=3):
    problems = model.stack(
        [model.draw((9, t), num_rows, num_parameters, rank, sparsity) for t in range(trials)]
    )
    return problems, model.factor(problems.jacobian, rank)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(-10, 10), min_size=4, max_size=4).filter(lambda y: np.ptp([0, *y]) > 1e-3),
    st.floats(1e-3, 5),
)
def test_with_the_identity_s_is_the_soft_threshold(observed, penalty):
    """J = I: min 1/2 ||y - s||^2 + lambda ||s||_1, so theta is y clipped to [-lambda, lambda].

    Not at |y_i| = lambda, where the error of an interior point is the root of its gap and not the
    gap.
    """
    observed = np.array([observed])
    assume(np.min(np.abs(np.abs(observed) - penalty)) > 1e-3)
    found = program.solve(np.eye(4)[None], observed, np.array([penalty]))
    np.testing.assert_allclose(found.coordinates, np.clip(observed, -penalty, penalty), atol=1e-6)
    np.testing.assert_allclose(
        found.noise, observed - np.clip(observed, -penalty, penalty), atol=1e-6
    )


def test_a_scalar_program():
    """N = r = 1: nu = clip(y / b^2, -lambda, lambda) and z = b nu."""
    slope, observed, penalty = (
        np.array([2.0, 2.0, 0.5]),
        np.array([1.0, 10.0, -3.0]),
        np.array([1.0, 1.0, 0.3]),
    )
    found = program.solve(slope[:, None, None], observed[:, None], penalty)
    np.testing.assert_allclose(found.nu[:, 0], [0.25, 1.0, -0.3], rtol=1e-7)
    np.testing.assert_allclose(found.coordinates[:, 0], [0.5, 2.0, -0.15], rtol=1e-7)
    np.testing.assert_allclose(found.noise[:, 0], [0.0, 6.0, -2.925], atol=1e-7)


def test_the_conditions_of_optimality_hold():
    problems, factors = some(4, num_rows=40, num_parameters=30, rank=12, sparsity=20)
    for penalty in (1e-4, 1e-2, 1.0):
        weights = np.full(4, penalty)
        found = program.solve(factors.basis, problems.observed, weights)
        assert program.kkt_residual(factors.basis, problems.observed, weights, found).max() < 1e-9
        wrong = found._replace(noise=found.noise * 1.001)
        assert program.kkt_residual(factors.basis, problems.observed, weights, wrong).min() > 1e-7


def test_without_noise_theta_is_recovered_above_the_threshold():
    """k = 0: nu = U S^-1 V^T theta* is dual feasible once lambda exceeds its largest entry."""
    problems, factors = some(5, sparsity=0)
    weights = 1.01 * model.threshold(factors, problems.theta)
    truth = np.einsum("tpr,tp->tr", factors.right, problems.theta)
    found = program.solve(factors.basis, problems.observed, weights)
    assert model.relative_difference(found.coordinates, truth).max() < 1e-6
    too_small = program.solve(factors.basis, problems.observed, weights / 100)
    assert model.relative_difference(too_small.coordinates, truth).min() > 0.1


@pytest.mark.parametrize("size", [(20, 40, 3, 3), (60, 80, 20, 30)], ids=str)
def test_cvxpy_finds_the_same_on_50_random_instances(size):
    """25 of figure 2's size, and 25 of a size at which s is not always recovered."""
    pytest.importorskip("cvxpy", reason="the extra `theory` is not installed")
    problems, factors = some(25, *size)
    weights = np.exp(np.random.default_rng(0).uniform(np.log(1e-4), 0, 25))
    found = program.solve(factors.basis, problems.observed, weights)
    for t in range(25):
        theta, noise = program.solve_cvxpy(problems.jacobian[t], problems.observed[t], weights[t])
        assert model.relative_difference(factors.right[t] @ found.coordinates[t], theta) < 1e-6
        assert model.relative_difference(found.noise[t], noise) < 1e-6


def test_without_cvxpy_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cvxpy", None)
    with pytest.raises(UserError, match=r"pip install 'sop-jax\[theory\]'"):
        program.solve_cvxpy(np.eye(2), np.ones(2), 1.0)
