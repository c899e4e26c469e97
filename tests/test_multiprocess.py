"""Two real processes (CPU, gloo) train as one process with the same number of devices does."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


def start(workdir, devices, *flags):
    env = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "sop_jax.main",
            "--config=configs/digits_sop.py",
            f"--workdir={workdir}",
            "--config.data.train_limit=300",
            "--config.model.width=4",
            "--config.epochs=2",
            "--config.compilation_cache=off",
            *flags,
        ],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_train_as_one(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    together = [
        f"--config.distributed.coordinator=localhost:{port}",
        "--config.distributed.num_processes=2",
    ]
    runs = [
        start(tmp_path / "two", 2, *together, f"--config.distributed.process_id={i}")
        for i in range(2)
    ]
    runs.append(start(tmp_path / "one", 4))
    try:
        outputs = [run.communicate(timeout=400) for run in runs]
    finally:
        for run in runs:
            run.kill()
    assert [run.returncode for run in runs] == [0, 0, 0], outputs
    # the first process alone speaks and writes
    assert "report: " in outputs[0][0] and "report: " not in outputs[1][0]

    two, one = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("two", "one")
    )
    assert [row["step"] for row in two] == [row["step"] for row in one] == [5, 10]
    for a, b in zip(two, one, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-4)
    for name in (
        "config.json",
        "run.json",
        "labels.npz",
        "label_issues.csv",
        "predictions.npz",
        "summary.json",
    ):
        assert (tmp_path / "two" / name).is_file()
    assert json.loads((tmp_path / "two" / "run.json").read_text())["process_count"] == 2
