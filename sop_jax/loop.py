"""The training loop: the only module with a `for` over epochs and steps.

Metrics are read one dispatch late, so that the host never waits for the device; a loss that is not finite stops the
run and names the step. SIGTERM saves a checkpoint at the step and ends the loop.
"""

import contextlib
import itertools
import pathlib
import signal
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from sop_jax import mesh as meshes
from sop_jax import optimizer, tensorboard
from sop_jax import workdir as folder
from sop_jax.checkpoint import Checkpoints, all_finite
from sop_jax.errors import UserError
from sop_jax.experiment import Experiment
from sop_jax.step import TrainState


class Outcome(NamedTuple):
    """How training ended."""

    state: TrainState
    history: list[dict]  # the lines of metrics.jsonl
    finished: bool  # False where SIGTERM ended it early
    compile_seconds: float  # of this process
    step_seconds: list[float]  # of every step of this process


@contextlib.contextmanager
def _sigterm_flag() -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether SIGTERM has come; the old handler returns afterwards.

    Several processes agree on the dispatch to stop at: JAX listens for the signal and each asks at every dispatch.
    """
    seen = []
    if jax.process_count() > 1:
        asked = itertools.count()

        def agreed() -> bool:
            if not seen and multihost_utils.reached_preemption_sync_point(next(asked)):
                seen.append(signal.SIGTERM)
            return bool(seen)

        yield agreed
        return
    try:
        old = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    except ValueError:  # not the main thread (the estimator in a worker): nobody sends signals there
        yield lambda: False
        return
    try:
        yield lambda: bool(seen)
    finally:
        signal.signal(signal.SIGTERM, old)


class Runner:
    """Calls the compiled steps, compiling each number of steps once and counting the seconds that takes."""

    def __init__(self, experiment: Experiment):
        self._experiment = experiment
        self._resident = experiment.resident()
        self._sharding = meshes.columns(experiment.mesh)
        self._compiled: dict[int, Callable] = {}
        self.compile_seconds = 0.0

    def __call__(self, state: TrainState, example: np.ndarray, index: np.ndarray) -> tuple[TrainState, jax.Array]:
        """Runs the S steps of example, index int32 [S, B]; returns the new state and the losses [S]."""
        plan = (meshes.put(example, self._sharding), meshes.put(index, self._sharding))
        compiled = self._compiled.get(len(example))
        if compiled is None:
            start = time.perf_counter()
            compiled = self._experiment.run_steps.lower(state, self._resident, *plan).compile()
            self._compiled[len(example)] = compiled
            self.compile_seconds += time.perf_counter() - start
        return compiled(state, self._resident, *plan)


class _Losses:
    """Reads losses one dispatch late and stops the run at the first that is not finite."""

    def __init__(self, saved_step: Callable[[], int | None]):
        self._waiting: tuple[int, jax.Array] | None = None
        self._saved_step = saved_step
        self._last_read: float | None = None
        self.step_seconds: list[float] = []

    def push(self, first_step: int, losses: jax.Array) -> None:
        """Takes the losses of the steps from `first_step` on and reads those of the dispatch before."""
        self.flush()
        self._waiting = (first_step, losses)

    def flush(self) -> None:
        """Reads what is waiting."""
        if self._waiting is None:
            return
        first, losses = self._waiting[0], np.asarray(self._waiting[1])
        self._waiting = None
        now = time.perf_counter()
        if self._last_read is not None:
            self.step_seconds += [(now - self._last_read) / len(losses)] * len(losses)
        self._last_read = now
        bad = np.flatnonzero(~np.isfinite(losses))
        if len(bad):
            saved = self._saved_step()
            kept = "no checkpoint was saved yet" if saved is None else f"the checkpoint of step {saved} is kept"
            raise UserError(f"the loss is {losses[bad[0]]} at step {first + bad[0]}; {kept}. Lower "
                            "config.optimizer.learning_rate (or method.learning_rate_u, learning_rate_v)")

    def pause(self) -> None:
        """Leaves out the time until the next read (evaluation, compilation)."""
        self._last_read = None


def train(
    experiment: Experiment,
    workdir: pathlib.Path,
    checkpoints: Checkpoints,
    evaluate: Callable[[TrainState], dict],
    labels_sha256: str,
    quiet: bool = False,
) -> Outcome:
    """Trains from the newest good checkpoint, or from the start, to config.epochs.

    Args:
      workdir: where metrics.jsonl and tensorboard/ go.
      evaluate: state -> metrics of an evaluated epoch, merged into its line of metrics.jsonl; its keys stand there as
        null in epochs that are not evaluated.
      labels_sha256: hash of the given labels; a checkpoint of other labels is refused.
      quiet: print no line for each epoch and show no progress bar.
    """
    config, per_epoch = experiment.config, experiment.steps_per_epoch
    speaks = jax.process_index() == 0 and not quiet
    restored = checkpoints.restore(experiment.abstract)
    state, meta = restored if restored else (experiment.init(), {"labels_sha256": labels_sha256})
    if meta["labels_sha256"] != labels_sha256:
        raise UserError(f"the given labels are not those that {workdir} was trained on (sha256 {labels_sha256[:12]}, "
                        f"was {meta['labels_sha256'][:12]}); restore the data or name another --workdir")
    step = int(state.step)
    history = folder.read_metrics(workdir, step // per_epoch)
    if restored and speaks:
        tqdm.write(f"resumed at step {step} (epoch {step // per_epoch}) from {workdir}")

    events = tensorboard.Events(workdir, history)
    runner = Runner(experiment)
    saved_step = [step if restored else None]
    losses = _Losses(lambda: saved_step[0])
    meta = {"labels_sha256": labels_sha256, "steps_per_epoch": per_epoch}
    bar = tqdm(total=config.epochs * per_epoch * config.batch_size, unit="img", unit_scale=True,
               disable=None if speaks else True, initial=step * config.batch_size, dynamic_ncols=True)

    def save(best: bool = False) -> None:
        if not all_finite(state):
            raise UserError(f"parameters or rows are not finite after step {step}; checkpoint of step {saved_step[0]} "
                            "is kept. Lower config.optimizer.learning_rate")
        checkpoints.save(state, meta, best)
        saved_step[0] = step

    with _sigterm_flag() as terminated, contextlib.closing(bar), contextlib.closing(events):
        for epoch in range(step // per_epoch, config.epochs):
            example, index = experiment.plan(epoch)
            start, compile_before, done = time.perf_counter(), runner.compile_seconds, step % per_epoch
            for first in range(done, per_epoch, config.steps_per_dispatch):
                chunk = slice(first, min(first + config.steps_per_dispatch, per_epoch))
                compiled = runner.compile_seconds
                state, batch_losses = runner(state, example[chunk], index[chunk])
                if runner.compile_seconds > compiled:
                    losses.pause()
                losses.push(step, batch_losses)
                step += len(batch_losses)
                bar.update(len(batch_losses) * config.batch_size)
                if terminated() and step % per_epoch:
                    losses.flush()
                    save()
                    return Outcome(state, history, False, runner.compile_seconds, losses.step_seconds)
            losses.flush()
            seconds = time.perf_counter() - start - (runner.compile_seconds - compile_before)
            if experiment.end_epoch is not None:
                state = experiment.end_epoch(state, epoch)
            row = _epoch_row(experiment, state, epoch, step, seconds, per_epoch - done)
            row |= evaluate(state) if _is_evaluated(config, epoch) else dict.fromkeys(evaluate.keys)
            best = _is_best(row, history)
            history.append(row)
            folder.append_metrics(workdir, row)
            events.add(row)
            if speaks:
                tqdm.write(_describe(row, config.epochs))
            losses.pause()
            if best or terminated() or (epoch + 1) % config.checkpoint_every == 0 or epoch + 1 == config.epochs:
                save(best)
            if terminated() and epoch + 1 < config.epochs:
                return Outcome(state, history, False, runner.compile_seconds, losses.step_seconds)
    return Outcome(state, history, True, runner.compile_seconds, losses.step_seconds)


def _is_evaluated(config, epoch: int) -> bool:
    return (epoch + 1) % config.eval_every == 0 or epoch + 1 == config.epochs


def _is_best(row: dict, history: list[dict]) -> bool:
    """Whether the epoch has the highest validation accuracy so far (never, without a validation split)."""
    accuracy = row.get("validation_accuracy")
    return accuracy is not None and all(accuracy > (r["validation_accuracy"] or 0.0) for r in history)


def _epoch_row(experiment: Experiment, state: TrainState, epoch: int, step: int, seconds: float, steps: int) -> dict:
    sums = jax.tree.map(float, meshes.fetch(state.sums))
    images = len(experiment.dataset.train_rows) * steps / experiment.steps_per_epoch
    return {
        "epoch": epoch,
        "step": step,
        "learning_rate": float(optimizer.learning_rate_at(experiment.config, epoch)),
        "train_loss": sums.loss * experiment.config.batch_size / sums.rows,
        "train_accuracy": sums.correct / sums.rows,
        "images_per_second": images / seconds,
        "seconds": seconds,
    }


def _describe(row: dict, epochs: int) -> str:
    """One line for people."""
    parts = [f"epoch {row['epoch'] + 1}/{epochs}", f"loss {row['train_loss']:.4f}",
             f"train (given labels) {row['train_accuracy']:.4f}"]
    for name, text in (("test_accuracy", "test"), ("validation_accuracy", "validation (given labels)"),
                       ("label_issue_auroc", "issue AUROC")):
        if row.get(name) is not None:
            parts.append(f"{text} {row[name]:.4f}")
    return ", ".join([*parts, f"{row['images_per_second']:,.0f} images/s"])
