"""The bench of label verdicts: its numbers by hand, its bounds, and that it goes on where it was.

Nothing is trained.
"""

import importlib
import json
import pathlib
import sys

import numpy as np
import pytest

from sop_jax.errors import UserError

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "benchmarks"))
bench = importlib.import_module("label_errors")
metrics = importlib.import_module("label_metrics")
label_signals = importlib.import_module("label_signals")

DIGITS = bench.Cell("digits", "pairflip", 0.4)
REAL_DATA = """
import numpy as np
def load_mnist10k():
    return np.zeros((6000, 4, 4), np.uint8), np.arange(6000) % 10
def load_cifar10():
    images, labels = np.zeros((20, 4, 4, 3), np.uint8), np.arange(20) % 10
    return {"train_images": images, "train_labels": labels,
            "test_images": images, "test_labels": labels}
def load_cifar10n():
    clean = np.arange(20, dtype=np.uint8) % 10
    shifts = {"clean": 0, "aggre": 1, "worse": 3}
    sets = {f"{name}_label": (clean + shift) % 10 for name, shift in shifts.items()}
    return sets | {"random_label1": (clean + 2) % 10}
"""


@pytest.fixture
def shared(tmp_path):
    (tmp_path / "shared" / "tools").mkdir(parents=True)
    (tmp_path / "shared" / "tools" / "real_data.py").write_text(REAL_DATA)
    return tmp_path / "shared"


def arguments(tmp_path, *flags):
    return bench.parse([f"--out={tmp_path / 'out.json'}", f"--cache={tmp_path / 'cache'}", *flags])


@pytest.fixture
def trained(monkeypatch):
    """Trainers that train nothing, on 300 rows of which every tenth is wrong; which were called."""
    calls = []
    true_label = np.arange(300) % 3
    given = np.where(np.arange(300) % 10 == 0, (true_label + 1) % 3, true_label).astype(np.int32)

    def load(cell, seed, cache, shared):
        if cell.data != "digits" and shared is None:
            raise bench.Skipped(f"no {cell.data} without --shared=DIR")
        return np.zeros((300, 8, 8, 1), np.uint8), given, true_label.astype(np.int32)

    def probs_of(labels):
        return np.full((300, 3), 0.1, np.float32) + 0.7 * np.eye(3, dtype=np.float32)[labels]

    def fit_ours(images, label, method, epochs, seed):
        calls.append(("ours", method, epochs, seed))
        noise = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
        return {
            "probs": probs_of(true_label),
            "held_out": probs_of(true_label),
            "features": 5 * np.eye(3, dtype=np.float32)[true_label] + noise,
            "margin": np.where(label == true_label, 1.0, -1.0),
            "prediction": true_label,
            "diagnostic_coin": noise[:, 0],
            "wall": 1.0,
            "cpu": 2.0,
        }

    def fit_folds(images, label, epochs, seed):
        calls.append(("folds", epochs, seed))
        return {"probs": probs_of(true_label), "wall": 5.0, "cpu": 8.0, "verdict_cpu": 0.5}

    monkeypatch.setattr(bench, "load", load)
    monkeypatch.setattr(bench, "fit_ours", fit_ours)
    monkeypatch.setattr(bench, "fit_folds", fit_folds)
    return calls


def test_names_and_globs():
    names = [cell.name for cell in bench.CELLS]
    assert len(set(names)) == len(names) == 14
    assert {"digits_none", "digits_symmetric_exclusive_0.05", "cifar10n_human_worst"} <= set(names)
    assert [c.name for c in bench.chosen("mnist_*")] == names[8:11]
    assert [c.name for c in bench.chosen("*_none,digits_instance*")] == [
        "digits_none",
        "digits_instance_0.2",
        "mnist_none",
    ]
    with pytest.raises(UserError, match=r"--cells='digit' matches none of digits_none, "):
        bench.chosen("digit")
    assert bench.seeds_of("3,0,3") == [0, 3]


