"""Several seeds, one after the other: each is the run it would have been alone, in a folder of its
own."""

import json
import os
import signal

import numpy as np
import pytest
from test_loop import final_state, metrics, tiny

from sop_jax import compare, loop, outputs, report, run_folder
from sop_jax.config import each_seed
from sop_jax.data.dataset import load_seeds
from sop_jax.errors import UserError
from sop_jax.tasks import classify

SEEDS = (5, 6, 7)


def three(**fields):
    return tiny(seed=5, num_seeds=3, epochs=2, **fields)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("three")
    classify.run(three(), workdir)
    return workdir


def summary(workdir):
    return json.loads((workdir / "summary.json").read_text())


def test_each_seed_is_the_run_it_would_have_been_alone(whole, tmp_path):
    """On the CPU bit for bit: labels, metrics, every leaf of the final state, issues and
    predictions.
    """
    classify.run(tiny(seed=6, epochs=2), tmp_path)
    own = whole / "seed_6"
    assert metrics(own) == metrics(tmp_path)
    together, alone = final_state(own), final_state(tmp_path)
    assert together.keys() == alone.keys()
    for name, leaf in alone.items():
        np.testing.assert_array_equal(together[name], leaf, err_msg=name)
    assert (own / "label_issues.csv").read_bytes() == (tmp_path / "label_issues.csv").read_bytes()
    for name in ("labels.npz", "predictions.npz", "gallery.npz"):
        with np.load(own / name) as a, np.load(tmp_path / name) as b:
            for key in a:
                np.testing.assert_array_equal(a[key], b[key], err_msg=f"{name} {key}")
    assert (own / "config.json").read_bytes() == (tmp_path / "config.json").read_bytes()
    assert {path.name for path in own.iterdir()} == {path.name for path in tmp_path.iterdir()}


def test_seeds_have_their_own_noise_order_and_initialisation(whole):
    labels = [np.load(whole / f"seed_{seed}" / "labels.npz") for seed in SEEDS]
    assert len({str(own["sha256"]) for own in labels}) == 3
    assert len({own["validation_rows"].tobytes() for own in labels}) == 3
    assert len({metrics(whole / f"seed_{seed}")[0]["train_loss"] for seed in SEEDS}) == 3
    assert not np.array_equal(*(own["given_label"] == own["true_label"] for own in labels[:2]))


def test_noise_seed_gives_all_seeds_one_draw():
    config = three(noise__seed=3)
    data, _ = load_seeds(each_seed(config))
    assert len({own.noise.sha256 for own in data}) == 1
    assert all(own.train.images is data[0].train.images for own in data)  # in memory once


def test_summary_holds_the_runs_and_their_mean_and_std(whole):
    total = summary(whole)
    runs = [summary(whole / f"seed_{seed}") for seed in SEEDS]
    assert total["runs"] == runs and total["seeds"] == list(SEEDS) and total["num_seeds"] == 3
    for name in ("method", "dataset", "epochs", "class_names", "noise_kind"):
        assert total[name] == runs[0][name]
    assert total["test_labels_doubtful"] is runs[0]["test_labels_doubtful"] is False
    numbers = {name for name in runs[0] if isinstance(runs[0][name], int | float)} - {
        "seed",
        "epochs",
        "test_labels_doubtful",
    }
    assert {
        "test_accuracy_last",
        "label_issue_auroc",
        "validation_accuracy",
    } <= numbers
    assert total["mean"].keys() == total["std"].keys() >= numbers
    for name in numbers:
        values = [run[name] for run in runs]
        assert total["mean"][name] == pytest.approx(np.mean(values), rel=1e-12)
        assert total["std"][name] == pytest.approx(np.std(values, ddof=1), rel=1e-12)
    speeds = [run["images_per_second"] for run in runs]
    assert total["images_per_second"] == pytest.approx(np.mean(speeds))  # one after the other


def test_a_number_that_one_seed_does_not_know_is_null(tmp_path):
    run = {
        "method": "sop",
        "dataset": "x",
        "seed": 0,
        "epochs": 1,
        "class_names": ["a"],
        "noise_kind": "none",
        "images_per_second": 1.0,
        "label_issue_auroc": 0.5,
        "test_accuracy_per_class": [1.0],
        "best_epoch": 0,
    }
    # the first was finished by an older version, which had no interval
    other = run | {"seed": 1, "label_issue_auroc": None, "best_epoch": 1, "noise_rate_low": 0.1}
    other["test_labels_doubtful"] = False
    folders = [tmp_path / "seed_0", tmp_path / "seed_1"]
    for folder, own in zip(folders, (run, other), strict=True):
        folder.mkdir()
        (folder / "summary.json").write_text(json.dumps(own))
    outputs.write_group_summary(tmp_path, folders)
    assert summary(tmp_path)["mean"] == {
        "images_per_second": 1.0,
        "label_issue_auroc": None,
        "best_epoch": 0.5,
        "noise_rate_low": None,
    }
    assert summary(tmp_path)["test_labels_doubtful"] is False


def test_report_and_compare_read_the_folders(whole, capsys):
    assert report.main([f"--workdir={whole / 'seed_5'}"]) == 0
    (group,), warnings = compare.compare([str(whole)])
    assert group["n"] == 3 and group["seeds"] == list(SEEDS) and warnings == []
    assert group["metrics"]["test_accuracy_last"]["mean"] == pytest.approx(
        summary(whole)["mean"]["test_accuracy_last"]
    )
    assert compare.compare([str(whole), *(str(whole / f"seed_{seed}") for seed in SEEDS)])[0] == [
        group
    ]
    with pytest.raises(UserError, match=r"holds 3 seeds.*such as .*seed_5"):
        run_folder.read_run(whole)


def test_stopped_inside_the_second_seed_and_gone_on_it_ends_the_same(
    whole, tmp_path, monkeypatch, capsys
):
    halves = 2 * 6  # the steps of cross-fitting: an epoch of 90 rows in batches of 16, twice
    per_run = metrics(whole / "seed_5")[-1]["step"] + halves
    steps = []
    genuine = loop.Runner.__call__

    def interrupted(self, *arguments):
        steps.append(1)
        if len(steps) == per_run + 8:  # the second step of the second epoch
            os.kill(os.getpid(), signal.SIGTERM)
        return genuine(self, *arguments)

    monkeypatch.setattr(loop.Runner, "__call__", interrupted)
    classify.run(three(), tmp_path)
    assert "stopped by SIGTERM at step 8" in capsys.readouterr().out
    assert not (tmp_path / "summary.json").exists()
    assert not (tmp_path / "seed_7" / "metrics.jsonl").exists()
    monkeypatch.undo()
    classify.run(three(), tmp_path)
    assert "resumed at step 8" in capsys.readouterr().out
    for seed in SEEDS:
        own, other = whole / f"seed_{seed}", tmp_path / f"seed_{seed}"
        assert metrics(own) == metrics(other)
        states = final_state(own), final_state(other)
        assert states[0].keys() == states[1].keys()
        for name in states[0]:
            np.testing.assert_array_equal(states[0][name], states[1][name], err_msg=name)


def test_seeds_share_their_compiled_steps(whole):
    """The second seed compiles nothing: one program for all."""
    first, second, third = (summary(whole / f"seed_{seed}")["compile_seconds"] for seed in SEEDS)
    assert first > 0 and second == third == 0


def test_a_finished_group_says_so_and_keeps_its_number_of_seeds(whole, capsys):
    classify.run(three(), whole)
    assert "already finished" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"num_seeds \(was 3, now 2\)"):
        classify.run(tiny(seed=5, num_seeds=2, epochs=2), whole)
