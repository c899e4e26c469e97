"""The lock of a folder: who is kept out, whatever becomes of `.lock`; others' files stay whole."""

import json
import pathlib
import subprocess
import sys

import filelock
import pytest

from sop_jax.errors import UserError
from sop_jax.lock import locked

ROOT = pathlib.Path(__file__).resolve().parents[1]
HOLD = """
import pathlib, sys
from sop_jax.lock import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""

# As little as the config.json of a run can hold.
CONFIG = '{"task": "classify", "seed": 0, "compilation_cache": null}'


@pytest.fixture
def holder():
    """holder(folder): another process that holds the folder until it is killed."""
    processes = []

    def hold(folder):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(folder)],
            cwd=ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        processes.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in processes:
        process.kill()
        process.communicate()


def refused(folder, words="in use by another run"):
    with pytest.raises(UserError, match=words), locked(folder):
        pass


def test_the_lock_keeps_another_process_out_and_goes_with_it(tmp_path, holder):
    process = holder(tmp_path / "run")
    refused(tmp_path / "run")
    (tmp_path / "link").symlink_to(tmp_path / "run")
    refused(tmp_path / "link")
    process.kill()
    process.wait()
    with locked(tmp_path / "run"):
        assert (tmp_path / "run" / ".lock").exists()


def test_deleting_the_lock_file_lets_nobody_in(tmp_path, holder):
    holder(tmp_path / "run")
    (tmp_path / "run" / ".lock").unlink()
    refused(tmp_path / "run")


def test_a_folder_inside_a_locked_run_is_refused(tmp_path, holder):
    """One seed of a run of several, say."""
    (tmp_path / "seeds").mkdir()
    (tmp_path / "seeds" / "config.json").write_text(CONFIG)
    process = holder(tmp_path / "seeds")
    refused(tmp_path / "seeds" / "seed_1", "seed_1 lies in .*seeds, which is in use")
    assert not (tmp_path / "seeds" / "seed_1").exists()
    process.kill()
    process.wait()
    with locked(tmp_path / "seeds"), locked(tmp_path / "seeds" / "seed_1"):
        refused(tmp_path / "seeds" / "seed_1")  # the process that holds both may open it only once


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        refused(path, "cannot be made or written")


def test_a_folder_without_locks_is_not_called_in_use(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(filelock.FileLock, "_acquire", refuse)
    refused(tmp_path, "cannot be locked \\(No locks available")


def everything(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (None, "holds other files"),
        ({"model_type": "bert"}, "is not that of a run of sop_jax"),
        ({"seed": 0, "task": "ner"}, "is not that of a run of sop_jax"),
    ],
)
def test_a_folder_of_somebody_else_is_refused_and_nothing_in_it_changes(tmp_path, config, words):
    for folder in ("tensorboard", "checkpoints/7"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "theirs").write_text("theirs")
    for name in ("run.json", "labels.npz"):
        (tmp_path / name).write_text("theirs")
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    before = everything(tmp_path)
    refused(tmp_path, words)
    assert everything(tmp_path) == before


def test_a_folder_that_a_kill_left_before_its_config_is_taken(tmp_path):
    for name in (".lock", "config.json.tmp"):
        (tmp_path / name).write_text("")
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("content", [b"", b'{"seed": 0', b"[]", b"\xff\xfe\x00", b"[" * 100_000])
def test_a_damaged_config_is_one_clear_line(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    refused(tmp_path, "config.json is damaged .*restore it or name another --workdir")
    assert everything(tmp_path) == {"config.json": content}