def claim(**changed):
    """Rows 1 and 5 of six are wrong, 1 and 2 are flagged, 1 is applied; 2's suggestion is wrong."""
    quality = np.array([0.95, 0.25, 0.45, 0.85, 0.75, 0.65])
    flagged = np.array([False, True, True, False, False, False])
    fields = {
        "quality": quality,
        "confidence": quality,
        "flagged": flagged,
        "suggested": np.array([0, 1, 0, 1, 2, 2]),
        "applied": flagged & (quality < 0.3),
        "rate": 0.3,
    }
    return metrics.Claim(**fields | changed)


LABEL, TRUE_LABEL = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 1, 1, 2, 0])


def test_measures_by_hand():
    expected = {
        "auroc": 7 / 8,  # row 5 lies above row 2 alone
        "auprc": (1 + 2 / 3) / 2,
        "precision": 0.5,
        "recall": 0.5,
        "f1": 0.5,
        "best_f1": 0.8,  # the worst three: precision 2/3, recall 1
        "flagged_share": 1 / 3,
        "rate": 0.3,
        "applied": 1,
        "accuracy_after": 5 / 6,
        "accuracy_after_all": 4 / 6,
        "calibration_error": (0.05 + 0.25 + 0.55 + 0.15 + 0.25 + 0.65) / 6,
    }
    assert metrics.measure(claim(), LABEL, TRUE_LABEL) == pytest.approx(expected)


def test_measures_of_right_labels_are_none_where_undefined():
    found = metrics.measure(claim(), LABEL, LABEL)
    undefined = ("auroc", "auprc", "precision", "recall", "f1", "best_f1")
    assert all(found[name] is None for name in undefined)
    assert found["flagged_share"] == pytest.approx(1 / 3)
    assert found["accuracy_after"] == pytest.approx(5 / 6)


def test_nothing_flagged_has_no_precision():
    nothing = np.zeros(6, bool)
    found = metrics.measure(claim(flagged=nothing, applied=nothing), LABEL, TRUE_LABEL)
    assert (found["precision"], found["recall"], found["f1"]) == (None, 0.0, 0.0)
    assert found["accuracy_after_all"] == pytest.approx(4 / 6)


def test_calibration_error_is_of_bins_and_not_of_rows():
    confidence = np.array([0.51, 0.59, 0.58, 0.52, 1.0])
    right = np.array([True, False, True, False, True])
    assert metrics.calibration_error(confidence, right) == pytest.approx(0.2 / 5)


def a_run(cell, wrong, ours, cleanlab=(0.5, 0.5), **changed):
    """A line of the table; ours and cleanlab's: (AUPRC, F1)."""
    sides = {"ours": ours, "cleanlab": cleanlab}
    values = {side: {"auprc": own[0], "f1": own[1]} for side, own in sides.items()}
    values["ours"] |= {"rate": wrong, "flagged_share": wrong, "accuracy_after": 1.0, "best_f1": 1.0}
    values["ours"] |= changed
    fields = {"run": f"{cell}_seed0", "cell": cell, "rate": wrong, "cpu_ratio": 3.5}
    return fields | {"accuracy_before": 1 - wrong} | values


def checks_of(*runs):
    return {check["check"]: check for check in metrics.check_runs(list(runs))}


def test_bounds_that_are_met():
    checks = checks_of(
        a_run("digits_none", 0.0, (None, None), (None, None)),
        a_run("digits_symmetric_exclusive_0.4", 0.4, (0.99, 0.981)),
        a_run("digits_instance_0.2", 0.2, (0.9, 0.85), (0.9, 0.8)),
        a_run("digits_pairflip_0.4", 0.4, (0.9, 0.9), best_f1=0.915, rate=0.49),
        a_run("cifar10n_human_worst", 0.4, (0.9, 0.9), rate=0.345),
    )
    assert all(check["met"] for check in checks.values()), checks
    assert len(checks["a third of cleanlab's CPU time"]["runs"]) == 5
    assert len(checks["AUPRC at least cleanlab's"]["runs"]) == 4
    line = checks["F1, 40 % symmetric"]["line"]
    assert line.startswith("met ") and "seed0 0.9810 (>= 0.9800)" in line


