"""The ranking of labels and its measures, by hand."""

import csv
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given as generated
from hypothesis import strategies

from sop_jax import label_issues
from sop_jax.run_folder import read_issues


def example():
    label = np.array([0, 1, 2, 0])
    probs = np.array([[0.9, 0.05, 0.05], [0.8, 0.1, 0.1], [0.1, 0.1, 0.8], [0.3, 0.6, 0.1]])
    margin = np.array([5.0, -4.0, 3.0, -1.0])
    return label, margin, probs, np.zeros((4, 3))


def test_flags_suggestions_and_order():
    label, margin, probs, noise = example()
    issues = label_issues.find(label, margin, probs, noise)
    np.testing.assert_array_equal(issues.is_issue, [False, True, False, True])
    np.testing.assert_array_equal(issues.suggested_label, [0, 0, 2, 1])
    np.testing.assert_array_equal(label_issues.worst_first(issues), [1, 3, 2, 0])
    assert np.all((issues.quality >= 0) & (issues.quality <= 1))


def test_flagged_rows_never_suggest_the_given_label():
    rng = np.random.default_rng(0)
    label, probs = rng.integers(0, 4, 200), rng.dirichlet(np.ones(4), 200)
    noise = np.eye(4)[label] * rng.random((200, 1))
    issues = label_issues.find(label, rng.normal(size=200), probs, noise)
    assert np.all(issues.suggested_label[issues.is_issue] != label[issues.is_issue])


def test_cancelled_labels_are_counted_where_they_are_more():
    """Three labels with U > 1/2 against two that the prediction contradicts: three are flagged."""
    label, margin, probs, noise = example()
    noise[[1, 2, 3], label[[1, 2, 3]]] = 0.9
    np.testing.assert_array_equal(
        label_issues.find(label, margin, probs, noise).is_issue, [False, True, True, True]
    )


def test_estimated_noise_lowers_quality():
    label, margin, probs, noise = example()
    before = label_issues.find(label, margin, probs, noise).quality
    noise[0, 0] = 0.9
    after = label_issues.find(label, margin, probs, noise).quality
    np.testing.assert_allclose(after[0], 1 / (1 + np.exp(-(5.0 - 0.9 / 2))))
    assert after[0] < before[0]
    np.testing.assert_array_equal(label_issues.quality(label, margin, noise), after)
    np.testing.assert_array_equal(after[1:], before[1:])


def test_summary_by_hand():
    label, margin, probs, noise = example()
    issues = label_issues.find(label, margin, probs, noise)
    # labels 1 and 3 are wrong
    summary = label_issues.summarise(label, issues, margin, np.array([0, 0, 2, 2]))
    assert summary["noise_rate_estimated"] == summary["noise_rate_actual"] == 0.5
    assert summary["label_issue_auroc"] == summary["margin_auroc"] == 1.0
    assert (
        summary["label_issue_f1"]
        == summary["label_issue_precision"]
        == summary["label_issue_recall"]
        == 1.0
    )
    assert summary["label_accuracy_before"] == 0.5
    assert summary["label_accuracy_after"] == 0.75  # label 3 was given as class 1, its truth is 2


def test_what_cannot_be_known_is_none():
    label, margin, probs, noise = example()
    issues = label_issues.find(label, margin, probs, noise)
    unknown = label_issues.summarise(label, issues, margin, None)
    assert unknown["noise_rate_estimated"] == 0.5
    assert all(v is None for k, v in unknown.items() if k != "noise_rate_estimated")
    clean = label_issues.summarise(label, issues, margin, label)
    assert clean["label_issue_auroc"] is None and clean["noise_rate_actual"] == 0.0


