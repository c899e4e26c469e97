"""TensorBoard events by tensorboardX, without TensorFlow; left out with one warning where it is not
installed.
"""

import logging
import pathlib
import shutil

import jax

log = logging.getLogger("sop_jax")
SKIPPED = ("epoch", "step")


class Events:
    """Writes the metrics of a run, in the first of several processes.

    Opened anew it starts from `history`, so nothing of a killed run stands twice.
    """

    def __init__(self, workdir: pathlib.Path, history: list[dict]):
        self._writer = None
        if jax.process_index() != 0:
            return
        folder = workdir / "tensorboard"
        shutil.rmtree(folder, ignore_errors=True)
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            log.warning(
                "tensorboardX is not installed: no TensorBoard events (metrics.jsonl has the same numbers)"
            )
            return
        self._writer = SummaryWriter(str(folder))
        for row in history:
            self.add(row)

    def add(self, row: dict) -> None:
        """Adds one line of metrics.jsonl."""
        if self._writer is not None:
            for name, value in row.items():
                if name not in SKIPPED and value is not None:
                    self._writer.add_scalar(name, value, row["epoch"])

    def close(self) -> None:
        """Flushes the events to disk."""
        if self._writer is not None:
            self._writer.close()