def test_bounds_that_are_missed_name_their_runs():
    slow = a_run("digits_pairflip_0.4", 0.4, (0.4, 0.9), best_f1=0.93, rate=0.51) | {
        "cpu_ratio": 2.9
    }
    checks = checks_of(
        slow,
        a_run("mnist_none", 0.0, (None, None), flagged_share=0.011, accuracy_after=0.994),
        a_run("cifar10n_human_worst", 0.4, (0.9, 0.4), accuracy_after=0.55, rate=0.47),
        a_run("mnist_symmetric_exclusive_0.05", 0.05, (0.9, 0.9), rate=0.079),
    )
    missed = {name: check["line"] for name, check in checks.items() if check["met"] is False}
    assert set(missed) == {
        "labels no worse after than before",
        "clean: at most 1 % flagged",
        "clean: accuracy after",
        "AUPRC at least cleanlab's",
        "F1 at least cleanlab's",
        "a third of cleanlab's CPU time",
        "estimated rate off by",
        "F1, 40 % pairflip, or within .02 of the best",
    }
    assert all(line.startswith("MISSED") for line in missed.values())
    assert "digits_pairflip_0.4_seed0 0.4000 (>= 0.5000)" in missed["AUPRC at least cleanlab's"]
    assert "cifar10n_human_worst_seed0 0.0700 (<= 0.0600)" in missed["estimated rate off by"]
    assert "mnist_symmetric" not in missed["estimated rate off by"]
    assert checks["F1, instance"]["met"] is None


def test_a_half_in_the_cache_is_not_trained_again(trained, tmp_path):
    (tmp_path / "cache").mkdir()
    given = arguments(tmp_path)
    first = bench.halves(DIGITS, 1, given)
    assert trained == [("ours", "sop", 60, 1), ("folds", 60, 1)]
    again = bench.halves(DIGITS, 1, given)
    assert len(trained) == 2
    for one, other in zip(first, again, strict=True):
        assert one.keys() == other.keys() and {"label", "true_label", "cpu"} <= one.keys()
        np.testing.assert_array_equal(one["probs"], other["probs"])

    (tmp_path / "cache" / f"{DIGITS.name}_seed1_folds.npz").unlink()  # stopped between the two
    bench.halves(DIGITS, 1, given)
    assert trained[2:] == [("folds", 60, 1)]
    bench.halves(DIGITS, 1, arguments(tmp_path, "--method=elr"))
    assert trained[3:] == [("ours", "elr", 60, 1)]
    with pytest.raises(bench.Skipped, match="digits_pairflip_0.4_seed2_sop.npz is not in the ca"):
        bench.halves(DIGITS, 2, arguments(tmp_path, "--verdicts-only"))
    assert len(trained) == 4


def test_a_stopped_half_leaves_no_file(trained, tmp_path, monkeypatch):
    (tmp_path / "cache").mkdir()

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "fit_folds", stopped)
    with pytest.raises(KeyboardInterrupt):
        bench.halves(DIGITS, 0, arguments(tmp_path))
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [
        f"{DIGITS.name}_seed0_sop.npz"
    ]


def test_the_folds_train_on_the_other_rows_and_pay_for_no_verdict(monkeypatch):
    label = (np.arange(50) % 2).astype(np.int32)
    images = np.arange(50, dtype=np.uint8).reshape(50, 1, 1, 1)
    seen = []

    class Fake:
        classes_ = np.array([0, 1])

        def __init__(self, **parameters):
            seen.append(parameters)

        def fit(self, images, label):
            self.rows = set(images.ravel().tolist())
            self.evidence_ = self
            return self

        def _asdict(self):
            return {}

        def predict_proba(self, images):
            assert not self.rows & set(images.ravel().tolist())
            assert len(self.rows) == 40
            return np.stack([1 - images.ravel() / 50, images.ravel() / 50], axis=1)

    monkeypatch.setattr(bench, "SOPClassifier", Fake)
    monkeypatch.setattr(bench, "judge", lambda _: sum(range(300_000)))
    found = bench.fit_folds(images, label, 7, 3)
    np.testing.assert_allclose(found["probs"][:, 1], np.arange(50) / 50, rtol=1e-6)
    assert seen == [{"method": "ce", "crossfit_epochs": 0, "epochs": 7, "seed": 3}] * 5
    assert found["verdict_cpu"] > 0 and found["cpu"] < found["verdict_cpu"]


