"""The run's folder: its lock, the config it belongs to, what it ran on, and its metrics file."""

import contextlib
import datetime
import fcntl
import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import jax
from ml_collections import ConfigDict

from sop_jax.config import changed_fields
from sop_jax.errors import UserError

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-datasets", "ml-collections")


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
    """Makes the folder and holds its lock; the lock goes with the process, however that ends."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        handle = open(workdir / ".lock", "w")  # noqa: SIM115 (held open as long as the lock)
    except OSError as error:
        raise UserError(
            f"--workdir={workdir} cannot be made or written ({error.strerror}); name another folder"
        ) from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"--workdir={workdir} is in use by another run; wait for it or name another folder"
            ) from None
        yield


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def write_json(path: pathlib.Path, value: object) -> None:
    """Writes a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: pathlib.Path) -> dict | None:
    """The file's object, or None where there is no file."""
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())
    except ValueError:
        raise UserError(f"{path} is damaged (not JSON); restore it or name another --workdir") from None


def claim(workdir: pathlib.Path, config: ConfigDict) -> None:
    """Saves the resolved config, or raises UserError where the folder belongs to a run with another one."""
    path = workdir / "config.json"
    saved = read_json(path)
    if saved is not None:
        changed = changed_fields(saved, config)
        if changed:
            raise UserError(f"--workdir={workdir} belongs to a run with another config: {'; '.join(changed)}; "
                            "use its values or name another --workdir")
    write_json(path, config.to_dict())


def _version(package: str) -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


def _git_commit() -> str | None:
    here = pathlib.Path(__file__).parent
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        run = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        return run.stdout.strip()
    return None


def describe_run(config: ConfigDict) -> dict:
    """What `run.json` holds: versions, devices, process count, git commit, seed and command line."""
    return {
        "versions": {"python": sys.version.split()[0], **{name: _version(name) for name in PACKAGES}},
        "devices": [f"{d.platform}:{d.id} {d.device_kind}" for d in jax.devices()],
        "process_count": jax.process_count(),
        "git_commit": _git_commit(),
        "seed": config.seed,
        "command": " ".join(["python", *sys.argv]),
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def read_metrics(workdir: pathlib.Path, epochs: int) -> list[dict]:
    """The first `epochs` lines of metrics.jsonl; the file is cut back to them."""
    path = workdir / "metrics.jsonl"
    history = []
    if path.exists():
        for line in path.read_text().splitlines()[:epochs]:
            history.append(json.loads(line))
    write_text(path, "".join(json.dumps(row) + "\n" for row in history))
    return history


def append_metrics(workdir: pathlib.Path, row: dict) -> None:
    """Adds one epoch to metrics.jsonl, on the disk before the call returns."""
    with open(workdir / "metrics.jsonl", "a") as f:
        f.write(json.dumps(row) + "\n")
        f.flush()
        os.fsync(f.fileno())
