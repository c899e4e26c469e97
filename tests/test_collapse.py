"""Neural collapse: metrics on exact frames, the ETF, the optima of the unconstrained features."""

import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sop_jax import collapse
from sop_jax.evaluate import COLLAPSE_KEYS, COLLAPSE_TRUE_KEYS, collapse_metrics
from sop_jax.methods.focal import focal_loss
from sop_jax.methods.label_smoothing import smoothed_cross_entropy
from sop_jax.methods.mse import rescaled_mse
from sop_jax.models.etf import etf_weight, simplex_etf
from sop_jax.theory.unconstrained_features import minimise


def collapsed(num_classes=5, dim=8, per_class=6, scale=3.0):
    """Features exactly at the vertices of an ETF, shifted; the classifier in line with them."""
    weight = etf_weight(num_classes, dim)
    labels = np.repeat(np.arange(num_classes), per_class)
    return scale * weight[labels] + 0.7, labels, weight, np.zeros(num_classes)


def scattered(seed=0, num_classes=4, dim=7, rows=60):
    """Features, labels, classifier without any structure, every class among the labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % num_classes
    features = rng.normal(size=(rows, dim)) + rng.normal(size=(num_classes, dim))[labels]
    return features, labels, rng.normal(size=(num_classes, dim)), rng.normal(size=num_classes)


@pytest.mark.parametrize("num_classes", [2, 4, 10])
def test_simplex_etf(num_classes):
    frame, k = simplex_etf(num_classes), num_classes
    np.testing.assert_allclose(frame @ frame.T, (np.eye(k) * k - 1) / (k - 1), atol=1e-12)
    np.testing.assert_allclose(frame @ np.ones(k), 0, atol=1e-12)
    assert np.linalg.matrix_rank(frame) == k - 1
    wide = etf_weight(k, k + 3)
    np.testing.assert_allclose(wide @ wide.T, frame @ frame.T, atol=1e-12)
    assert not wide[:, k:].any()
    assert collapse.nc2(wide) < 1e-12


def test_all_metrics_are_zero_on_an_exact_etf():
    assert all(abs(value) < 1e-12 for value in collapse.metrics(*collapsed()).values())


@pytest.mark.parametrize(("num_classes", "expected"), [(10, 0.3204), (4, 0.5176)])
def test_orthogonal_rows_are_far_from_an_etf(num_classes, expected):
    """sqrt(2 - 2 sqrt((K-1)/K))."""
    value = collapse.nc2(3 * np.eye(num_classes, 12))
    assert value == pytest.approx(
        np.sqrt(2 - 2 * np.sqrt((num_classes - 1) / num_classes)), abs=1e-12
    )
    assert value == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(("dim", "tolerance"), [(512, 0.012), (20000, 2e-3)])
def test_gaussian_rows_become_orthogonal_as_the_features_grow(dim, tolerance):
    """E|WW'|^2 = d^2 K (1 + (K+1)/d) gives the mean: .350 at d = 512, .321 at 20,000.

    One draw at d = 512 scatters by .02.
    """
    expected = np.sqrt(2 - 2 * np.sqrt(0.9 / (1 + 11 / dim)))
    values = [
        collapse.nc2(np.random.default_rng(seed).normal(size=(10, dim))) for seed in range(20)
    ]
    assert np.mean(values) == pytest.approx(expected, abs=tolerance)


def test_nc1_by_hand():
    """Means -+2 on a line, variance 1 within: S_W = 1, S_B = 4, NC1 = 1/4 / 2.

    The second axis, which never moves, changes nothing.
    """
    features = np.array([[-3.0, 5.0], [-1.0, 5.0], [1.0, 5.0], [3.0, 5.0]])
    assert collapse.nc1(features, np.array([0, 0, 1, 1]), 2) == pytest.approx(1 / 8, abs=1e-12)


def test_nc3_and_self_duality_by_hand():
    """K = 2: E/|E| = [[1, -1], [-1, 1]]/2; W = I and means -+(1, 0): WM' = [[-1, 1], [0, 0]]."""
    means = np.array([[-1.0, 0.0], [1.0, 0.0]])
    root = np.sqrt(0.5)
    expected = np.linalg.norm(
        np.array([[-root, root], [0, 0]]) - np.array([[0.5, -0.5], [-0.5, 0.5]])
    )
    assert collapse.nc3(np.eye(2), means) == pytest.approx(expected, abs=1e-12)
    assert collapse.self_duality(np.eye(2), means) == pytest.approx(2 - 2 * (-0.5), abs=1e-12)
    assert collapse.self_duality(7 * means, means + 3) == pytest.approx(0, abs=1e-12)


