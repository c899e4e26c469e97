"""`finished.json`, the mark of a finished run: written last, with size and hash of every output.

A run is finished where the mark stands and all files are as it says. Whatever a kill, a full disk
or a hand did to one of them, the same command finds it here and makes the outputs anew.
"""

import logging
import os
import pathlib
from collections.abc import Sequence

from sop_jax.errors import UserError
from sop_jax.files import read_json, set_aside, sha256, write_json

NAME = "finished.json"
log = logging.getLogger("sop_jax")


def mark(workdir: pathlib.Path, outputs: Sequence[str]) -> None:
    """Writes the mark.

    Args:
      outputs: names of files and folders in `workdir`; of a folder every file in it is meant.
    """
    write_json(workdir / NAME, {"outputs": _describe(workdir, outputs)})


def renew(workdir: pathlib.Path, outputs: Sequence[str]) -> None:
    """Puts files that were made anew (the page) into a mark that is there; without one, nothing."""
    found = _read(workdir)
    if found is not None:
        write_json(workdir / NAME, {"outputs": found | _describe(workdir, outputs)})


def _describe(workdir: pathlib.Path, outputs: Sequence[str]) -> dict[str, dict]:
    paths = []
    for name in outputs:
        inside = sorted((workdir / name).rglob("*"))
        paths += [path for path in inside if path.is_file()] if inside else [workdir / name]
    return {
        path.relative_to(workdir).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": sha256(path),
        }
        for path in paths
    }


def _read(workdir: pathlib.Path) -> dict[str, dict] | None:
    """The outputs that the mark names; None where there is no mark, or none that can be read."""
    try:
        outputs = read_json(workdir / NAME, "")["outputs"]
        return {name: {"bytes": f["bytes"], "sha256": f["sha256"]} for name, f in outputs.items()}
    except (UserError, OSError, AttributeError, KeyError, TypeError):
        return None


def damaged(workdir: pathlib.Path) -> list[str] | None:
    """Outputs that are missing or not as the run wrote them; None where there is no mark."""
    outputs = _read(workdir)
    if outputs is None:
        return None
    found = []
    for name, as_written in outputs.items():
        path = workdir / name
        size = path.stat().st_size if path.is_file() else None
        if size != as_written["bytes"] or sha256(path) != as_written["sha256"]:
            found.append(name)
    return found


def mend(workdir: pathlib.Path, names: Sequence[str]) -> None:
    """Says which outputs are made anew, and keeps what stands in their places, for it may be edited.

    Empty files are not kept.
    """
    for name in names:
        path = workdir / name
        if not os.path.lexists(path):
            log.warning("%s is missing; it is made anew", path)
        elif path.is_file() and path.stat().st_size == 0:
            log.warning("%s is empty; it is made anew", path)
        else:
            kept = set_aside(path)
            log.warning("%s is not as the run wrote it; kept as %s, made anew", path, kept.name)
