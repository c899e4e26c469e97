"""The run's folder: lock, ownership, metrics file."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from sop_jax import workdir as folder
from sop_jax.config import default
from sop_jax.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[1]
HOLD = (
    "import pathlib, sys; from sop_jax import workdir\nwith workdir.locked(pathlib.Path(sys.argv[1])):\n"
    "    print('held', flush=True); sys.stdin.read()"
)


def snapshot(path):
    return {file.name: file.read_bytes() for file in path.iterdir() if file.name != ".lock"}


def claim(path, sha256="a" * 64, **fields):
    config = default()
    config.update(**fields)
    return folder.claim(path, config, config, {path: sha256})


def test_the_lock_keeps_another_process_out_and_goes_with_it(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="in use by another run"), folder.locked(tmp_path):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with folder.locked(tmp_path):  # the lock went with the killed process
        assert (tmp_path / ".lock").exists()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match="cannot be made or written"), folder.locked(path):
            pass


def test_a_folder_without_locks_is_not_called_in_use(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(37, "No locks available")

    XX, "flock", refuse)
    with (
        pytest.raises(UserError, match="cannot be locked \\(No locks available\\)"),
        folder.locked(tmp_path),
    ):
        pass


def test_claim_saves_the_config_and_refuses_another_without_a_trace(tmp_path):
    assert claim(tmp_path) is False
    before = snapshot(tmp_path)
    assert json.loads(before["config.json"])["seed"] == 0
    with pytest.raises(UserError, match="seed \\(was 0, now 1\\)"):
        claim(tmp_path, seed=1)
    assert snapshot(tmp_path) == before
    assert claim(tmp_path, eval_every=2) is False
    assert json.loads((tmp_path / "config.json").read_text())["eval_every"] == 2


def test_claim_refuses_other_labels(tmp_path):
    claim(tmp_path)
    np.savez(tmp_path / "labels.npz", sha256=np.array("a" * 64))
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match="given labels are not those"):
        claim(tmp_path, "b" * 64, eval_every=2)
    assert snapshot(tmp_path) == before
    assert claim(tmp_path) is False
    # written anew by the run; the checkpoint decides
    (tmp_path / "labels.npz").write_bytes(before["labels.npz"][:20])
    assert claim(tmp_path) is False


def test_claim_leaves_a_finished_run_as_it_is(tmp_path):
    claim(tmp_path)
    (tmp_path / "summary.json").write_text(json.dumps({"epochs": default().epochs}))
    before = snapshot(tmp_path)
    assert claim(tmp_path, eval_every=3) is True
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("content", [b"", b'{"seed": 0', b"[]", b"\xff\xfe\x00"])
def test_damaged_json_files(tmp_path, content):
    claim(tmp_path)
    (tmp_path / "summary.json").write_bytes(content)
    with pytest.raises(UserError, match="summary.json is damaged .*delete it"):
        claim(tmp_path)
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match="config.json is damaged .*restore it or name another"):
        claim(tmp_path)
    assert (tmp_path / "config.json").read_bytes() == content


def test_metrics_are_cut_back_and_a_torn_end_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert folder.read_metrics(tmp_path, 0) == []
    for epoch in range(3):
        folder.append_metrics(tmp_path, {"epoch": epoch, "train_loss": epoch / 3})
    whole = path.read_text().splitlines(keepends=True)
    path.write_text("".join(whole) + '{"epoch": 3, "tr')
    assert folder.read_metrics(tmp_path, 2) == [json.loads(line) for line in whole[:2]]
    assert path.read_text() == "".join(whole[:2])


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: lines[:1],
        lambda lines: [lines[0], lines[1][:9], lines[2]],
        lambda lines: [lines[0], lines[2], lines[1]],
        lambda lines: [lines[0], "7", lines[2]],
        lambda lines: [],
    ],
)
def test_a_needed_line_of_metrics_that_is_damaged(tmp_path, damage):
    lines = [json.dumps({"epoch": epoch}) for epoch in range(3)]
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join(damage(lines)))
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"metrics.jsonl, line [12]: missing or damaged"):
        folder.read_metrics(tmp_path, 3)
    assert path.read_bytes() == before
