"""Low-rank recovery: descent against hand-made steps, its limit, the optimality of robust PCA."""

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import given, settings

from sop_jax.errors import UserError
from sop_jax.theory import low_rank

ALPHA = 20**0.5


@pytest.fixture(scope="module")
def problems():
    return [low_rank.make_problem(20, 1, 0.05, 10.0, seed) for seed in range(2)]


@pytest.fixture(scope="module")
def descents(problems):
    """The same descent from two starts."""
    return {
        gamma: low_rank.recover(problems, ALPHA, gamma, None, 12000, 120) for gamma in (1e-2, 1e-5)
    }


@settings(max_examples=20, deadline=None)
@given(rank=st.integers(1, 10), rate=st.floats(0, 0.9), seed=st.integers(0, 2**32 - 1))
def test_a_problem_is_what_it_says(rank, rate, seed):
    problem = low_rank.make_problem(30, rank, rate, 4.0, seed)
    assert np.linalg.matrix_rank(problem.low_rank) == rank
    assert np.linalg.eigvalsh(problem.low_rank).min() > -1e-12 * 30**2
    assert set(np.unique(problem.sparse)) <= {-4.0, 0.0, 4.0}
    for matrix in problem:
        assert matrix.dtype == np.float64 and matrix.shape == (30, 30)
        np.testing.assert_array_equal(matrix, matrix.T)
    np.testing.assert_array_equal(problem.observed, problem.low_rank + problem.sparse)


def test_the_sparse_part_hits_its_share():
    share = np.mean(low_rank.make_problem(300, 1, 0.1, 1.0, 0).sparse != 0)
    assert abs(share - 0.1) < 0.01


def test_two_steps_by_hand():
    """A 1x1 'matrix' y = 2 from gamma = .5, by the gradients of (u^2 + g^2 - h^2 - y)^2 / 4."""
    alpha, step, u, g, h = 3.0, 0.1, 0.5, 0.5, 0.5
    for _ in range(2):
        r = u * u + g * g - h * h - 2
        u, g, h = u - step * r * u, g - alpha * step * r * g, h + alpha * step * r * h
    one = np.full((1, 1), 2.0)
    with jax.enable_x64(True):
        ended = low_rank.descend(low_rank.Problem(one, 0 * one, one), alpha, 0.5, step, 2, 1)
    np.testing.assert_allclose(ended.low_rank, [[u * u]], rtol=1e-12)
    np.testing.assert_allclose(ended.sparse, [[g * g - h * h]], rtol=1e-12)
    np.testing.assert_allclose(ended.errors[1], abs(u * u - 2) / 2, rtol=1e-12)
    np.testing.assert_allclose(ended.loss, (u * u + g * g - h * h - 2) ** 2 / 4, rtol=1e-12)
    assert ended.low_rank.dtype == np.float64


def test_a_step_follows_the_gradient_that_jax_takes():
    rng = np.random.default_rng(0)
    observed = rng.standard_normal((4, 4)) + 3  # not symmetric, for the formula's sake
    with jax.enable_x64(True):
        start = {"u": 0.7 * np.eye(4), "g": np.full((4, 4), 0.7), "h": np.full((4, 4), 0.7)}
        loss = lambda v: ((v["u"] @ v["u"].T + v["g"] ** 2 - v["h"] ** 2 - observed) ** 2).sum() / 4  # noqa: E731
        grads = jax.grad(loss)(start)
        rates = {"u": 0.01, "g": 0.05, "h": 0.05}
        u, g, h = (np.asarray(start[name] - rate * grads[name]) for name, rate in rates.items())
        ended = low_rank.descend(low_rank.Problem(np.eye(4), 0, observed), 5.0, 0.7, 0.01, 1, 1)
    np.testing.assert_allclose(ended.low_rank, u @ u.T, rtol=1e-12)
    np.testing.assert_allclose(ended.sparse, g**2 - h**2, rtol=1e-10, atol=1e-12)


def test_exact_recovery_without_rank_or_sparsity(problems, descents):
    truth = np.stack([problem.low_rank for problem in problems])
    far, near = (low_rank.distance(descents[gamma].low_rank, truth) for gamma in (1e-2, 1e-5))
    assert np.all(near < 0.02) and np.all(near < far / 2)  # exact as gamma falls
    errors = descents[1e-5].errors
    assert errors.shape == (2, 100) and errors.dtype == np.float64
    np.testing.assert_allclose(errors[:, -1], near, rtol=1e-6)
    values = low_rank.spectrum(descents[1e-5].low_rank)
    assert np.all(values[:, 1] < 1e-2 * values[:, 0]) and values.min() > -1e-10


