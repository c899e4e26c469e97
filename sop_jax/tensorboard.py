"""TensorBoard events by tensorboardX, without TensorFlow.

Where it is not installed they are left out, with one warning.
"""

import logging
import pathlib
import shutil

import jax

log = logging.getLogger("sop_jax")
SKIPPED = ("epoch", "step")


class Events:
    """Writes the metrics of a run, in the first of several processes."""

    def __init__(self, workdir: pathlib.Path, history: list[dict]):
        """Opens the events anew.

        Args:
          workdir: they go to its tensorboard/, which is emptied.
          history: records of the epochs before, so that nothing of a killed run stands twice.
        """
        self._writer = None
        if jax.process_index() != 0:
            return
        folder = workdir / "tensorboard"
        shutil.rmtree(folder, ignore_errors=True)
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            log.warning(
                "tensorboardX is not installed: no TensorBoard events (metrics.jsonl has the same "
                "numbers)"
            )
            return
        self._writer = SummaryWriter(str(folder))
        for record in history:
            self.add(record)

    def add(self, record: dict) -> None:
        """Adds one line of metrics.jsonl."""
        if self._writer is not None:
            for name, value in record.items():
                if name not in SKIPPED and value is not None:
                    self._writer.add_scalar(name, value, record["epoch"])

    def close(self) -> None:
        """Flushes the events to disk."""
        if self._writer is not None:
            self._writer.close()
