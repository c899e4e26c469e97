"""Training, stopping and going on: a run cut anywhere ends bit for bit as the uninterrupted one
(CPU).
"""

import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest

from sop_jax import checkpoint, loop
from sop_jax.config import default
from sop_jax.errors import UserError
from sop_jax.tasks import classify

ROOT = pathlib.Path(__file__).resolve().parents[1]
TIMES = ("seconds", "images_per_second")


def tiny(**fields):
    """Digits, 200 rows, a 4-channel network, three epochs of seven steps (the last one padded)."""
    config = default()
    config.update(epochs=3, crossfit_epochs=1, batch_size=32, compilation_cache="off")
    config.data.update(train_limit=200, validation_fraction=0.1)
    config.noise.update(kind="symmetric_exclusive", rate=0.3)
    config.augment.update(crop_padding=1, flip=False)
    config.model.width = 4
    config.method.update(learning_rate_u=40.0, learning_rate_v=40.0)
    for name, value in fields.items():
        section, _, field = name.rpartition("__")
        (config[section] if section else config)[field] = value
    return config


def metrics(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def final_state(workdir):
    """Every leaf of the newest checkpoint, read by Orbax alone."""
    import orbax.checkpoint as ocp

    manager = ocp.CheckpointManager(workdir / "checkpoints")
    restored = manager.restore(
        manager.latest_step(), args=ocp.args.Composite(state=ocp.args.StandardRestore())
    )
    manager.close()
    leaves = jax.tree_util.tree_leaves_with_path(checkpoint._plain(restored["state"]))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def assert_same_end(one, two):
    assert metrics(one) == metrics(two)
    a, b = final_state(one), final_state(two)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    assert (one / "label_issues.csv").read_bytes() == (two / "label_issues.csv").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    classify.run(tiny(), workdir)
    return workdir


def test_what_a_run_leaves(whole):
    """The contract that tools outside of the repository read."""
    for name in (
        "config.json",
        "run.json",
        "metrics.jsonl",
        "labels.npz",
        "label_issues.csv",
        "predictions.npz",
        "held_out.npz",
        "summary.json",
        "report.html",
        "plots/curves.png",
    ):
        assert (whole / name).stat().st_size > 0, name
    assert list((whole / "tensorboard").iterdir())
    rows = metrics(whole)
    assert [r["epoch"] for r in rows] == [0, 1, 2]
    assert [r["step"] for r in rows] == [6, 12, 18]  # 180 rows in batches of 32
    assert set(rows[0]) == {
        "epoch",
        "step",
        "learning_rate",
        "train_loss",
        "train_accuracy",
        "test_accuracy",
        "validation_accuracy",
        "train_accuracy_true",
        "margin_auroc",
    }
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["test_accuracy_last"] == rows[-1]["test_accuracy"]
    assert summary["test_accuracy_best"] == max(r["test_accuracy"] for r in rows)
    assert summary["noise_rate_actual"] == pytest.approx(0.3, abs=0.02)
    labels = np.load(whole / "labels.npz")
    assert len(labels["id"]) == 200 and labels["given_label"].dtype == np.int32
    import hashlib

    assert (
        str(labels["sha256"])
        == hashlib.sha256(labels["given_label"].astype("<i4").tobytes()).hexdigest()
    )
    predictions = np.load(whole / "predictions.npz")
    assert predictions["train_pred_probs"].shape == (180, 10)  # validation rows are not among them
    assert predictions["test_pred_probs"].shape == (500, 10)
    np.testing.assert_allclose(predictions["train_pred_probs"].sum(1), 1, rtol=1e-4)
    assert predictions["held_out_pred_probs"].shape == (180, 10)
    np.testing.assert_array_equal(
        predictions["held_out_pred_probs"], np.load(whole / "held_out.npz")["held_out_pred_probs"]
    )
    assert len((whole / "label_issues.csv").read_text().splitlines()) == 181


def test_same_config_and_seed_give_the_same_numbers(whole, tmp_path):
    classify.run(tiny(), tmp_path)
    assert_same_end(whole, tmp_path)


@pytest.mark.slow
def test_without_tracked_predictions_the_final_network_gives_them(whole, tmp_path):
    """The training is the same; the probabilities of the training rows, and so the verdict, are
    the last network's.
    """
    classify.run(tiny(track_predictions=False), tmp_path)
    assert metrics(tmp_path) == metrics(whole)
    short, full = final_state(tmp_path), final_state(whole)
    assert full.keys() - short.keys() == {"['tracker']['probs']"}
    one, two = np.load(tmp_path / "predictions.npz"), np.load(whole / "predictions.npz")
    assert set(one) == set(two)
    for name in set(one) - {"train_pred_probs", "noise_score", "train_margin"}:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)
    # another program, with another fusion of the margin: its last bit may differ
    np.testing.assert_allclose(one["train_margin"], two["train_margin"], rtol=0, atol=1e-6)
    assert one["train_pred_probs"].shape == (180, 10)
    np.testing.assert_allclose(one["train_pred_probs"].sum(1), 1, rtol=1e-4)
    assert np.any(one["train_pred_probs"] != two["train_pred_probs"])
    assert len((tmp_path / "label_issues.csv").read_text().splitlines()) == 181


