"""Problems of the linear model, and what the theorems measure of them, by hand-computed values."""

import chex
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sop_jax.theory import sparse_linear as model


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(0, 8))
def test_a_drawn_problem_is_what_the_paper_describes(seed, rank, sparsity):
    problem = model.draw((seed,), 8, 12, rank, sparsity)
    chex.assert_shape(problem, [(8, 12), (8,), (12,), (8,)])
    assert (
        np.linalg.matrix_rank(problem.jacobian) == rank
        and np.count_nonzero(problem.noise) == sparsity
    )
    np.testing.assert_allclose(
        problem.jacobian @ problem.theta + problem.noise, problem.observed, atol=1e-10
    )
    minimum_norm = np.linalg.pinv(problem.jacobian, rcond=1e-10) @ (
        problem.observed - problem.noise
    )
    np.testing.assert_allclose(problem.theta, minimum_norm, atol=1e-6)


def test_problems_are_functions_of_their_seed():
    again = model.draw((1, 2), 8, 12, 2, 3)
    chex.assert_trees_all_equal(model.draw((1, 2), 8, 12, 2, 3), again)
    assert not np.allclose(model.draw((1, 3), 8, 12, 2, 3).jacobian, again.jacobian)


def test_factors_hold_the_jacobian_in_r_coordinates():
    problems = model.stack([model.draw((0, t), 8, 12, 3, 2) for t in range(4)])
    factors = model.factor(problems.jacobian, 3)
    chex.assert_shape(factors, [(4, 8, 3), (4, 3), (4, 12, 3)])
    np.testing.assert_allclose(
        factors.basis @ np.swapaxes(factors.right, 1, 2), problems.jacobian, atol=1e-10
    )


def test_coherence_at_its_bounds():
    """Columns of the identity are as coherent as can be, N/r; a Hadamard matrix's not at all."""
    assert model.coherence(np.eye(6)[:, :2]) == pytest.approx(3)
    hadamard = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
    assert model.coherence(hadamard[:, :2]) == pytest.approx(1)


def test_the_condition_of_proposition_3_5():
    flat = np.full((64, 1), 1 / 8)  # mu = 1, r = 1: k^2 < 16
    assert model.recovery_is_guaranteed(flat, 3) and not model.recovery_is_guaranteed(flat, 4)


def test_threshold_of_a_rank_one_problem():
    """J = 5 (.6, .8) (0, 1)^T and theta* = (0, 3): U S^-1 V^T theta* = (.36, .48)."""
    factors = model.factor(5 * np.outer([0.6, 0.8], [0.0, 1.0]), 1)
    assert model.threshold(factors, np.array([0.0, 3.0])) == pytest.approx(0.48)


def test_the_curve_of_lambda_and_alpha():
    # lambda = 4 / alpha at gamma = e^-8
    assert model.penalty_of(4.0, -8.0) == pytest.approx(1.0)
    assert model.penalty_of(model.penalty_of(126.0, -8.0), -8.0) == pytest.approx(126.0)


def test_relative_difference_by_hand():
    a, b = np.array([[3.0, 4.0], [0.0, 0.0]]), np.array([[0.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(model.relative_difference(a, b), [3 / 5, 0])
