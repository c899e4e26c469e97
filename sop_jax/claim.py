"""Whose a folder is, and whether its run is finished: the one rule of all tasks."""

import logging
import pathlib
from typing import Protocol

import jax
from ml_collections import ConfigDict

from sop_jax import finished
from sop_jax.agreement import require_same
from sop_jax.checkpoint import has_checkpoint
from sop_jax.errors import UserError
from sop_jax.files import read_arrays, read_json, write_json
from sop_jax.run_folder import read_run

log = logging.getLogger("sop_jax")


class Changed(Protocol):
    """How a config departs from that of the run in the folder."""

    def __call__(self, saved: dict) -> list[str]:
        """Fields that differ and may not, such as 'seed (was 0, now 1)'; `saved` is config.json."""


def claim(
    workdir: pathlib.Path, config: ConfigDict, changed: Changed, labels_sha256: str | None = None
) -> bool:
    """Saves the resolved config, unless the folder holds the finished run of it: then returns True.

    Outputs of a finished run that are missing or damaged are named in a line each, and the run
    counts as not finished.

    Args:
      workdir: the locked folder.
      labels_sha256: of a run that trains, the hash of its given labels. Such a run makes its
        outputs from its checkpoint.

    Raises:
      UserError: the folder belongs to a run with another config or other labels, or to a finished
        one with damaged outputs and no checkpoint to make them from. Nothing was changed in it.
    """
    saved = read_json(workdir / "config.json", "restore it or name another --workdir")
    departs = changed(saved) if saved is not None else []
    if departs:
        raise UserError(
            f"--workdir={workdir} belongs to a run with another config: {'; '.join(departs)}; "
            "use its values or name another --workdir"
        )
    same_length = saved is not None and saved.get("epochs") == config.get("epochs")
    damaged = finished.damaged(workdir) if same_length else None
    trains = labels_sha256 is not None
    if trains and "labels.npz" not in (damaged or []):
        _check_labels(workdir / "labels.npz", labels_sha256)
    trained = trains and has_checkpoint(workdir)
    whole = damaged == [] or (same_length and damaged is None and _finished_before_marks(workdir))
    # Only after every process has looked does the first one write.
    require_same({f"what {workdir} holds": f"{damaged or whole}"}, f"claim of {workdir}")
    if whole:
        if trains and not trained:
            log.warning(
                "%s holds no checkpoint any more: what it has is whole, but the run can be neither "
                "made longer nor its outputs made anew",
                workdir,
            )
        return True
    if damaged and trains and not trained:
        raise UserError(
            f"{workdir / damaged[0]} is missing or damaged and the checkpoints are gone, so that "
            "it cannot be made anew; restore either (python -m sop_jax.report makes report.html "
            f"and plots/ anew), or delete {workdir / finished.NAME} to train again"
        )
    if jax.process_index() == 0:
        finished.reopen(workdir, damaged or [])
        write_json(workdir / "config.json", config.to_dict())
    return False


def _check_labels(path: pathlib.Path, sha256: str) -> None:
    """Raises UserError if labels.npz holds another hash; one that cannot be read is made anew."""
    try:
        was = str(read_arrays(path, ("sha256",), (), "it is made anew")["sha256"])
    except UserError:
        return
    if was != sha256:
        raise UserError(
            f"the given labels are not those that {path.parent} was trained on (sha256 "
            f"{sha256[:12]}, was {was[:12]}); restore the data or name another --workdir"
        )


def _finished_before_marks(workdir: pathlib.Path) -> bool:
    """Whether a folder written before there were marks holds all that a finished run leaves."""
    try:
        facts = read_json(workdir / "run.json", "it is made anew")
        config = read_json(workdir / "config.json", "it is made anew")
        summary = read_json(workdir / "summary.json", "it is made anew")
        if summary is None or facts is None or "sessions" in facts:
            return False
        if config.get("task", "classify") != "classify" or "seeds" in summary:
            return True
        read_run(workdir)
    except UserError:
        return False
    page = workdir / "report.html"
    whole = page.is_file() and page.stat().st_size > 0 and any(workdir.glob("plots/*.png"))
    return whole and summary.get("epochs") == config.get("epochs")
