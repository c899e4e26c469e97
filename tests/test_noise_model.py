"""The noise model recovers what made the labels, and nothing where nothing is wrong."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, softmax

from sop_jax import noise_model

K = 4


def symmetric(rate, k=K):
    return np.full((k, k), rate / (k - 1)) * (1 - np.eye(k)) + (1 - rate) * np.eye(k)


def pairflip(rate, k=K):
    return (1 - rate) * np.eye(k) + rate * np.roll(np.eye(k), 1, axis=1)


def made(transition, rows=3000, blur=1.0, seed=0):
    """(log-probabilities as a network trained on the noisy labels would predict, given, true).

    The network sees the true class through Gaussian noise of its logits and predicts q T.
    """
    rng = np.random.default_rng(seed)
    true = rng.integers(0, K, rows)
    given = (transition[true].cumsum(1) > rng.random((rows, 1))).argmax(1)
    logits = 5.0 * np.eye(K)[true] + blur * rng.normal(size=(rows, K))
    return np.log(softmax(logits, 1) @ transition), given, true


def wrong_share(model, log_probs, label):
    posterior = noise_model.log_posterior(model, log_probs, label)
    return expit(-noise_model.odds_of_given(posterior, label))


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.2, 0.5])
def test_symmetric_noise_is_measured(rate):
    log_probs, label, true = made(symmetric(rate))
    model = noise_model.fit(log_probs, label)
    wrong = wrong_share(model, log_probs, label)
    assert abs(wrong.mean() - np.mean(label != true)) < 0.015
    np.testing.assert_allclose(model.transition, symmetric(rate), atol=0.06)
    np.testing.assert_allclose(model.transition.sum(1), 1)
    assert np.mean((wrong > 0.5) == (label != true)) > 0.97


@pytest.mark.parametrize("rate", [0.2, 0.4])
def test_pairflips_need_the_matrix(rate, monkeypatch):
    """The second most probable class is the clue: no temperature turns p = q T back into q."""
    log_probs, label, true = made(pairflip(rate), blur=1.5)
    model = noise_model.fit(log_probs, label)
    wrong = wrong_share(model, log_probs, label)
    assert abs(wrong.mean() - rate) < 0.05
    assert np.mean((wrong > 0.5) == (label != true)) > 0.95
    np.testing.assert_allclose(model.transition, pairflip(rate), atol=0.1)
    monkeypatch.setattr(noise_model, "MOST_CLASSES", K - 1)
    without = noise_model.fit(log_probs, label)
    np.testing.assert_array_equal(without.weight, without.weight[0, 0] * np.eye(K))
    assert np.mean((wrong_share(without, log_probs, label) > 0.5) != (label != true)) > np.mean(
        (wrong > 0.5) != (label != true)
    )


def test_a_class_without_rows_is_no_trouble():
    log_probs, label, _ = made(symmetric(0.1), rows=400)
    label = np.where(label == 3, 2, label)
    model = noise_model.fit(log_probs, label)
    assert np.isfinite(model.transition).all() and np.isfinite(model.weight).all()
    assert np.isfinite(wrong_share(model, log_probs, label)).all()


def test_the_pull_of_the_own_label_is_taken_off():
    """Predictions drawn half-way to the given labels, as of a network that memorises."""
    log_probs, label, true = made(symmetric(0.3))
    drawn = 0.5 * np.exp(log_probs) + 0.5 * np.eye(K)[label]
    drawn = np.log(drawn / drawn.sum(1, keepdims=True))
    believed = wrong_share(noise_model.fit(drawn, label), drawn, label).mean()
    assert believed < 0.1  # without it hardly any label looks wrong
    own = noise_model.fit_own(drawn, label, symmetric(0.3), 0.3)
    logits = noise_model.log_posterior_of_own(own, drawn, label, symmetric(0.3))
    wrong = expit(-noise_model.odds_of_given(logits, label))
    np.testing.assert_allclose(wrong.mean(), 0.3, atol=1e-6)
    assert own.pull > 1
    assert np.mean((wrong > 0.5) == (label != true)) > 0.95


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-50, 50), min_size=2, max_size=40),
    st.floats(1e-4, 0.999),
)
def test_pull_for_gives_the_rate(log_odds, rate):
    log_odds = np.array(log_odds)
    pull = noise_model.pull_for(log_odds, rate)
    np.testing.assert_allclose(expit(pull - log_odds).mean(), rate, atol=1e-6)


def test_odds_by_hand():
    logits = np.log([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    np.testing.assert_allclose(
        noise_model.odds_of_given(logits, np.array([0, 1])), np.log([1.0, 1 / 9]), atol=1e-12
    )
