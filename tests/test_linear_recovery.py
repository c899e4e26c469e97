"""The task linear_recovery: bad input in one line each, and a tiny run of every figure."""

import json
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest

from sop_jax import main
from sop_jax.errors import UserError
from sop_jax.tasks import linear_recovery

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs" / "theory"
TINY = {
    2: "trials=2 num_rows=8 num_parameters=12 rank=2 sparsity=2 log_gammas=(-4.0,-6.0) "
    "num_alphas=3 num_lambdas=5 max_iterations=10_000 landscape_problems=1 landscape_starts=4",
    3: "trials=2 num_rows=12 num_parameters=15 rank=2 sparsity=2 ranks=(1,2) sparsities=(2,9) "
    "num_lambdas=4",
    4: "ranks=(20,) sparsities=(20,60)",
}


def launch(number, workdir, *fields):
    return main.main(
        [
            "main",
            f"--config={CONFIGS / f'linear_figure{number}.py'}",
            f"--workdir={workdir}",
            "--config.compilation_cache=off",
            *(f"--config.{field}" for field in fields),
        ]
    )


def summary(number, workdir, *fields):
    assert launch(number, workdir, *TINY[number].split(), *fields) == 0
    return json.loads((workdir / "summary.json").read_text())


def test_figure_2_small(tmp_path):
    found = summary(2, tmp_path / "run")
    assert [set(row) for row in found["figure2"]] == [
        {"alpha", "lambda", "theta_difference", "s_difference"}
    ] * 3
    # -log(gamma) / 2
    np.testing.assert_allclose([row["alpha"] * row["lambda"] for row in found["figure2"]], 2)
    other = found["other_gammas"][0]["curve"]
    np.testing.assert_allclose(
        [row["lambda"] for row in other], [row["lambda"] for row in found["figure2"]]
    )
    for descent in found["descent"]:
        assert descent["descents"] == 6 and descent["limit_residual"] < 1e-10
        assert descent["iterations_largest"] <= 10_000
    landscape = found["landscape"]
    assert (
        landscape["global_minima"] + landscape["strict_saddles"] == landscape["critical_points"] > 0
    )
    steps = found["minimum_over_lambda"]["theta"]
    assert steps["on_the_curve"] + steps["one_step_beside"] + steps["further"] == 6
    assert found["kkt_residual"] < 1e-9 and found["cvxpy"] is None
    assert {path.name for path in (tmp_path / "run" / "plots").iterdir()} == {
        "figure2.png",
        "figure2_curve.png",
    }


def test_figure_3_small(tmp_path):
    found = summary(3, tmp_path / "run")
    assert [(row["rank"], row["sparsity"]) for row in found["vary_sparsity"]] == [(2, 2), (2, 9)]
    assert [(row["rank"], row["sparsity"]) for row in found["vary_rank"]] == [(1, 2), (2, 2)]
    easy, hard = found["vary_sparsity"]
    assert 1 <= easy["coherence"] <= 6 and easy["guaranteed"] == hard["guaranteed"] == 0
    # lambda too small, and large enough
    assert easy["theta_error"][0] > 0.5 and easy["theta_error"][-1] < 1e-8
    assert easy["recovered_from"] is not None and hard["recovered_from"] is None
    again = summary(3, tmp_path / "again")
    again.pop("seconds"), found.pop("seconds")
    assert again == found  # a study is a function of its config


def test_figure_4_has_the_published_success_far_from_the_frontier(tmp_path):
    """Figure 4 of the SOP paper: at r = 20 all are recovered at k = 20 and none at k = 60."""
    found = summary(4, tmp_path / "run")["figure4"]
    assert found == {
        "ranks": [20],
        "sparsities": [20, 60],
        "theta_success": [[20, 0]],
        "s_success": [[20, 0]],
    }


def test_a_descent_that_diverges_ends_in_one_line(tmp_path, capsys):
    assert launch(2, tmp_path / "run", *TINY[2].split(), "step_size=0.01") == 2
    error = capsys.readouterr().err
    assert (
        error.count("\n") == 1
        and "diverges at alpha=" in error
        and "step_size <= min(0.5/||J||^2" in error
    )


@pytest.mark.parametrize(
    ("figure", "field", "value", "words"),
    [
        ("figure5", None, None, "config.figure='figure5' is unknown"),
        ("figure2", "rank", 21, r"config.rank=21 .* rank is at most 20"),
        ("figure3", "rank", 21, r"config.rank=21 .* rank is at most 20"),
        ("figure4", "ranks", (5, 30), r"config.ranks=\(5, 30\) .* rank is at most 20"),
        ("figure4", "ranks", (5, 2.5), r"config.ranks=\(5, 2.5\) .* whole numbers"),
        ("figure2", "sparsity", 21, r"config.sparsity=21 .* s\* has config.num_rows=20 entries"),
        ("figure4", "sparsities", (), r"config.sparsities=\(\) .* whole numbers"),
        ("figure2", "alpha_max", 3.0, r"config.alpha_max=3.0 .* at least 4.0"),
        ("figure2", "log_gammas", (1.0,), r"config.log_gammas=\(1.0,\) .* below 1"),
        ("figure2", "log_gammas", (-8.0, -8.0), r"config.log_gammas=.* different"),
    ],
)
def test_bad_fields_are_named(figure, field, value, words):
    config = linear_recovery.default()
    config.figure, config.ranks, config.sparsities = figure, (5,), (5,)
    if field:
        config[field] = value
    with pytest.raises(UserError, match=words):
        linear_recovery.check(config)


def test_cvxpy_is_asked_for_before_anything_is_computed(monkeypatch):
    monkeypatch.setitem(sys.modules, "cvxpy", None)
    config = linear_recovery.default()
    linear_recovery.check(config)
    config.cvxpy_instances = 50
    with pytest.raises(UserError, match=r"sop-jax\[theory\]"):
        linear_recovery.check(config)


def test_a_dry_run_says_what_would_be_computed(capsys):
    assert main.main(["main", f"--config={CONFIGS / 'linear_figure2.py'}", "--dry_run"]) == 0
    assert "100 instances x 13 alphas x 2 gammas" in capsys.readouterr().out


@pytest.mark.slow
def test_a_study_killed_three_times_ends_as_the_whole_one(tmp_path):
    """kill -9 of real processes after every two parts; then only what is missing is computed."""

    def command(workdir):
        config = "--config=configs/theory/linear_figure3.py"
        flags = [config, f"--workdir={workdir}", "--config.trials=3"]
        return [sys.executable, "-m", "sop_jax.main", *flags]

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    subprocess.run(command(whole), cwd=CONFIGS.parents[1], check=True, capture_output=True)
    for parts in (2, 4, 6):
        with open(tmp_path / "log", "a") as log:
            process = subprocess.Popen(command(cut), cwd=CONFIGS.parents[1], stdout=log, stderr=log)
            while len(list((cut / "arrays").glob("*[0-9].npz"))) < parts:
                assert process.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.001)
            process.kill()
            process.wait()
        assert not (cut / "summary.json").exists()
    done = subprocess.run(
        command(cut), cwd=CONFIGS.parents[1], check=True, capture_output=True, text=True
    )
    assert done.stdout.count(": as saved in ") >= 6
    ends = [json.loads((folder / "summary.json").read_text()) for folder in (whole, cut)]
    for end in ends:
        del end["seconds"]
    assert ends[0] == ends[1]
    assert (whole / "plots" / "figure3.png").read_bytes() == (
        cut / "plots" / "figure3.png"
    ).read_bytes()