def test_largest_rise_is_of_single_iterations(problems):
    ended = low_rank.recover(problems[:1], ALPHA, 1e-2, None, 300, 1)
    at_start = low_rank.distance(1e-4 * np.eye(20), problems[0].low_rank)
    np.testing.assert_allclose(
        ended.largest_rise[0], np.diff([at_start, *ended.errors[0]]).max(), rtol=1e-6
    )
    assert ended.largest_rise[0] < 0  # it always fell


def test_robust_pca_solves_its_program(problems):
    """X + S = Y, X >= 0, and no other positive semidefinite X nearby has a lower objective."""
    weight = 1 / ALPHA
    for problem in problems:
        found, sparse = low_rank.robust_pca(problem.observed, weight, tolerance=1e-9)
        np.testing.assert_allclose(found + sparse, problem.observed, atol=1e-6)
        assert np.linalg.eigvalsh(found).min() > -1e-9
        assert low_rank.distance(found, problem.low_rank) < 1e-6  # it recovers X exactly here
        objective = np.trace(found) + weight * np.abs(sparse).sum()
        rng = np.random.default_rng(0)
        # of X shrunk a little, as that lowers the trace, and moved
        for scale in (1e-3, 1e-2, 1e-1, 1):
            factor = rng.standard_normal((20, 2))
            other = (1 - 0.1 * scale) * found + 0.01 * scale * factor @ factor.T
            assert np.trace(other) + weight * np.abs(problem.observed - other).sum() > objective


def test_robust_pca_of_a_scalar_by_hand():
    """min x + w|s| s.t. x + s = y, x >= 0: x = y if w > 1, x = 0 if w < 1 or y < 0."""
    for value, weight, expected in ((3.0, 2.0, 3.0), (3.0, 0.5, 0.0), (-3.0, 2.0, 0.0)):
        found, sparse = low_rank.robust_pca(np.full((1, 1), value), weight, tolerance=1e-9)
        np.testing.assert_allclose(
            [found.item(), sparse.item()], [expected, value - expected], atol=1e-7
        )


def test_robust_pca_says_when_it_is_not_done(problems):
    with pytest.raises(UserError, match="not within"):
        low_rank.robust_pca(problems[0].observed, 1 / ALPHA, iterations=2)


def test_the_largest_step_separates_descent_from_divergence(problems):
    with jax.enable_x64(True):
        limit = float(low_rank.largest_step(problems[0].observed, ALPHA))
    spectral, entry = np.linalg.norm(problems[0].observed, 2), np.abs(problems[0].observed).max()
    assert limit == pytest.approx(1 / max(spectral, ALPHA * entry))
    calm = low_rank.recover(problems[:1], ALPHA, 1e-2, 0.3 * limit, 400, 400)
    assert calm.loss[0] < 1
    with pytest.raises(UserError, match=r"descent diverged.*1 / max.*lower alpha or the step"):
        low_rank.recover(problems[:1], ALPHA, 1e-2, 3 * limit, 400, 400)


def test_alpha_too_large_for_a_given_step_diverges_and_the_limit_is_named(problems):
    with jax.enable_x64(True):
        step = 0.05 * float(low_rank.largest_step(problems[0].observed, ALPHA))
    with pytest.raises(UserError, match=r"config.matrix.alpha=4e\+03: descent diverged"):
        low_rank.recover(problems[:1], 4000.0, 1e-2, step, 400, 400)


def test_facts_by_hand():
    truth = np.diag([4.0, 2.0, 0.0])[None]
    descent = {"low_rank": np.diag([4.0, 2.0, 0.01])[None], "largest_rise": np.array([-1e-9])}
    facts = low_rank.facts(descent, truth, np.diag([4.0, 2.0, 0.03])[None], rank=2)
    assert facts["eigenvalue_ratio"] == [pytest.approx(0.005)]
    assert facts["relative_error"] == [pytest.approx(0.01 / 20**0.5)]
    assert facts["distance_to_robust_pca"] == [pytest.approx(0.02 / 20**0.5, rel=1e-3)]
    assert facts["smallest_eigenvalue"] == [pytest.approx(0.0025)] and facts["largest_rise"] == [
        -1e-9
    ]
