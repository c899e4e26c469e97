"""Label noise: definitions against hand-computed values and the published code's realised rates."""

import hashlib
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sop_jax.data import transitions
from sop_jax.data.noise import asymmetric, corrupt, instance_dependent, pairflip, symmetric
from sop_jax.errors import UserError

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "noise.npz")
CIFAR10_LABELS = np.repeat(np.arange(10), 5000)  # 5,000 of each class, as in the golden runs
CIFAR100_LABELS = np.repeat(np.arange(100), 500)
# Golden rates are draws per example: three standard errors of a share of 50,000 (rates), of 5,000
# (matrix entries).
RATE_TOLERANCE = 3 * np.sqrt(0.25 / 50_000)
ENTRY_TOLERANCE = 3 * np.sqrt(0.25 / 5_000)


def test_symmetric_matrices_by_hand():
    np.testing.assert_allclose(symmetric(0.4, 5), np.full((5, 5), 0.1) + 0.5 * np.eye(5))
    np.testing.assert_allclose(
        symmetric(0.4, 5, inclusive=True), np.full((5, 5), 0.08) + 0.6 * np.eye(5)
    )


def test_pairflip_and_maps_by_hand():
    np.testing.assert_allclose(pairflip(0.3, 3), [[0.7, 0.3, 0], [0, 0.7, 0.3], [0.3, 0, 0.7]])
    cifar = asymmetric(0.4, "cifar10")
    assert [(int(a), int(b)) for a, b in np.argwhere(cifar == 0.4)] == [
        (2, 0),
        (3, 5),
        (4, 7),
        (5, 3),
        (9, 1),
    ]
    assert np.array_equal(np.flatnonzero(np.diag(cifar) == 1), [0, 1, 6, 7, 8])
    assert [tuple(p) for p in np.argwhere(asymmetric(0.4, "mnist") == 0.4).tolist()] == [
        (2, 7),
        (3, 8),
        (5, 6),
        (6, 5),
    ]
    np.testing.assert_array_equal(asymmetric(0.2, num_classes=10), asymmetric(0.2, "cifar10"))
    np.testing.assert_array_equal(asymmetric(0.2, 100), asymmetric(0.2, "block_cyclic"))
    np.testing.assert_allclose(asymmetric(0.2, {0: 1}, num_classes=2), [[0.8, 0.2], [0, 1]])


