"""The task neural_collapse end to end on few rows, and track_collapse in a run of the main task."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from sop_jax import compiler, main, programs
from sop_jax.config import check, group_of
from sop_jax.errors import UserError
from sop_jax.evaluate import COLLAPSE_KEYS
from sop_jax.settings import complete
from sop_jax.tasks import classify, neural_collapse


@pytest.fixture
def config(monkeypatch):
    """Two epochs on 96 digits, compiled without optimisations."""
    quick = compiler.options_for_one_run()
    monkeypatch.setattr(programs, "options_for_steps", lambda platform: quick)
    config = neural_collapse.default()
    config.update({"epochs": 2, "batch_size": 32, "eval_every": 2, "checkpoint_every": 2})
    config.crossfit_epochs = 0
    config.data.train_limit = 96
    config.model.width = 4
    config.augment.update({"crop_padding": 0, "flip": False})
    config.collapse.cases = ("sop_noisy",)
    return config


def finished(config, folder):
    """Runs the study; its summary, after a look at what each case left."""
    neural_collapse.check(config)
    neural_collapse.run(config, folder)
    summary = json.loads((folder / "summary.json").read_text())
    for case in config.collapse.cases:
        found, own = summary[case], folder / "runs" / case
        records = [json.loads(line) for line in (own / "metrics.jsonl").read_text().splitlines()]
        assert [record["nc1"] is None for record in records] == [True, False]
        for key in COLLAPSE_KEYS:
            assert found[key]["first"] == found[key]["last"] == records[1][key]
        assert 0 <= found["accuracy"] <= 1
        assert (own / "report.html").exists()
    return summary


@pytest.mark.slow
def test_the_study_end_to_end(config, tmp_path, capsys):
    summary = finished(config, tmp_path)
    assert 0 <= summary["sop_noisy"]["wrong_at_given"]["last"] <= 1
    assert not (tmp_path / "plots" / "losses.png").exists()  # none of its cases was run
    assert summary["unconstrained"]["ce"]["objective"] == pytest.approx(0.243002, abs=1e-6)
    with Image.open(tmp_path / "plots" / "wrong_labels.png") as image:
        assert 850 <= image.width <= 950
    saved = json.loads((tmp_path / "runs" / "sop_noisy" / "config.json").read_text())
    assert (saved["task"], saved["method"]["name"], saved["noise"]["rate"]) == (
        "classify",
        "sop",
        0.4,
    )
    capsys.readouterr()
    neural_collapse.run(config, tmp_path)
    assert "already finished" in capsys.readouterr().out


@pytest.mark.slow
def test_every_case_end_to_end(config, tmp_path):
    config.collapse.cases = neural_collapse.CASES
    summary = finished(config, tmp_path)
    assert "wrong_at_given" not in summary["ce"]
    assert summary["narrow_etf"]["nc2"]["last"] < 1e-12 < summary["narrow"]["nc2"]["last"]
    assert list(summary["classifiers"]) == list(neural_collapse.CLASSIFIERS)
    parameters = [row["parameters"] for row in summary["classifiers"].values()]
    assert parameters == sorted(parameters, reverse=True) and len(set(parameters)) == 4
    assert (tmp_path / "plots" / "losses.png").exists()


def test_a_stopped_case_leaves_the_study_unfinished(config, tmp_path, monkeypatch):
    """The main task returns without a summary after SIGTERM; the same command goes on later."""
    monkeypatch.setattr(classify, "run", lambda config, workdir: None)
    neural_collapse.run(config, tmp_path)
    assert not (tmp_path / "summary.json").exists()


def test_each_case_sets_what_its_name_says():
    config = neural_collapse.default()
    config.collapse.update({"noise_rate": 0.3, "learning_rate_u": 7.0})
    config = complete(config).lock()  # as the command line has it
    cases = {case: neural_collapse.case_config(config, case, 10) for case in neural_collapse.CASES}
    for case, own in cases.items():
        check(own)
        assert own.track_collapse and own.task == "classify" and "collapse" not in own, case
    for loss in neural_collapse.LOSSES:
        assert cases[loss].method.name == loss

    def last_layer(case):
        return cases[case].model.feature_dim, cases[case].model.classifier

    assert last_layer("narrow_etf") == (10, "etf") and last_layer("etf") == (None, "etf")
    sop = cases["sop_noisy"].method
    assert (sop.learning_rate_u, sop.learning_rate_v) == (7.0, 20.0)
    assert "learning_rate_u" not in cases["ce_noisy"].method
    assert cases["ce_noisy"].noise.rate == cases["sop_noisy"].noise.rate == 0.3
    assert (cases["ce_random"].noise.kind, cases["ce_random"].noise.rate) == ("symmetric", 1.0)


def test_summary_of_known_curves():
    """The terminal phase starts where training accuracy first reaches TERMINAL."""
    curves = {key: np.full(4, np.nan) for key in neural_collapse.CURVES} | {
        "epoch": np.array([1, 3, 5, 7]),
        "train_accuracy": np.array([0.8, 0.9995, 0.99, 1.0]),
        "nc1": np.array([2.0, 0.5, 0.1, 0.02]),
    }
    run = {"test_accuracy_last": 0.97, "parameters": 12}
    found = neural_collapse.summarise(curves, run)
    assert found["terminal_epoch"] == 3
    assert found["nc1"] == {"first": 2.0, "terminal": 0.5, "last": 0.02}
    assert math.isclose(found["nc1_fall"], 25)
    assert "nc2" not in found
    never = neural_collapse.summarise(curves | {"train_accuracy": np.full(4, 0.9)}, run)
    assert never["terminal_epoch"] is never["nc1_fall"] is never["nc1"]["terminal"] is None


def test_table_of_fixed_classifiers():
    cases = {
        "ce": {"parameters": 200, "accuracy": 0.99},
        "etf": {"parameters": 150, "accuracy": 0.987},
        "mse": {"parameters": 200, "accuracy": 0.9},
    }
    table = neural_collapse.compare_classifiers(cases)
    assert table["etf"] == pytest.approx(
        {
            "parameters": 150,
            "saved_percent": 25.0,
            "accuracy": 0.987,
            "points_below_learnt": 0.3,
        }
    )
    assert list(table) == ["ce", "etf"] and table["ce"]["points_below_learnt"] == 0
    assert neural_collapse.compare_classifiers({"etf": cases["etf"]}) == {}


def test_seeds_are_averaged(config, tmp_path):
    for seed, value in ((0, 1.0), (1, 3.0)):
        rows = [
            {"epoch": 0, "test_accuracy": None},
            {"epoch": 1, "test_accuracy": 0.5, "nc1": value, "nc2": None},
        ]
        (tmp_path / f"seed_{seed}").mkdir()
        (tmp_path / f"seed_{seed}" / "metrics.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows)
        )
    config.num_seeds = 2
    curves = neural_collapse.read_curves(tmp_path, config)
    np.testing.assert_array_equal(curves["epoch"], [1])
    np.testing.assert_array_equal(curves["nc1"], [2.0])
    assert np.isnan(curves["nc2"]).all()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("collapse.cases", ("ce", "cee"), "config.collapse.cases="),
        ("collapse.cases", (), "config.collapse.cases="),
        ("collapse.noise_rate", 0.0, "config.collapse.noise_rate="),
        ("collapse.learning_rate_u", -1.0, "config.method.learning_rate_u=-1"),
        ("method.name", "sop", "config.method.name='sop' is not allowed: the cases .* set it"),
        ("model.feature_dim", 4, "config.model.feature_dim=4"),
        ("epochs", 0, "config.epochs=0"),
    ],
)
def test_fields_that_cannot_be_are_refused(field, value, message):
    config = neural_collapse.default()
    group, name = group_of(config, field)
    group[name] = value
    with pytest.raises(UserError, match=message):
        neural_collapse.check(config)


def test_dry_run_names_the_cases(capsys):
    assert main.main(["sop_jax", "--config=configs/theory/neural_collapse.py", "--dry_run"]) == 0
    out = capsys.readouterr().out
    assert all(f"runs/{case}" in out for case in neural_collapse.CASES)
    assert "nothing was computed" in out
