"""The folder of a theory task: arrays part by part, figures, a summary, and the mark of its end.

A part is saved whole when it is done, so the same command after a kill computes only what is
missing; figures and summary are made from the saved arrays, and so are the same either way.
"""

import contextlib
import io
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
from matplotlib.figure import Figure
from ml_collections import ConfigDict
from PIL import Image

from sop_jax import plots
from sop_jax.claim import claim
from sop_jax.config import differences
from sop_jax.errors import UserError
from sop_jax.files import read_arrays, write_arrays, write_bytes, write_json
from sop_jax.finished import mark
from sop_jax.general import FITTED
from sop_jax.lock import locked
from sop_jax.workdir import Session

_SECONDS = "part_seconds"


class Compute(Protocol):
    """How a part is computed: a function of the config alone."""

    def __call__(self) -> Mapping[str, np.ndarray | float]:
        """The arrays of the part by name."""


def say(text: str) -> None:
    """Prints a line at once."""
    print(text, flush=True)


def describe(config: ConfigDict, lines: Sequence[str]) -> None:
    """What `--dry_run` prints: the config and, in `lines`, what would be computed."""
    say("\n".join([str(config), *lines, "dry run: nothing was computed or written"]))


class Study:
    """An open folder; see `opened`."""

    def __init__(self, session: Session, config: ConfigDict):
        self.workdir = session.workdir
        self._session = session
        self._config = config
        self._seconds: dict[str, float] = {}
        for name in ("arrays", "plots"):
            (self.workdir / name).mkdir(exist_ok=True)

    def part(self, name: str, compute: Compute) -> dict[str, np.ndarray]:
        """The arrays of `compute()`, saved as arrays/<name>.npz; those of that file where it is.

        A damaged file is computed anew.
        """
        path = self.workdir / "arrays" / f"{name}.npz"
        if path.exists():
            try:
                arrays = read_arrays(path, (_SECONDS,), ("*",), "it is computed anew")
                self._seconds[name] = float(arrays.pop(_SECONDS))
                say(f"{name}: as saved in {path}")
                return arrays
            except UserError as error:
                say(str(error))
        start = time.perf_counter()
        arrays = {key: np.asarray(value) for key, value in compute().items()}
        self._seconds[name] = time.perf_counter() - start
        write_arrays(path, **arrays, **{_SECONDS: np.float64(self._seconds[name])})
        self._session.note_time()
        say(f"{name}: {self._seconds[name]:.1f} s")
        return arrays

    def figure(self, name: str, figure: Figure) -> None:
        """Writes plots/<name>.png."""
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png")
        path = self.workdir / "plots" / f"{name}.png"
        write_bytes(path, plots.png(Image.open(drawn).convert("RGB")))
        say(f"figure: {path}")

    def finish(self, summary: dict) -> None:
        """Writes summary.json and the mark of a finished study.

        Args:
          summary: plain JSON types; task, seed and the seconds of each part are added.
        """
        facts = {"task": self._config.task, "seed": self._config.seed, "seconds": self._seconds}
        write_json(self.workdir / "summary.json", facts | summary)
        self._session.note_time()
        mark(self.workdir, ("config.json", "run.json", "arrays", "plots", "summary.json"))
        say(f"summary: {self.workdir}/summary.json")


@contextlib.contextmanager
def opened(config: ConfigDict, workdir: pathlib.Path) -> Iterator[Study | None]:
    """Locks and claims the folder of a study; None where it is finished.

    Raises:
      UserError: the folder is in use, cannot be written, or holds a study of another config.
    """

    def changed(saved: dict) -> list[str]:
        return [
            f"{name} (was {old!r}, now {new!r})"
            for name, old, new in differences(saved, config, ConfigDict())
            if name != "compilation_cache" and not (new is None and name in FITTED)
        ]

    with locked(workdir):
        if claim(workdir, config, changed):
            say(
                f"{workdir} is already finished; nothing to do. See {workdir}/summary.json and "
                f"{workdir}/plots"
            )
            yield None
            return
        yield Study(Session(workdir, config), config)