def test_cifar100_maps():
    cyclic, swap, superclass = (
        transitions.FLIPS[k][1] for k in ("block_cyclic", "block_swap", "superclass_cyclic")
    )
    assert [cyclic[c] for c in (0, 3, 4, 99)] == [1, 4, 0, 95]
    first_pair = np.random.RandomState(0).choice(5, size=2, replace=False)
    assert swap[first_pair[0]] == first_pair[1]
    assert len(swap) == 40 and all(swap[b] == a and a // 5 == b // 5 for a, b in swap.items())
    of = transitions.CIFAR100_SUPERCLASS
    assert [of.count(s) for s in range(20)] == [5] * 20
    # aquatic mammals: beaver, dolphin, otter, seal, whale
    assert superclass[4] == 30 and superclass[95] == 4
    assert all(of[a] == of[b] and a != b for a, b in superclass.items())
    assert sorted(superclass.values()) == [*range(100)]


@pytest.mark.parametrize(
    "name, make",
    [
        ("sop_symmetric", lambda r, k: symmetric(r, k, inclusive=True)),
        ("cdr_symmetric", symmetric),
        ("cdr_pairflip", pairflip),
        ("cdr_asymmetric_mnist", lambda r, k: asymmetric(r, "mnist")),
        ("cdr_asymmetric_fmnist", lambda r, k: asymmetric(r, "fashion_mnist")),
    ],
)
def test_realised_noise_matches_published_code_10_classes(name, make):
    key = name if "asymmetric" in name else f"{name}_c10"
    for i, rate in enumerate(GOLDEN["nominal"]):
        _, report = corrupt(CIFAR10_LABELS, make(rate, 10), seed=i)
        assert np.abs(report.actual_rate - GOLDEN[f"rate_{key}"][i]).max() < RATE_TOLERANCE
        assert np.abs(report.transition - GOLDEN[f"confusion_{key}"][i]).max() < ENTRY_TOLERANCE


@pytest.mark.parametrize(
    "name, make",
    [
        ("sop_symmetric", lambda r: symmetric(r, 100, inclusive=True)),
        ("cdr_symmetric", lambda r: symmetric(r, 100)),
        ("sop_asymmetric", lambda r: asymmetric(r, "block_swap")),
        ("cdr_asymmetric", lambda r: asymmetric(r, "block_cyclic")),
    ],
)
def test_realised_rate_matches_published_code_100_classes(name, make):
    for i, rate in enumerate(GOLDEN["nominal"]):
        _, report = corrupt(CIFAR100_LABELS, make(rate), seed=i)
        assert np.abs(report.actual_rate - GOLDEN[f"rate_{name}_c100"][i]).max() < RATE_TOLERANCE


def test_asymmetric_cifar10_differs_from_published_code_only_in_its_leak():
    for name in ("sop_asymmetric_c10", "cdr_asymmetric_c10"):
        for i, rate in enumerate(GOLDEN["nominal"]):
            _, report = corrupt(CIFAR10_LABELS, asymmetric(rate, "cifar10"), seed=0)
            assert abs(report.actual_rate - rate / 2) < 1e-3
            # the published code sends some moved cats back
            others = [c for c in range(10) if c != 3]
            difference = np.abs(report.transition - GOLDEN[f"confusion_{name}"][i])
            assert difference[others].max() < ENTRY_TOLERANCE < difference[3].max()


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 12), st.integers(0, 400), st.floats(0, 1), st.integers(0, 2**40), st.data())
def test_corrupt_properties(num_classes, n, rate, seed, data):
    random = np.random.default_rng(data.draw(st.integers(0, 999)))
    labels = random.integers(0, num_classes, n)
    raw = random.random((num_classes, num_classes)) * (
        random.random((num_classes, num_classes)) < 0.5
    )
    transition = (1 - rate) * np.eye(num_classes) + rate * (raw + 1e-9) / (raw + 1e-9).sum(
        1, keepdims=True
    )
    noisy, report = corrupt(labels, transition, seed)
    again, _ = corrupt(labels, transition, seed)
    assert noisy.dtype == np.int32 and noisy.shape == (n,)
    np.testing.assert_array_equal(noisy, again)
    assert report.sha256 == hashlib.sha256(noisy.astype("<i4").tobytes()).hexdigest()
    np.testing.assert_allclose(report.transition.sum(1), 1)
    counts = np.bincount(labels, minlength=num_classes)
    for c in np.flatnonzero(counts):
        # every count is the expected one rounded up or down, and so is the number of wrong labels
        realised, expected = report.transition[c] * counts[c], transition[c] * counts[c]
        assert np.abs(realised - expected).max() < 1 + 1e-6
        assert abs(realised[c] - expected[c]) < 1 + 1e-6
        assert (realised[transition[c] == 0] == 0).all()


def test_corrupt_is_unbiased_for_classes_of_one_example():
    drawn = np.array([corrupt([0, 1, 2], symmetric(0.6, 3), seed)[0] for seed in range(3000)])
    for c in range(3):
        shares = np.bincount(drawn[:, c], minlength=3) / 3000
        np.testing.assert_allclose(shares, symmetric(0.6, 3)[c], atol=0.04)


def test_corrupt_spreads_over_the_rows_of_a_class():
    noisy, _ = corrupt(np.zeros(10_000, int), symmetric(0.4, 10), seed=1)
    halves = np.mean(noisy[:5000] != 0), np.mean(noisy[5000:] != 0)
    assert abs(halves[0] - halves[1]) < 0.05


def test_digits_rate_is_exact_to_one_example_a_class():
    labels = np.random.default_rng(0).integers(0, 10, 1297)
    noisy, report = corrupt(labels, symmetric(0.4, 10), seed=3)
    assert abs((noisy != labels).sum() - 0.4 * 1297) <= 10
    assert report.actual_rate == np.mean(noisy != labels)
    other, _ = corrupt(labels, symmetric(0.4, 10), seed=4)
    assert not np.array_equal(noisy, other)


