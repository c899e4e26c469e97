"""The training loop: the only module with a `for` over epochs and steps.

Metrics are read one dispatch late, so that the host never waits for the device; a loss that is not
finite stops the run and names the step. SIGTERM saves a checkpoint at the step and ends the loop.
"""

import contextlib
import itertools
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from sop_jax.checkpoint import Checkpoints, all_finite
from sop_jax.errors import UserError
from sop_jax.experiment import Experiment
from sop_jax.mesh import by_batch, fetch, put
from sop_jax.schedules import learning_rate_at
from sop_jax.state import Resident, TrainState
from sop_jax.table import values
from sop_jax.tensorboard import Events
from sop_jax.workdir import Session


class Evaluation(Protocol):
    keys: Sequence[str]  # of what the call returns; they stand as null in epochs not evaluated

    def __call__(self, state: TrainState) -> dict:
        """The metrics of an evaluated epoch, merged into its record."""


class Outcome(NamedTuple):
    """How training ended."""

    state: TrainState
    history: list[dict]  # the records of metrics.jsonl
    finished: bool  # False where SIGTERM came before its end
    compile_seconds: float  # of this process
    step_seconds: list[float]  # of every step of this process


@contextlib.contextmanager
def _sigterm_flag() -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether SIGTERM has come; the old handler returns afterwards.

    Several processes agree on the dispatch to stop at: JAX listens for the signal and each asks at
    every dispatch.
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
    # not the main thread (the estimator in a worker): nobody sends signals there
    except ValueError:
        yield lambda: False
        return
    try:
        yield lambda: bool(seen)
    finally:
        signal.signal(signal.SIGTERM, old)


class Runner:
    """Calls the compiled steps on a training set, placing the index arrays on the mesh."""

    def __init__(self, experiment: Experiment, resident: Resident):
        self.resident = resident
        self._programs = experiment.programs
        self._by_batch = by_batch(experiment.mesh)
        self._compiled_before = experiment.programs.compile_seconds

    @property
    def compile_seconds(self) -> float:
        """Seconds that compiling has taken since this runner was made."""
        return self._programs.compile_seconds - self._compiled_before

    def __call__(
        self, state: TrainState, example: np.ndarray, index: np.ndarray
    ) -> tuple[TrainState, jax.Array]:
        """Runs the S steps of example, index int32 [S, B]; returns the new state, losses [S]."""
        placed = [put(part, self._by_batch) for part in (example, index)]
        with jax.transfer_guard("disallow"):  # all that a step needs is on the devices
            return self._programs(state, self.resident, *placed)


class _Losses:
    """Reads losses one dispatch late and stops the run at the first that is not finite."""

    def __init__(self, saved_step: Callable[[], int | None]):
        self._waiting: tuple[int, jax.Array] | None = None
        self._saved_step = saved_step
        self._last_read: float | None = None
        self.step_seconds: list[float] = []

    def push(self, first_step: int, losses: jax.Array) -> None:
        """Takes the losses [S] of the steps from `first_step` on and reads the dispatch before."""
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
            raise UserError(
                f"the loss is {losses[bad[0]]} at step {first + bad[0]}; "
                f"{_kept(self._saved_step())}. Lower config.optimizer.learning_rate (or a learning "
                "rate of config.method)"
            )

    def pause(self) -> None:
        """Leaves out the time until the next read (evaluation, compilation)."""
        self._last_read = None


def _kept(saved_step: int | None) -> str:
    if saved_step is None:
        return "no checkpoint was saved yet"
    return f"the checkpoint of step {saved_step} is kept"