@pytest.mark.slow
def test_a_bfloat16_table_goes_on_exactly_from_its_checkpoint(tmp_path, monkeypatch, capsys):
    compact = {"method__v_dtype": "bfloat16", "epochs": 2}
    classify.run(tiny(**compact), tmp_path / "whole")
    assert final_state(tmp_path / "whole")["['table']['v']"].nbytes == 2 * 256 * 10
    interrupt_at_step(monkeypatch, 9)
    classify.run(tiny(**compact), tmp_path / "cut")
    monkeypatch.undo()
    classify.run(tiny(**compact), tmp_path / "cut")
    assert "resumed at step 9" in capsys.readouterr().out
    assert not (tmp_path / "cut" / "bad_checkpoints").exists()
    assert_same_end(tmp_path / "whole", tmp_path / "cut")


def interrupt_at_step(monkeypatch, number):
    """SIGTERM comes to the next run as it begins its step `number`."""
    steps = []
    genuine = loop.Runner.__call__

    def interrupted(self, *arguments):
        steps.append(1)
        if len(steps) == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return genuine(self, *arguments)

    monkeypatch.setattr(loop.Runner, "__call__", interrupted)


def test_sigterm_inside_an_epoch_saves_and_goes_on_exactly(whole, tmp_path, monkeypatch, capsys):
    interrupt_at_step(monkeypatch, 9)  # the third step of the second epoch
    classify.run(tiny(), tmp_path)
    assert "stopped by SIGTERM at step 9" in capsys.readouterr().out
    assert len(metrics(tmp_path)) == 1 and not (tmp_path / "summary.json").exists()
    monkeypatch.undo()
    classify.run(tiny(), tmp_path)
    assert "resumed at step 9" in capsys.readouterr().out
    assert_same_end(whole, tmp_path)


def test_sigterm_at_the_last_step_leaves_the_outputs_to_the_next_start(
    whole, tmp_path, monkeypatch, capsys
):
    interrupt_at_step(monkeypatch, 18)
    classify.run(tiny(), tmp_path)
    assert "stopped by SIGTERM at step 18" in capsys.readouterr().out
    assert not (tmp_path / "summary.json").exists()
    monkeypatch.undo()
    classify.run(tiny(), tmp_path)
    assert_same_end(whole, tmp_path)


def test_sigterm_while_cross_fitting_leaves_the_rest_to_the_next_start(
    whole, tmp_path, monkeypatch, capsys
):
    interrupt_at_step(monkeypatch, 18 + 3)  # the third step of the first half
    classify.run(tiny(), tmp_path)
    assert "stopped by SIGTERM while cross-fitting" in capsys.readouterr().out
    assert not (tmp_path / "summary.json").exists() and not (tmp_path / "held_out.npz").exists()
    assert (tmp_path / "crossfit" / "0" / "checkpoints" / "3").is_dir()
    monkeypatch.undo()
    classify.run(tiny(), tmp_path)
    assert not (tmp_path / "crossfit").exists()
    assert_same_end(whole, tmp_path)


def test_a_finished_run_says_so(whole, capsys):
    before = (whole / "metrics.jsonl").read_bytes()
    classify.run(tiny(), whole)
    assert "already finished" in capsys.readouterr().out
    assert (whole / "metrics.jsonl").read_bytes() == before


def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_checkpoint(tmp_path):
    fields = {"schedule": "step", "drop_epochs": (1,), "drop_factor": 1e6}
    config = tiny(**{f"optimizer__{name}": value for name, value in fields.items()})
    with pytest.raises(UserError) as error:
        classify.run(config, tmp_path)
    kept = re.search(r"at step (\d+); the checkpoint of step (\d+) is kept", str(error.value))
    failed, saved = int(kept[1]), int(kept[2])
    assert saved == failed // 6 * 6 > 0  # the end of the epoch before
    assert len(metrics(tmp_path)) == saved // 6
    assert (tmp_path / "checkpoints" / str(saved)).is_dir()


