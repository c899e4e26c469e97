"""Real processes (CPU, gloo): two train as one does, and where they cannot, all end with a line."""

import contextlib
import fcntl
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
SMALL = (
    "--config.data.train_limit=300",
    "--config.model.width=4",
    "--config.batch_size=64",
    "--config.crossfit_epochs=1",
)


def start(workdir, *flags, devices=1, cwd=ROOT):
    """A run in a process of its own."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "sop_jax.main", f"--config={ROOT}/configs/digits_sop.py"]
    return subprocess.Popen(
        [*command, f"--workdir={workdir}", "--config.compilation_cache=off", *SMALL, *flags],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def pair():
    """pair(first, second) -> two processes of one run, each with (workdir, *flags) and keywords."""
    with socket.socket() as free, contextlib.ExitStack() as stack:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
        free.close()

        def start_pair(*arguments, **each):
            runs = []
            for process, (workdir, *flags) in enumerate(arguments):
                keywords = {name: values[process] for name, values in each.items()}
                together = (
                    f"--config.distributed.coordinator={address}",
                    "--config.distributed.num_processes=2",
                    f"--config.distributed.process_id={process}",
                )
                runs.append(stack.enter_context(start(workdir, *together, *flags, **keywords)))
                stack.callback(runs[-1].kill)
            return runs

        yield start_pair


def last_words(runs, timeout=60):
    """The standard error of each process, which has ended by itself with one line and status 2."""
    until = time.monotonic() + timeout
    errors = [run.communicate(timeout=max(1, until - time.monotonic()))[1] for run in runs]
    assert [run.returncode for run in runs] == [2] * len(runs), errors
    for error in errors:
        assert error.startswith("error: ") and error.count("\n") == 1, errors
    return errors


def wait_until_trained(run, workdir):
    """Returns when an epoch of a run is over."""
    until = time.monotonic() + 120
    while not (workdir / "metrics.jsonl").exists():
        assert run.poll() is None and time.monotonic() < until
        time.sleep(0.1)


def test_processes_that_disagree_on_epochs_end(pair, tmp_path):
    runs = pair((tmp_path, "--config.epochs=3"), (tmp_path, "--config.epochs=5"))
    for error in last_words(runs):
        assert (
            "config.epochs differs between the processes: 3 in process 0, 5 in process 1" in error
        )
    assert not (tmp_path / "config.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "first", "second"),
    [
        ("config.seed", 1, 2),
        ("config.noise.seed", 1, 2),
        ("config.noise.rate", 0.2, 0.4),
        ("config.optimizer.learning_rate", 0.02, 0.05),
    ],
)
def test_processes_that_disagree_on_a_field_end(pair, tmp_path, field, first, second):
    runs = pair((tmp_path, f"--{field}={first}"), (tmp_path, f"--{field}={second}"))
    for error in last_words(runs):
        assert f"{field} differs between the processes: {first} in process 0, {second}" in error


@pytest.mark.slow
def test_processes_that_disagree_on_their_number_end(pair, tmp_path):
    runs = pair((tmp_path,), (tmp_path, "--config.distributed.num_processes=3"))
    last_words(runs)  # of the difference, or that the third did not come


@pytest.mark.slow
def test_processes_that_disagree_on_the_workdir_end(pair, tmp_path):
    for error in last_words(pair((tmp_path / "a",), (tmp_path / "b",))):
        assert f"--workdir differs between the processes: {tmp_path}/a in process 0" in error
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()


def write_data(folder, images):
    folder.mkdir()
    labels = np.arange(len(images)) % 3
    np.savez(
        folder / "set.npz",
        train_images=images,
        train_labels=labels,
        test_images=images,
        test_labels=labels,
    )


@pytest.mark.slow
def test_processes_that_read_other_data_end(pair, tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (300, 8, 8, 1), np.uint8)
    write_data(tmp_path / "a", images)
    images[7, 3, 3, 0] ^= 1
    write_data(tmp_path / "b", images)
    flags = (tmp_path / "run", "--config.data.name=npz", "--config.data.path=set.npz")
    for error in last_words(pair(flags, flags, cwd=[tmp_path / "a", tmp_path / "b"])):
        assert "the hash of the training images differs between the processes" in error


@pytest.mark.slow
@pytest.mark.parametrize("lacking", [0, 1])
def test_a_process_without_its_data_ends_the_other(pair, tmp_path, lacking):
    images = np.zeros((300, 8, 8, 1), np.uint8)
    write_data(tmp_path / "whole", images)
    folders = [tmp_path / "whole"] * 2
    folders[lacking] = tmp_path
    flags = (tmp_path / "run", "--config.data.name=npz", "--config.data.path=set.npz")
    errors = last_words(pair(flags, flags, cwd=folders))
    assert "set.npz" in errors[lacking]
    assert errors[1 - lacking].startswith(f"error: process {lacking}: ")


@pytest.mark.slow
def test_a_folder_in_use_ends_both(pair, tmp_path):
    with open(tmp_path / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        errors = last_words(pair((tmp_path,), (tmp_path,)))
    assert all("is in use" in error for error in errors)
    assert errors[1].startswith("error: process 0: ")


@pytest.mark.slow
def test_a_process_that_never_joins_ends_the_other(pair, tmp_path):
    errors = last_words(pair((tmp_path,), (tmp_path, "--config.epochs=0")))
    assert "config.epochs=0 is not allowed" in errors[1]
    assert "did not all come within" in errors[0]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=lambda n: n.name)
def test_a_process_that_is_gone_without_a_word_ends_the_other(pair, tmp_path, number):
    runs = pair(*[(tmp_path, "--config.epochs=10000")] * 2)
    wait_until_trained(runs[0], tmp_path)
    runs[1].send_signal(number)
    (error,) = last_words(runs[:1])
    assert "start all again with the same command" in error


@pytest.mark.slow
def test_the_first_process_gone_without_a_word_ends_the_other_at_once(pair, tmp_path):
    runs = pair(*[(tmp_path, "--config.epochs=10000")] * 2)
    wait_until_trained(runs[0], tmp_path)
    runs[0].kill()
    runs[1].communicate(timeout=60)  # XLA aborts it or a collective fails, whichever comes first
    assert runs[1].returncode in (2, -signal.SIGABRT)


@pytest.mark.slow
def test_two_processes_train_as_one(pair, tmp_path):
    short = "--config.epochs=2"
    runs = pair(*[(tmp_path / "two", short)] * 2, devices=[2, 2])
    runs.append(start(tmp_path / "one", short, devices=4))
    outputs = [run.communicate(timeout=400) for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], outputs
    # the first process alone speaks and writes
    assert "report: " in outputs[0][0] and "report: " not in outputs[1][0]

    two, one = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("two", "one")
    )
    assert [record["step"] for record in two] == [record["step"] for record in one] == [5, 10]
    for a, b in zip(two, one, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-4)
    written = {path.name for path in (tmp_path / "two").iterdir()}
    assert written >= {
        "config.json",
        "run.json",
        "labels.npz",
        "label_issues.csv",
        "predictions.npz",
        "summary.json",
    }
    assert json.loads((tmp_path / "two" / "run.json").read_text())["process_count"] == 2