def train(
    experiment: Experiment,
    resident: Resident,
    session: Session,
    checkpoints: Checkpoints,
    evaluate: Evaluation,
    quiet: bool = False,
) -> Outcome:
    """Trains from the newest good checkpoint, or from the start, to config.epochs.

    Args:
      resident: the training set on the devices.
      session: in the folder that metrics.jsonl and tensorboard/ go to.
      evaluate: what is measured at an evaluated epoch.
      quiet: print no line for each epoch and show no progress bar.

    Raises:
      UserError: the checkpoint is one of other labels; a loss, a parameter or a row is not finite;
        a file cannot be read or written.
    """
    config, per_epoch = experiment.config, experiment.steps_per_epoch
    labels_sha256 = experiment.dataset.noise.sha256
    speaks = jax.process_index() == 0 and not quiet
    restored = checkpoints.restore(experiment.abstract)
    state, meta = restored if restored else (experiment.init(), {"labels_sha256": labels_sha256})
    if meta["labels_sha256"] != labels_sha256:
        raise UserError(
            f"the given labels are not those that {session.workdir} was trained on (sha256 "
            f"{labels_sha256[:12]}, was {meta['labels_sha256'][:12]}); restore the data or name "
            "another --workdir"
        )
    step = int(state.step)
    history = session.restore_metrics(step // per_epoch, meta.get("history", None if step else []))
    if restored and speaks:
        tqdm.write(f"resumed at step {step} (epoch {step // per_epoch}) from {session.workdir}")

    events = Events(session.workdir, history)
    runner = Runner(experiment, resident)
    saved_step = step if restored else None
    losses = _Losses(lambda: saved_step)
    meta = {"labels_sha256": labels_sha256, "steps_per_epoch": per_epoch}
    bar = tqdm(
        total=config.epochs * per_epoch * config.batch_size,
        unit="img",
        unit_scale=True,
        disable=None if speaks else True,
        initial=step * config.batch_size,
        dynamic_ncols=True,
    )

    def save(best: bool = False) -> None:
        nonlocal saved_step
        if not all_finite(state._replace(table=values(state.table))):
            raise UserError(
                f"parameters or rows are not finite after step {step}; {_kept(saved_step)}. Lower "
                "config.optimizer.learning_rate"
            )
        checkpoints.save(state, {**meta, "history": list(history)}, best)
        saved_step = step

    def outcome(finished: bool) -> Outcome:
        return Outcome(state, history, finished, runner.compile_seconds, losses.step_seconds)

    with contextlib.ExitStack() as stack:
        terminated = stack.enter_context(_sigterm_flag())
        for resource in (bar, events):
            stack.enter_context(contextlib.closing(resource))
        for epoch in range(step // per_epoch, config.epochs):
            state, example, index = experiment.plan(state, epoch)
            start, compiled_before = time.perf_counter(), runner.compile_seconds
            done = step % per_epoch
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
                    return outcome(finished=False)
            losses.flush()
            seconds = time.perf_counter() - start - (runner.compile_seconds - compiled_before)
            state = experiment.end_epoch(state, resident)
            record = _epoch_record(experiment, state, epoch, seconds, per_epoch - done)
            evaluated = _is_evaluated(config, epoch)
            record |= evaluate(state) if evaluated else dict.fromkeys(evaluate.keys)
            best = _is_best(record, history)
            history.append(record)
            session.add(record)
            events.add(record)
            if speaks:
                tqdm.write(_describe(record, config.epochs))
            losses.pause()
            last = epoch + 1 == config.epochs
            if best or terminated() or (epoch + 1) % config.checkpoint_every == 0 or last:
                save(best)
            if terminated():
                return outcome(finished=False)
    return outcome(finished=True)


def _is_evaluated(config, epoch: int) -> bool:
    return (epoch + 1) % config.eval_every == 0 or epoch + 1 == config.epochs


def _is_best(record: dict, history: list[dict]) -> bool:
    """Whether the epoch has the highest validation accuracy so far (never, without a split)."""
    accuracy = record.get("validation_accuracy")
    if accuracy is None:
        return False
    return all(accuracy > (past.get("validation_accuracy") or 0.0) for past in history)


def _epoch_record(
    experiment: Experiment, state: TrainState, epoch: int, seconds: float, steps: int
) -> dict:
    """The record of an epoch before evaluation; `steps` of it ran in `seconds`."""
    config, method, num_rows = (
        experiment.config,
        experiment.method,
        len(experiment.dataset.train_index),
    )
    sums = jax.tree.map(float, fetch(state.sums))
    predicted = sums.rows if method.plain_view else num_rows
    return {
        "epoch": epoch,
        "step": (epoch + 1) * experiment.steps_per_epoch,
        "learning_rate": learning_rate_at(config, epoch),
        "train_loss": sums.loss * method.streams * config.batch_size / sums.rows,
        "train_accuracy": sums.correct / predicted,
        "images_per_second": num_rows * steps / experiment.steps_per_epoch / seconds,
        "seconds": seconds,
        **{name: total / sums.steps for name, total in sums.metrics.items()},
    }


def _describe(record: dict, epochs: int) -> str:
    """One line for people."""
    texts = {
        "train_loss": "loss",
        "train_accuracy": "train (given labels)",
        "test_accuracy": "test",
        "validation_accuracy": "validation (given labels)",
        "margin_auroc": "margin AUROC",
    }
    known = [
        f"{text} {record[name]:.4f}" for name, text in texts.items() if record.get(name) is not None
    ]
    speed = f"{record['images_per_second']:,.0f} images/s"
    return ", ".join([f"epoch {record['epoch'] + 1}/{epochs}", *known, speed])
