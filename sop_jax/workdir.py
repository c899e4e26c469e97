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
from collections.abc import Iterator, Mapping

import jax
import numpy as np
from ml_collections import ConfigDict

from sop_jax.errors import UserError
from sop_jax.files import DAMAGED, read_json, write_json, write_text
from sop_jax.settings import changed_fields

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "tensorflow-datasets",
    "ml-collections",
)
# what np.load and its arrays raise


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
    """Makes the folder and holds its lock; the lock goes with the process, however that ends.

    Of several processes of one run the first holds it, as it alone writes the files of this module.
    """
    if jax.process_index() != 0:
        yield
        return
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
        except BlockingIOError:
            raise UserError(
                f"--workdir={workdir} is in use by another run; wait for it or name another folder"
            ) from None
        except OSError as error:  # a network file system without locks
            raise UserError(
                f"--workdir={workdir} cannot be locked ({error.strerror}); name a folder on a local disk"
            ) from None
        yield


def claim(
    workdir: pathlib.Path,
    config: ConfigDict,
    requested: ConfigDict,
    labels: Mapping[pathlib.Path, str],
) -> bool:
    """Saves the resolved config, unless the folder holds the finished run of this config: then
    returns True.

    Args:
      workdir: the locked folder.
      config: the resolved config. requested: the same before its open fields were filled in.
      labels: hash of the given labels that go with each seed's folder (`workdir` itself, for one
        seed).

    Raises:
      UserError: the folder belongs to a run with another config or other labels. Nothing was
        changed in it.
    """
    saved = read_json(workdir / "config.json", "restore it or name another --workdir")
    changed = changed_fields(saved, config, requested) if saved is not None else []
    if changed:
        raise UserError(
            f"--workdir={workdir} belongs to a run with another config: {'; '.join(changed)}; "
            "use its values or name another --workdir"
        )
    for own, sha256 in labels.items():
        was = _labels_sha256(own / "labels.npz")
        if was not in (None, sha256):
            raise UserError(
                f"the given labels are not those that {own} was trained on (sha256 {sha256[:12]}, "
                f"was {was[:12]}); restore the data or name another --workdir"
            )
    summary = read_json(workdir / "summary.json", "delete it and the same command writes it anew")
    if saved is not None and summary is not None and summary.get("epochs") == config.epochs:
        return True
    if jax.process_index() == 0:
        write_json(workdir / "config.json", config.to_dict())
    return False


def _labels_sha256(path: pathlib.Path) -> str | None:
    """The hash that labels.npz holds; None where there is no such file, or a damaged one, which is
    written anew.
    """
    try:
        with np.load(path) as arrays:
            return str(arrays["sha256"])
    except (*DAMAGED, KeyError):
        return None


def _version(package: str) -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


def _git_commit() -> str | None:
    here = pathlib.Path(__file__).parent
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        run = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        )
        return run.stdout.strip()
    return None


def describe_run(config: ConfigDict) -> dict:
    """What `run.json` holds: versions, devices, process count, git commit, seed and command
    line.
    """
    return {
        "versions": {
            "python": sys.version.split()[0],
            **{name: _version(name) for name in PACKAGES},
        },
        "devices": [f"{d.platform}:{d.id} {d.device_kind}" for d in jax.devices()],
        "process_count": jax.process_count(),
        "git_commit": _git_commit(),
        "seed": config.seed,
        "command": " ".join(["python", *sys.argv]),
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def read_metrics(workdir: pathlib.Path, epochs: int) -> list[dict]:
    """The first `epochs` lines of metrics.jsonl, to which the file is cut back.

    Raises:
      UserError: a line of these epochs is missing or damaged; later ones may be torn. The file is
        as it was.
    """
    path = workdir / "metrics.jsonl"
    lines = path.read_text(errors="replace").splitlines()[:epochs] if path.exists() else []
    history = []
    for epoch in range(epochs):
        try:
            history.append(json.loads(lines[epoch]))
            whole = history[epoch]["epoch"] == epoch
        except (IndexError, KeyError, TypeError, ValueError):
            whole = False
        if not whole:
            raise UserError(
                f"{path}, line {epoch + 1}: missing or damaged, but the checkpoint is at epoch {epochs}; "
                "restore the file or name another --workdir"
            )
    if jax.process_index() == 0:
        write_text(path, "".join(f"{line}\n" for line in lines))
    return history


def append_metrics(workdir: pathlib.Path, row: dict) -> None:
    """Adds one epoch to metrics.jsonl, on the disk before the call returns."""
    if jax.process_index() != 0:
        return
    with open(workdir / "metrics.jsonl", "a") as f:
        f.write(json.dumps(row) + "\n")
        f.flush()
        os.fsync(f.fileno())
