"""The folder of a theory task: arrays part by part, figures, and a summary written last.

A part is saved whole when it is done, so the same command after a kill computes only what is
missing; figures and summary are made from the saved arrays, and so are the same either way.
"""

import contextlib
import io
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from matplotlib.figure import Figure
from ml_collections import ConfigDict
from PIL import Image

from sop_jax import config as configs
from sop_jax import plots
from sop_jax.errors import UserError
from sop_jax.files import DAMAGED, read_json, write_arrays, write_json
from sop_jax.workdir import describe_run, locked

_SECONDS = "part_seconds"


def say(text: str) -> None:
    """Prints a line at once."""
    print(text, flush=True)


def describe(config: ConfigDict, lines: Sequence[str]) -> None:
    """What `--dry_run` prints: the config and, in `lines`, what would be computed."""
    say("\n".join([str(config), *lines, "dry run: nothing was computed or written"]))


class Study:
    """An open folder; see `opened`."""

    def __init__(self, workdir: pathlib.Path, config: ConfigDict):
        self.workdir = workdir
        self._config = config
        self._seconds: dict[str, float] = {}
        for name in ("arrays", "plots"):
            (workdir / name).mkdir(exist_ok=True)

    def part(
        self, name: str, compute: Callable[[], dict[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """The arrays of `compute()`, saved as arrays/<name>.npz; if that file is there, those in it
        instead.

        A damaged file is computed anew. `compute` must be a function of the config alone.
        """
        path = self.workdir / "arrays" / f"{name}.npz"
        if path.exists():
            try:
                with np.load(path) as file:
                    arrays = dict(file)
                self._seconds[name] = float(arrays.pop(_SECONDS))
                say(f"{name}: as saved in {path}")
                return arrays
            except (*DAMAGED, KeyError):
                say(f"{path} is damaged; computing it anew")
        start = time.perf_counter()
        arrays = {key: np.asarray(value) for key, value in compute().items()}
        self._seconds[name] = time.perf_counter() - start
        write_arrays(path, **arrays, **{_SECONDS: np.float64(self._seconds[name])})
        say(f"{name}: {self._seconds[name]:.1f} s")
        return arrays

    def figure(self, name: str, figure: Figure) -> None:
        """Writes plots/<name>.png."""
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png")
        path = self.workdir / "plots" / f"{name}.png"
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_bytes(plots.png(Image.open(drawn).convert("RGB")))
        temporary.replace(path)
        say(f"figure: {path}")

    def finish(self, summary: dict) -> None:
        """Writes summary.json: the task, the seed, the seconds of each part, and `summary` (plain
        JSON types).
        """
        facts = {"task": self._config.task, "seed": self._config.seed, "seconds": self._seconds}
        write_json(self.workdir / "summary.json", facts | summary)
        say(f"summary: {self.workdir}/summary.json")


@contextlib.contextmanager
def opened(config: ConfigDict, workdir: pathlib.Path) -> Iterator[Study | None]:
    """Locks and claims the folder of a study and writes its config.json and run.json; None where it
    is finished.

    Raises:
      UserError: the folder is in use, cannot be written, or holds a study of another config.
    """
    with locked(workdir):
        saved = read_json(workdir / "config.json", "restore it or name another --workdir")
        if saved is not None:
            changed = [
                f"{name} (was {old!r}, now {new!r})"
                for name, old, new in configs.differences(saved, config, ConfigDict())
                if name != "compilation_cache"
            ]
            if changed:
                raise UserError(
                    f"--workdir={workdir} belongs to a run with another config: {'; '.join(changed)}; "
                    "use its values or name another --workdir"
                )
            if (workdir / "summary.json").exists():
                say(
                    f"{workdir} is already finished; nothing to do. See {workdir}/summary.json and {workdir}/plots"
                )
                yield None
                return
        write_json(workdir / "config.json", config.to_dict())
        write_json(workdir / "run.json", describe_run(config))
        yield Study(workdir, config)