@pytest.mark.parametrize(("labels", "shift"), [("aggregate", 1), ("random1", 2), ("worst", 3)])
def test_human_sets(tmp_path, shared, labels, shift):
    cell = bench.Cell("cifar10n", "human", labels)
    images, given, true_label = bench.load(cell, 0, tmp_path, shared)
    assert images.shape == (20, 2, 2, 3)
    np.testing.assert_array_equal(true_label, np.arange(20) % 10)
    np.testing.assert_array_equal(given, (np.arange(20) + shift) % 10)


def test_mnist_is_split_once_and_read_from_the_cache(tmp_path, shared):
    noisy = bench.Cell("mnist", "symmetric_exclusive", 0.2)
    images, given, true_label = bench.load(noisy, 0, tmp_path, shared)
    assert images.shape == (5000, 2, 2, 1)
    assert np.mean(given != true_label) == pytest.approx(0.2, abs=0.02)
    _, given, true_label = bench.load(bench.Cell("mnist", "none"), 0, tmp_path, None)
    np.testing.assert_array_equal(given, true_label)
    with pytest.raises(bench.Skipped, match="no cifar10n without --shared=DIR"):
        bench.load(bench.Cell("cifar10n", "human", "worst"), 0, tmp_path, None)


def test_cleanlab_missing_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"cleanlab .*pip install -e '\.\[bench\]'"):
        bench.run(arguments(tmp_path))


def test_the_whole_bench_and_its_signals(trained, tmp_path, capsys):
    pytest.importorskip("cleanlab", reason="pip install -e '.[bench]'")
    bench.run(arguments(tmp_path, "--cells=digits_pairflip_0.4,mnist_none"))
    printed = capsys.readouterr().out
    assert "skipped mnist_none_seed0: no mnist without --shared=DIR" in printed
    report = json.loads((tmp_path / "out.json").read_text())
    (result,) = report["results"]
    assert (result["rows"], result["rate"], result["cpu_ratio"]) == (300, 0.1, 4.0)
    for side in ("ours", "cleanlab"):
        assert (
            result[side]["f1"] == result[side]["auprc"] == result[side]["accuracy_after_all"] == 1
        )
        assert result[side]["rate"] == pytest.approx(0.1, abs=0.02)
    assert result["ours"]["rate_low"] <= 0.1 <= result["ours"]["rate_high"]
    assert result["cleanlab"]["ranking"] in ("self_confidence", "normalized_margin")
    assert {"jax", "numpy", "cleanlab", "python"} <= report["versions"].keys()
    assert {"command", "cpu_count"} <= report.keys()
    met = [check["line"] for check in report["checks"] if check["met"]]
    assert met and all(line in printed for line in met)

    signals = label_signals.parse(
        [f"--out={tmp_path / 'signals.json'}", f"--cache={tmp_path / 'cache'}"]
    )
    label_signals.run(signals)
    (cell,) = json.loads((tmp_path / "signals.json").read_text())["results"]
    found = {name: values["auroc"] for name, values in cell["signals"].items()}
    coin = found.pop("coin")
    assert 0.3 < coin < 0.7
    assert set(found.values()) == {1.0} and len(found) == 5
    signals.method = "elr"
    with pytest.raises(UserError, match="no cell of 'elr' with wrong labels"):
        label_signals.run(signals)


def test_numbers_are_rounded_to_six_digits():
    value = {"a": [np.float32(0.1), None, 3], "b": ("x", 1 / 3)}
    assert metrics.rounded(value) == {"a": [0.1, None, 3], "b": ["x", 0.333333]}
