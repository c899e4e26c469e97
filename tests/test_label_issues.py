"""The ranking of labels and its measures, by hand."""

import csv

import numpy as np
import pytest

from sop_jax import label_issues


def example():
    given = np.array([0, 1, 2, 0])
    probs = np.array([[0.9, 0.05, 0.05], [0.8, 0.1, 0.1], [0.1, 0.1, 0.8], [0.3, 0.6, 0.1]])
    margin = np.array([5.0, -4.0, 3.0, -1.0])
    return given, margin, probs, np.zeros((4, 3))


def test_flags_suggestions_and_order():
    given, margin, probs, noise = example()
    issues = label_issues.find(given, margin, probs, noise)
    np.testing.assert_array_equal(issues.is_issue, [False, True, False, True])
    np.testing.assert_array_equal(issues.suggested, [0, 0, 2, 1])
    np.testing.assert_array_equal(label_issues.worst_first(issues), [1, 3, 2, 0])
    assert np.all((issues.quality >= 0) & (issues.quality <= 1))


def test_flagged_rows_never_suggest_the_given_label():
    rng = np.random.default_rng(0)
    given, probs = rng.integers(0, 4, 200), rng.dirichlet(np.ones(4), 200)
    noise = np.eye(4)[given] * rng.random((200, 1))
    issues = label_issues.find(given, rng.normal(size=200), probs, noise)
    assert np.all(issues.suggested[issues.is_issue] != given[issues.is_issue])


def test_cancelled_labels_are_counted_where_they_are_more():
    """Three rows with U > 1/2 against two contradicted by the prediction: the three worst are
    flagged.
    """
    given, margin, probs, noise = example()
    noise[[1, 2, 3], given[[1, 2, 3]]] = 0.9
    np.testing.assert_array_equal(
        label_issues.find(given, margin, probs, noise).is_issue, [False, True, True, True]
    )


def test_estimated_noise_lowers_quality():
    given, margin, probs, noise = example()
    before = label_issues.find(given, margin, probs, noise).quality
    noise[0, 0] = 0.9
    after = label_issues.find(given, margin, probs, noise).quality
    np.testing.assert_allclose(after[0], 1 / (1 + np.exp(-(5.0 - 0.9 / 2))))
    assert after[0] < before[0]
    np.testing.assert_array_equal(label_issues.quality(given, margin, noise), after)
    np.testing.assert_array_equal(after[1:], before[1:])


def test_summary_by_hand():
    given, margin, probs, noise = example()
    issues = label_issues.find(given, margin, probs, noise)
    # rows 1 and 3 are wrong
    summary = label_issues.summarise(given, issues, margin, np.array([0, 0, 2, 2]))
    assert summary["noise_rate_estimated"] == summary["noise_rate_actual"] == 0.5
    assert summary["label_issue_auroc"] == summary["margin_auroc"] == 1.0
    assert (
        summary["label_issue_f1"]
        == summary["label_issue_precision"]
        == summary["label_issue_recall"]
        == 1.0
    )
    assert summary["label_accuracy_before"] == 0.5
    assert summary["label_accuracy_after"] == 0.75  # row 3 was given class 1, its truth is 2


def test_what_cannot_be_known_is_none():
    given, margin, probs, noise = example()
    issues = label_issues.find(given, margin, probs, noise)
    unknown = label_issues.summarise(given, issues, margin, None)
    assert unknown["noise_rate_estimated"] == 0.5
    assert all(v is None for k, v in unknown.items() if k != "noise_rate_estimated")
    clean = label_issues.summarise(given, issues, margin, given)
    assert clean["label_issue_auroc"] is None and clean["noise_rate_actual"] == 0.0


@pytest.mark.parametrize("truth", [None, np.array([0, 0, 2, 2])])
def test_csv(tmp_path, truth):
    given, margin, probs, noise = example()
    issues = label_issues.find(given, margin, probs, noise)
    path = tmp_path / "label_issues.csv"
    label_issues.write_csv(
        path, np.array([10, 11, 12, 13]), given, issues, ("cat", "dog, big", "fish"), truth
    )
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [r["id"] for r in rows] == ["11", "13", "12", "10"]
    assert rows[0]["given_label"] == "dog, big" and rows[0]["predicted_label"] == "cat"
    assert rows[0]["is_label_issue"] == "True" and rows[-1]["is_label_issue"] == "False"
    assert [float(r["label_quality"]) for r in rows] == sorted(
        float(r["label_quality"]) for r in rows
    )
    assert ("true_label" in rows[0]) == (truth is not None)