def test_identity_changes_nothing_and_input_is_not_written_to():
    labels = np.random.default_rng(0).integers(0, 10, 500)
    before = labels.copy()
    noisy, report = corrupt(labels, np.eye(10), seed=0)
    np.testing.assert_array_equal(noisy, labels)
    assert report.actual_rate == report.nominal_rate == 0
    noisy, _ = corrupt(labels, pairflip(1.0, 10), seed=0)
    np.testing.assert_array_equal(noisy, (before + 1) % 10)
    np.testing.assert_array_equal(labels, before)


def test_report_of_a_class_without_examples_is_identity():
    _, report = corrupt([0, 0, 2], symmetric(1.0, 3), seed=0)
    np.testing.assert_array_equal(report.transition[1], [0, 1, 0])
    assert report.transition[2, 2] == 0
    assert "100.00%" in report.describe() and "\n" not in report.describe()


def test_instance_dependent_noise():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (4000, 4, 4, 3), dtype=np.uint8)
    labels = random.integers(0, 10, 4000)
    for i, rate in enumerate(GOLDEN["nominal"]):
        noisy, report = instance_dependent(images, labels, rate, 10, seed=5)
        assert abs(report.actual_rate - GOLDEN["expected_instance"][i]) < 3 * np.sqrt(0.25 / 4000)
    again, _ = instance_dependent(images, labels, rate, 10, seed=5)
    other, _ = instance_dependent(images, labels, rate, 10, seed=6)
    np.testing.assert_array_equal(noisy, again)
    assert noisy.dtype == np.int32 and not np.array_equal(noisy, other)
    off_diagonal = report.transition[~np.eye(10, dtype=bool)]
    # raw pixels: a class's noise lands on few targets
    assert off_diagonal.max() > 2 * off_diagonal.mean()


def test_instance_noise_depends_on_the_image_alone():
    """Two examples of one image and class that move, move to the same class.

    On raw pixels the softmax that the target is drawn from is one-hot.
    """
    random = np.random.default_rng(0)
    images = np.repeat(random.integers(0, 256, (200, 8, 8, 1), dtype=np.uint8), 2, axis=0)
    labels = np.repeat(random.integers(0, 10, 200), 2)
    noisy, _ = instance_dependent(images, labels, 0.9, 10, seed=0)
    first, second = noisy[::2], noisy[1::2]
    both = (first != labels[::2]) & (second != labels[::2])
    assert both.sum() > 100 and np.mean(first[both] == second[both]) > 0.9


def test_instance_noise_of_rate_zero_changes_nothing():
    labels = np.arange(10)
    noisy, report = instance_dependent(np.ones((10, 2, 2, 1)), labels, 0.0, 10, seed=0)
    np.testing.assert_array_equal(noisy, labels)
    assert report.actual_rate == 0


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: symmetric(1.2, 10), "noise.rate must lie in [0, 1], got 1.2"),
        (lambda: symmetric(float("nan"), 10), "noise.rate"),
        (lambda: pairflip(-0.1, 10), "noise.rate"),
        (lambda: asymmetric(2, "cifar10"), "noise.rate"),
        (lambda: instance_dependent(np.zeros((1, 2)), [0], 1.5, 10, 0), "noise.rate"),
        (lambda: symmetric(0.1, 1), "at least 2"),
        (lambda: asymmetric(0.1, "svhn"), "no published map for 'svhn'"),
        (lambda: asymmetric(0.1, 7), "no published map for 7"),
        (lambda: asymmetric(0.1, {0: 3}, num_classes=3), "0 -> 3"),
        (lambda: corrupt([0], np.ones((2, 3)) / 3, 0), "[2, 3]"),
        (lambda: corrupt([0], [[0.5, 0.5], [0.3, 0.3]], 0), "row 1: sums to 0.6"),
        (lambda: corrupt([0], [[1.5, -0.5], [0, 1]], 0), "row 0: holds -0.5"),
        (lambda: corrupt([0], [[np.nan, 1], [0, 1]], 0), "row 0"),
        (lambda: corrupt([0, 2], np.eye(2), 0), "label 2 of row id 1 is outside [0, 1]"),
        (lambda: corrupt([0, -1], np.eye(2), 0), "label -1 of row id 1"),
        (lambda: corrupt([0.5], np.eye(2), 0), "whole numbers"),
        (lambda: corrupt([[0]], np.eye(2), 0), "shape [N]"),
        (lambda: corrupt([0], np.eye(2), -3), "seed"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(UserError) as error:
        call()
    assert words in str(error.value) and "\n" not in str(error.value)
