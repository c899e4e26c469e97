"""The run's folder: the config it belongs to, the sessions it ran in, and its metrics file."""

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
from typing import Protocol

import jax
import numpy as np
from ml_collections import ConfigDict

from sop_jax import finished
from sop_jax.errors import UserError
from sop_jax.files import DAMAGED, read_json, write_json, write_text

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


class Changed(Protocol):
    """How a config departs from that of the run in the folder."""

    def __call__(self, saved: dict) -> list[str]:
        """Fields that differ and may not, such as 'seed (was 0, now 1)'.

        Args:
          saved: the contents of the run's config.json.
        """


def claim(
    workdir: pathlib.Path,
    config: ConfigDict,
    changed: Changed,
    labels_sha256: str | None = None,
) -> bool:
    """Saves the resolved config, unless the folder holds the finished run of it: then returns True.

    Outputs of a finished run that are missing or damaged are named in a line each, and the run is
    not called finished.

    Args:
      workdir: the locked folder.
      labels_sha256: hash of the given labels, for a run that has some.

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
    if damaged is None or "labels.npz" not in damaged:
        _check_labels(workdir, labels_sha256)
    if damaged == [] or (damaged is None and same_length and _finished_before_marks(workdir)):
        return True
    if damaged and not has_checkpoint(workdir, config):
        raise UserError(
            f"{workdir / damaged[0]} is missing or damaged, and checkpoints/ is gone, so that it "
            f"cannot be made anew; restore one of them, or delete {workdir / finished.NAME} to "
            "train anew"
        )
    if jax.process_index() == 0:
        finished.mend(workdir, damaged or [])
        if not same_length:
            (workdir / finished.NAME).unlink(missing_ok=True)
        write_json(workdir / "config.json", config.to_dict())
    return False