@given(st.integers(0, 2**31), st.floats(0.01, 100))
def test_metrics_do_not_change_under_rotation_and_joint_scaling(seed, scale):
    features, labels, weight, bias = scattered(seed)
    rotation, _ = np.linalg.qr(np.random.default_rng(seed + 1).normal(size=(7, 7)))
    before = collapse.metrics(features, labels, weight, bias)
    assert collapse.metrics(features @ rotation, labels, weight @ rotation, bias) == pytest.approx(
        before, rel=1e-6
    )
    scaled = collapse.metrics(scale * features, labels, weight, scale * bias)
    assert scaled == pytest.approx(before, rel=1e-6)


def test_nc4_counts_rows_where_network_and_nearest_mean_disagree():
    features, labels, weight, bias = collapsed()
    swapped = weight[[1, 0, 2, 3, 4]]  # the network now takes classes 0 and 1 for each other
    assert collapse.metrics(features, labels, swapped, bias)["nc4"] == pytest.approx(2 / 5)


def test_a_class_without_rows():
    features, labels, weight, bias = collapsed()
    kept = labels != 2
    assert np.isnan(collapse.nc1(features[kept], labels[kept], 5))
    means = collapse.class_means(features[kept], labels[kept], 5)
    assert np.isnan(means[2]).all() and np.isfinite(np.delete(means, 2, axis=0)).all()
    assert 2 not in collapse.nearest_mean(features, means)
    assert collapse_metrics(features[kept], weight, bias, labels[kept], None)["nc1"] is None


def test_wrong_labels_are_told_by_where_they_lie():
    """Of ten wrong ones three sit with the given class, six with the true one, one with a third."""
    features, truth, weight, bias = collapsed(per_class=10)
    given_labels = truth.copy()
    wrong = np.arange(0, 50, 5)
    given_labels[wrong] = (truth[wrong] + 1) % 5
    features = features.copy()
    features[wrong[:3]] = 3 * weight[given_labels[wrong[:3]]] + 0.7
    features[wrong[3]] = 3 * weight[(truth[wrong[3]] + 2) % 5] + 0.7
    found = collapse_metrics(features, weight, bias, given_labels, truth)
    assert set(found) == {*COLLAPSE_KEYS, *COLLAPSE_TRUE_KEYS}
    assert (found["wrong_at_given"], found["wrong_at_true"]) == (
        pytest.approx(0.3),
        pytest.approx(0.6),
    )
    assert found["nc1_true"] == pytest.approx(collapse.nc1(features, truth, 5))
    assert found["nc1"] == pytest.approx(collapse.nc1(features, given_labels, 5))


def test_without_wrong_labels_there_is_nothing_to_say_about_them():
    features, labels, weight, bias = collapsed()
    found = collapse_metrics(features, weight, bias, labels, labels)
    assert found["wrong_at_given"] is None and found["wrong_at_true"] is None
    assert set(collapse_metrics(features, weight, bias, labels, None)) == set(COLLAPSE_KEYS)


# Objective and |W|^2 at K = 4, n = 10, d = 8, all decays 5e-3, computed beforehand by other code.
UNCONSTRAINED = {
    "ce": (optax.softmax_cross_entropy_with_integer_labels, {}, 0.243002, 38.8811),
    "focal": (lambda z, y: focal_loss(z, y, 3.0), {}, 0.099893, 16.5738),
    "label_smoothing": (lambda z, y: smoothed_cross_entropy(z, y, 0.05), {}, 0.383968, 32.9737),
    "mse": (lambda z, y: rescaled_mse(z, y, 1.0, 1.0), {}, 0.0444342, 8.2868),
    "mse_decayed_bias": (
        lambda z, y: rescaled_mse(z, y, 1.0, 1.0),
        {"bias_decay": 5e-3},
        0.0450530,
        8.2868,
    ),
}


@pytest.mark.parametrize("name", UNCONSTRAINED)
def test_free_features_collapse_for_each_loss(name):
    loss, options, objective, weight_squared = UNCONSTRAINED[name]
    end = minimise(loss, 4, 10, 8, 5e-3, **options)
    assert end.objective == pytest.approx(objective, abs=1e-6)
    assert np.sum(end.weight**2) == pytest.approx(weight_squared, abs=1e-4)
    # equal decay balances the norms
    assert np.sum(end.features**2) == pytest.approx(np.sum(end.weight**2), rel=1e-7)
    found = collapse.metrics(end.features, end.labels, end.weight, end.bias)
    assert found["nc1"] < 1e-15 and max(found["nc2"], found["nc3"]) < 5e-8 and found["nc4"] == 0


def test_squared_error_without_bias_ends_at_an_orthogonal_frame():
    end = minimise(lambda z, y: rescaled_mse(z, y, 1.0, 1.0), 4, 10, 8, 5e-3, use_bias=False)
    assert end.objective == pytest.approx(0.0592456, abs=1e-7)
    assert np.sum(end.weight**2) == pytest.approx(11.0491, abs=1e-4)
    found = collapse.metrics(end.features, end.labels, end.weight, end.bias)
    assert found["nc2"] == pytest.approx(0.5176, abs=1e-4) and found["nc3"] < 5e-8
    assert not end.bias.any()