def test_evaluation_cadence_writes_null(tmp_path):
    classify.run(tiny(eval_every=2), tmp_path)
    assert [r["test_accuracy"] is None for r in metrics(tmp_path)] == [True, False, False]


def test_more_epochs_continue_a_finished_run(tmp_path):
    constant = {"optimizer__schedule": "constant"}
    classify.run(tiny(epochs=1, **constant), tmp_path)
    first = metrics(tmp_path)
    classify.run(tiny(epochs=2, **constant), tmp_path)
    assert metrics(tmp_path)[:1] == first
    assert len(metrics(tmp_path)) == 2


def command(workdir, *more):
    return [
        sys.executable,
        "-m",
        "sop_jax.main",
        "--config=configs/digits_sop.py",
        f"--workdir={workdir}",
        "--config.epochs=150",
        *more,
    ]


def wait_for_epochs(run, path, count):
    """Waits until the run has written `count` lines of metrics; returns the seconds that its last
    epoch took.
    """
    while (text := path.read_text() if path.exists() else "").count("\n") < count:
        assert run.poll() is None, "the run ended before it was killed"
        time.sleep(0.002)
    return json.loads(text.splitlines()[count - 1])["seconds"]


@pytest.mark.slow
def test_kill_at_ten_random_moments_changes_nothing(tmp_path):
    """kill -9, ten times, each time started again with the same command; also in the middle of
    saves.

    The moments are counted in epochs, not in seconds: on a fast machine the run would be over
    before the tenth kill.
    """
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    small = ("--config.data.train_limit=500", "--config.crossfit_epochs=3")
    subprocess.run(
        command(tmp_path / "whole", *small),
        cwd=ROOT,
        env=environment,
        check=True,
        capture_output=True,
    )
    rng = random.Random(0)
    for number in range(10):
        with open(tmp_path / "log", "a") as log:
            run = subprocess.Popen(
                command(tmp_path / "cut", *small), cwd=ROOT, env=environment, stdout=log, stderr=log
            )
            seconds = wait_for_epochs(
                run, tmp_path / "cut" / "metrics.jsonl", 10 * number + rng.randint(3, 10)
            )
            time.sleep(rng.uniform(0, 2 * seconds))
            assert run.poll() is None, "the run ended before it was killed"
            run.kill()
            run.wait()
    finish = subprocess.run(
        command(tmp_path / "cut", *small), cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert finish.returncode == 0, finish.stderr
    assert "resumed at step" in (tmp_path / "log").read_text() + finish.stdout
    assert_same_end(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.slow
def test_a_checkpoint_of_eight_devices_goes_on_with_one_and_two(tmp_path):
    for devices in (1, 2):
        workdir = tmp_path / str(devices)
        for count, epochs in ((8, 1), (devices, 2)):
            subprocess.run(
                command(
                    workdir,
                    f"--config.epochs={epochs}",
                    "--config.optimizer.schedule=constant",
                    "--config.crossfit_epochs=0",
                ),
                cwd=ROOT,
                check=True,
                capture_output=True,
                env={**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}"},
            )
        assert len(metrics(workdir)) == 2
    one, two = metrics(tmp_path / "1"), metrics(tmp_path / "2")
    assert one[0] == two[0]
    assert one[1]["train_loss"] == pytest.approx(two[1]["train_loss"], rel=1e-3)


def test_losses_are_read_one_dispatch_late():
    losses = loop._Losses(lambda: 4)
    losses.push(0, np.array([1.0, 2.0]))
    losses.push(2, np.array([np.nan, 1.0]))  # not read yet
    with pytest.raises(UserError, match="at step 2; the checkpoint of step 4 is kept"):
        losses.flush()


def test_sigterm_flag_in_another_thread_is_quiet():
    seen = []

    def work():
        with loop._sigterm_flag() as terminated:
            seen.append(terminated())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


def test_the_best_epoch_has_the_highest_validation_accuracy():
    def record(accuracy):
        return {"validation_accuracy": accuracy}

    assert loop._is_best(record(0.2), [record(0.1)]) and not loop._is_best(
        record(0.1), [record(0.2)]
    )
    assert loop._is_best(record(0.1), [record(None)]) and not loop._is_best(record(None), [])


def test_the_line_of_an_epoch():
    record = {"epoch": 0, "train_loss": 1.0, "train_accuracy": 0.5, "images_per_second": 10.0}
    line = "epoch 1/2, loss 1.0000, train (given labels) 0.5000, 10 images/s"
    assert loop._describe(record | {"test_accuracy": None}, 2) == line