@pytest.mark.parametrize("truth", [None, np.array([0, 0, 2, 2])])
def test_csv(tmp_path, truth):
    label, margin, probs, noise = example()
    issues = label_issues.find(label, margin, probs, noise)
    path = tmp_path / "label_issues.csv"
    label_issues.write_csv(
        path, np.array([10, 11, 12, 13]), label, issues, ("cat", "dog, big", "fish"), truth
    )
    lines = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    assert [r["id"] for r in lines] == ["11", "13", "12", "10"]
    assert lines[0]["given_label"] == "dog, big" and lines[0]["predicted_label"] == "cat"
    assert lines[0]["is_label_issue"] == "True" and lines[-1]["is_label_issue"] == "False"
    assert [float(r["label_quality"]) for r in lines] == sorted(
        float(r["label_quality"]) for r in lines
    )
    assert ("true_label" in lines[0]) == (truth is not None)


def test_quality_at_large_margins_has_no_overflow():
    """float32 exp overflows at margin -200, which numpy says on standard error."""
    label, margin, probs, noise = example()
    extreme = np.array([-200, -1e30, 200, 0], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = label_issues.quality(label, extreme, noise.astype(np.float32))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.array([0, 0, 1, 0.5], np.float32))


FORMULAS = (
    '=HYPERLINK("http://x","y")',
    "+1",
    "-2",
    "@x",
    "\t=1",
    "\r=1",
    "\n=1",
    "＝1",
    "＋1",
    "－1",
    "＠x",
)
APOSTROPHE = "'"
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def written(path, ids, names):
    """The cells of label_issues.csv and what our own reader makes of them, for as many labels."""
    count = len(ids)
    issues = label_issues.LabelIssues(
        np.linspace(0.1, 0.9, count), np.arange(count, dtype=np.int32)[::-1], np.ones(count, bool)
    )
    label = np.arange(count, dtype=np.int32)
    label_issues.write_csv(path, ids, label, issues, tuple(names), label)
    with path.open(newline="", encoding="utf-8") as file:
        cells = list(csv.reader(file))[1:]
    return cells, read_issues(path, tuple(names))


def test_what_a_spreadsheet_would_run_is_escaped_and_read_back(tmp_path):
    names = [
        *FORMULAS,
        *(f"'{text}" for text in FORMULAS),
        f"{3 * APOSTROPHE}=1",
        "'tis",
        "a=b",
        "",
    ]
    ids = np.array([f"{name}/{i}" for i, name in enumerate(names)])
    cells, read = written(tmp_path / "label_issues.csv", ids, names)
    for line in cells:
        for cell in (line[0], line[1], line[2], line[5]):
            assert not cell.startswith(FORMULA_STARTS)
    assert list(read["id"]) == ids.tolist()
    assert read["given_label"].tolist() == list(range(len(names)))
    assert read["predicted_label"].tolist() == list(range(len(names)))[::-1]
    given_labels = [line[1] for line in cells]
    assert given_labels[1] == "'+1" and given_labels[len(FORMULAS) + 1] == "''+1"
    assert given_labels[-3:] == ["'tis", "a=b", ""]


def test_negative_integer_ids_stay_integers(tmp_path):
    cells, read = written(tmp_path / "label_issues.csv", np.array([-2, 7, -11]), ("a", "b", "c"))
    assert [line[0] for line in cells] == ["-2", "7", "-11"]
    assert read["id"] == ("-2", "7", "-11")


@generated(strategies.text())
def test_every_text_comes_back_from_its_cell(text):
    cell = label_issues.to_cell(text)
    assert label_issues.from_cell(cell) == text
    assert not cell.startswith(FORMULA_STARTS)


def test_names_are_utf8_in_any_locale(tmp_path):
    program = f"""
import numpy as np, pathlib
from sop_jax.label_issues import LabelIssues, write_csv
issues = LabelIssues(np.ones(1), np.zeros(1, np.int32), np.ones(1, bool))
write_csv(pathlib.Path({str(tmp_path / "list.csv")!r}), np.arange(1), np.zeros(1, int), issues,
          ("\\u5361\\u8f66",), None)
"""
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
    text = (tmp_path / "list.csv").read_text(encoding="utf-8")
    assert text.splitlines()[1] == "0,卡车,卡车,1,True"
