"""What a run writes while it goes: run.json with its sessions, and metrics.jsonl."""

import contextlib
import datetime
import importlib.metadata
import json
import logging
import os
import pathlib
import subprocess
import sys
import time

import jax
from ml_collections import ConfigDict

from sop_jax.errors import UserError
from sop_jax.files import read_json, write_json, write_text

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
log = logging.getLogger("sop_jax")


class Session:
    """The stay of this process in a run's folder: the last entry of `sessions` in run.json.

    Several processes have one each; the first alone writes.
    """

    def __init__(self, workdir: pathlib.Path, config: ConfigDict, since: float | None = None):
        """Opens the session.

        Args:
          workdir: the claimed folder.
          since: time.perf_counter() when it began; now, if not given.
        """
        self.workdir = workdir
        self._since = time.perf_counter() if since is None else since
        self._seed = config.seed
        self._own = describe_run()
        self._before = _sessions(workdir / "run.json") if jax.process_index() == 0 else []
        self.note_time()

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of all sessions so far; of a killed one up to its last epoch."""
        before = sum(session.get("seconds") or 0.0 for session in self._before)
        return before + time.perf_counter() - self._since

    def note_time(self) -> float:
        """Writes run.json with the seconds so far and returns those of all sessions."""
        seconds = self.seconds
        own = {**self._own, "seconds": time.perf_counter() - self._since}
        sessions = [*self._before, own]
        facts = {
            **self._own,
            "seed": self._seed,
            "started": sessions[0]["started"],
            "seconds": seconds,
            "sessions": sessions,
        }
        if jax.process_index() == 0:
            write_json(self.workdir / "run.json", facts)
        return seconds

    def restore_metrics(self, epochs: int, saved: list[dict] | None) -> list[dict]:
        """Makes metrics.jsonl that of the first `epochs` epochs and returns their records.

        Args:
          saved: the records as the checkpoint holds them; None for one too old to hold any, then
            the file's own are taken.

        Raises:
          UserError: there are none saved, and a line of the file is missing or damaged. The file is
            as it was.
        """
        path = self.workdir / "metrics.jsonl"
        history = _read_metrics(path, epochs) if saved is None else saved
        if jax.process_index() == 0:
            write_text(path, "".join(json.dumps(record) + "\n" for record in history))
        return history

    def add(self, record: dict) -> None:
        """Adds an epoch to metrics.jsonl, on the disk at once, and notes the time."""
        if jax.process_index() != 0:
            return
        with open(self.workdir / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.note_time()


def describe_run() -> dict:
    """What run.json holds of a session: start, command, versions, devices, processes, commit."""
    return {
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": " ".join(["python", *sys.argv]),
        "versions": {
            "python": sys.version.split()[0],
            **{name: _version(name) for name in PACKAGES},
        },
        "devices": [f"{d.platform}:{d.id} {d.device_kind}" for d in jax.devices()],
        "process_count": jax.process_count(),
        "git_commit": _git_commit(),
    }


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


def _sessions(path: pathlib.Path) -> list[dict]:
    """The sessions before this one; a file from before there were any is one of unknown length."""
    try:
        facts = read_json(path, "it is written anew, without the sessions before")
    except UserError as error:
        log.warning("%s", error)
        facts = None
    if facts is None:
        return []
    sessions = facts.get("sessions", [facts])
    whole = isinstance(sessions, list) and all("started" in session for session in sessions)
    return sessions if whole else []


def _read_metrics(path: pathlib.Path, epochs: int) -> list[dict]:
    """The first `epochs` lines of metrics.jsonl; later ones may be torn."""
    lines = path.read_text("utf-8", errors="replace").splitlines() if path.exists() else []
    history = []
    for epoch in range(epochs):
        try:
            history.append(json.loads(lines[epoch]))
            whole = history[epoch]["epoch"] == epoch
        except (IndexError, KeyError, TypeError, ValueError, RecursionError):
            whole = False
        if not whole:
            raise UserError(
                f"{path}, line {epoch + 1}: missing or damaged, but the checkpoint is at epoch "
                f"{epochs}; restore the file or name another --workdir"
            )
    return history
