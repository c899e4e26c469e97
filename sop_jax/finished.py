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
    """Writes the mark; `outputs` are files and folders in `workdir`, of these every file."""
    write_json(workdir / NAME, {"outputs": _describe(workdir, outputs)})


def renew(workdir: pathlib.Path, outputs: Sequence[str]) -> None:
    """Describes outputs made anew in the mark that is there; where there is none, does nothing."""
    marked = _read(workdir)
    if marked is not None:
        write_json(workdir / NAME, {"outputs": marked | _describe(workdir, outputs)})


def damaged(workdir: pathlib.Path) -> list[str] | None:
    """Outputs that are missing or not as the run wrote them; None where there is no mark."""
    marked = _read(workdir)
    if marked is None:
        return None
    found = []
    for name, as_written in marked.items():
        path = workdir / name
        size = path.stat().st_size if path.is_file() else None
        if size != as_written["bytes"] or sha256(path) != as_written["sha256"]:
            found.append(name)
    return found


def reopen(workdir: pathlib.Path, names: Sequence[str]) -> None:
    """Takes the mark away, so that the outputs are written anew, and names the damaged ones.

    What stands in the place of one goes: a file beside the mark, which may have been edited by
    hand, to another name; one in a folder is deleted.
    """
    for name in names:
        path = workdir / name
        if not os.path.lexists(path):
            log.warning("%s is missing; it is made anew", path)
        elif path.parent == workdir and path.lstat().st_size:
            log.warning("%s is not as written; kept as %s, made anew", path, set_aside(path).name)
        else:
            log.warning("%s is not as written; it is made anew", path)
            path.unlink()
    (workdir / NAME).unlink(missing_ok=True)


def _describe(workdir: pathlib.Path, outputs: Sequence[str]) -> dict[str, dict]:
    """Size and hash by path from `workdir`."""
    paths = []
    for output in (workdir / name for name in outputs):
        inside = sorted(path for path in output.rglob("*") if path.is_file())
        paths += inside if output.is_dir() else [output]
    return {
        path.relative_to(workdir).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": sha256(path),
        }
        for path in paths
    }


def _read(workdir: pathlib.Path) -> dict[str, dict] | None:
    """What the mark describes; None where there is no mark, or none that can be read."""
    try:
        outputs = read_json(workdir / NAME, "it is written anew")["outputs"]
        return {name: {"bytes": f["bytes"], "sha256": f["sha256"]} for name, f in outputs.items()}
    except (UserError, OSError, AttributeError, KeyError, TypeError):
        return None
