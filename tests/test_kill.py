"""kill -9, SIGTERM and SIGINT at 40 writes of a run: the same command always ends it, bit for bit.

Real processes; the writes are those that `kill_at.py` listed of a run left alone.
"""

import os
import pathlib
import signal
import subprocess
import sys

import pytest
from mending import assert_same_run

from sop_jax.finished import damaged

ROOT = pathlib.Path(__file__).resolve().parents[1]
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
FILES = (
    "held_out.npz",
    "label_issues.csv",
    "gallery.npz",
    "predictions.npz",
    "summary.json",
    "report.html",
    "finished.json",
)
PLOTS = ("curves.png", "detection.png", "scores.png", "confusion.png", "gallery.png")
STEPS_PER_EPOCH = 3
EARLY = [  # (audit event, path, which one)
    ("open", ".lock", 1),
    ("open", "config.json.tmp", 1),
    ("os.rename", "config.json", 1),
    ("open", "run.json.tmp", 1),
    ("os.rename", "run.json", 1),
    ("open", "labels.npz.tmp", 1),
    ("os.rename", "labels.npz", 1),
    ("os.mkdir", "checkpoints", 1),
    ("open", "metrics.jsonl.tmp", 1),
    ("os.rename", "metrics.jsonl", 1),
    ("open", "metrics.jsonl", 1),
    ("open", "metrics.jsonl", 2),
    ("open", "metrics.jsonl", 3),
    ("os.rename", "checkpoints/3", 1),
    ("os.rename", "checkpoints/6", 1),
    ("os.rename", "checkpoints/9", 1),
    ("os.mkdir", "crossfit/0/checkpoints", 1),
    ("os.rename", "crossfit/0/checkpoints/9", 1),
    ("os.rename", "crossfit/1/checkpoints/9", 1),
    ("os.rename", "run.json", 5),  # the last, before the other outputs
]
LATE = [  # each comes once in any process that gets there
    *(("open", f"{name}.tmp", 1) for name in FILES),
    *(("os.rename", name, 1) for name in FILES),
    ("os.mkdir", "plots", 1),
    *(("open", f"plots/{name}.tmp", 1) for name in PLOTS),
    *(("os.rename", f"plots/{name}", 1) for name in PLOTS),
]
MOMENTS = EARLY + LATE


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """run(folder, signal, moment): the command in a process of its own, ended at the moment."""
    cache = tmp_path_factory.mktemp("cache")

    def call(workdir, number=0, moment=("", "", 0)):
        command = [
            sys.executable,
            "tests/kill_at.py",
            str(int(number)),
            *map(str, moment),
            "main",
            "--config=configs/digits_sop.py",
            f"--workdir={workdir}",
            "--config.data.train_limit=100",
            "--config.model.width=2",
            "--config.batch_size=48",
            "--config.epochs=3",
            f"--config.compilation_cache={cache}",
        ]
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
        }
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    return call


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole") / "run"
    done = run(workdir)
    assert done.returncode == 0, done.stderr
    return workdir


def test_the_moments_are_forty_and_reach_every_output():
    assert len(set(MOMENTS)) == len(MOMENTS) >= 40


@pytest.mark.slow
def test_the_moments_are_those_of_a_run(whole):
    """Every one is a write of the run, and no output is written that has none of them."""
    writes = whole.with_name("run.writes").read_text().splitlines()
    for event, path, count in MOMENTS:
        assert writes.count(f"{event} {path}") >= count, (event, path)
    renamed = {line.split()[1] for line in writes if line.startswith("os.rename")}
    outputs = {path for path in renamed if not path.startswith(("checkpoints/", "crossfit/"))}
    assert outputs <= {path for event, path, _ in MOMENTS if event == "os.rename"}


@pytest.mark.slow
@pytest.mark.parametrize("pair", range(len(LATE)))
def test_a_run_ended_at_any_moment_is_mended_by_the_same_command(whole, run, tmp_path, pair):
    """Ended once early, then, gone on with, once more while it writes its outputs."""
    workdir = tmp_path / "run"
    for moments in (EARLY, LATE):
        if pair < len(moments):
            place = MOMENTS.index(moments[pair])
            assert_ended(run(workdir, SIGNALS[place % 3], MOMENTS[place]), place, workdir)
    mended = run(workdir)
    assert mended.returncode == 0 and "Traceback" not in mended.stderr, mended.stderr
    assert_same_run(whole, workdir)
    assert damaged(workdir) == []


def assert_ended(killed, place, workdir):
    """The process ended at the moment, and said so where it could."""
    number = SIGNALS[place % 3]
    assert "Traceback" not in killed.stderr
    if number == signal.SIGKILL:
        assert killed.returncode == -signal.SIGKILL
    elif number == signal.SIGTERM:
        assert killed.returncode == 0
        assert "stopped by SIGTERM" in killed.stdout or (workdir / "finished.json").exists()
    else:
        assert killed.returncode == 130
        assert killed.stderr.splitlines()[-1].startswith("error: interrupted; the same command")
