"""The training loop: the only module with a `for` over epochs and steps. One seed is a group of one
(`seeds.py`).

Metrics are read one dispatch late, so that the host never waits for the device; a loss that is not
finite stops the run and names the step. SIGTERM saves a checkpoint at the step and ends the loop.
"""

import contextlib
import itertools
import pathlib
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from sop_jax import mesh as meshes
from sop_jax import optimizer, tensorboard
from sop_jax import table as tables
from sop_jax.checkpoint import Checkpoints, all_finite
from sop_jax.errors import UserError
from sop_jax.experiment import Experiment
from sop_jax.run_folder import seed_folders
from sop_jax.seeds import Group, State, split
from sop_jax.step import TrainState
from sop_jax.workdir import append_metrics, read_metrics


class Outcome(NamedTuple):
    """How training ended for one seed."""

    state: TrainState
    history: list[dict]  # the lines of its metrics.jsonl
    # False where SIGTERM ended it early; this and the times below are those of the whole group
    finished: bool
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
    """Calls the compiled steps, compiling each number of steps once and counting the seconds that
    takes.
    """

    def __init__(self, group: Group):
        self._group = group
        self._resident = group.resident()
        self._compiled: dict[int, Callable] = {}
        self.compile_seconds = 0.0

    def __call__(
        self, state: State, example: np.ndarray, index: np.ndarray
    ) -> tuple[State, jax.Array]:
        """Runs the S steps of example, index int32 [S, B] or [S, R, B]; returns the new state,
        losses [S] or [S, R].
        """
        plan = [meshes.put(part, self._group.plan_sharding) for part in (example, index)]
        compiled = self._compiled.get(len(example))
        if compiled is None:
            start = time.perf_counter()
            compiled = self._group.run_steps.lower(state, self._resident, *plan).compile()
            self._compiled[len(example)] = compiled
            self.compile_seconds += time.perf_counter() - start
        return compiled(state, self._resident, *plan)


class _Losses:
    """Reads losses one dispatch late and stops the run at the first that is not finite."""

    def __init__(self, saved_step: Callable[[], int | None], seeds: tuple[int, ...] = (0,)):
        self._seeds = seeds
        self._waiting: tuple[int, jax.Array] | None = None
        self._saved_step = saved_step
        self._last_read: float | None = None
        self.step_seconds: list[float] = []

    def push(self, first_step: int, losses: jax.Array) -> None:
        """Takes the losses of the steps from `first_step` on and reads those of the dispatch
        before.
        """
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
        losses = losses.reshape(len(losses), len(self._seeds))
        bad = np.argwhere(~np.isfinite(losses))
        if len(bad):
            step, seed = bad[0]
            saved = self._saved_step()
            kept = (
                "no checkpoint was saved yet"
                if saved is None
                else f"the checkpoint of step {saved} is kept"
            )
            raise UserError(
                f"the loss{_of(self._seeds, [seed])} is {losses[step, seed]} at step {first + step}; "
                f"{kept}. Lower config.optimizer.learning_rate (or method.learning_rate_u, "
                "learning_rate_v)"
            )

    def pause(self) -> None:
        """Leaves out the time until the next read (evaluation, compilation)."""
        self._last_read = None


def train(
    group: Group,
    workdir: pathlib.Path,
    checkpoints: Checkpoints,
    evaluations: Sequence[Callable[[TrainState], dict]],
    quiet: bool = False,
) -> list[Outcome]:
    """Trains every seed from the newest good checkpoint, or from the start, to config.epochs.

    Args:
      workdir: metrics.jsonl and tensorboard/ go into its `seed_folders`.
      evaluations: for each seed, state -> metrics of an evaluated epoch, merged into its line of
        metrics.jsonl; its keys stand there as null in epochs that are not evaluated.
      quiet: print no line for each epoch and show no progress bar.

    Returns:
      The outcome of each seed.

    Raises:
      UserError: the checkpoint is one of other labels; a loss, a parameter or a row is not finite;
        a file cannot be read or written.
    """
    members, seeds, labels_sha256 = group.members, group.seeds, group.labels_sha256
    config, per_epoch = members[0].config, members[0].steps_per_epoch
    folders = seed_folders(workdir, seeds)
    speaks = jax.process_index() == 0 and not quiet
    restored = checkpoints.restore(group.abstract)
    state, meta = restored if restored else (group.init(), {"labels_sha256": labels_sha256})
    if meta["labels_sha256"] != labels_sha256:
        raise UserError(
            f"the given labels are not those that {workdir} was trained on (sha256 {labels_sha256[:12]}, "
            f"was {meta['labels_sha256'][:12]}); restore the data or name another --workdir"
        )
    step = int(state.step)
    histories = [read_metrics(own, step // per_epoch) for own in folders]
    if restored and speaks:
        tqdm.write(f"resumed at step {step} (epoch {step // per_epoch}) from {workdir}")

    events = [
        tensorboard.Events(own, history) for own, history in zip(folders, histories, strict=True)
    ]
    runner = Runner(group)
    saved_step = [step if restored else None]
    losses = _Losses(lambda: saved_step[0], seeds)
    meta = {"labels_sha256": labels_sha256, "steps_per_epoch": per_epoch}
    step_images = config.batch_size * len(members)
    bar = tqdm(
        total=config.epochs * per_epoch * step_images,
        unit="img",
        unit_scale=True,
        disable=None if speaks else True,
        initial=step * step_images,
        dynamic_ncols=True,
    )

    def save(best: bool = False) -> None:
        bad = [
            place
            for place, own in enumerate(split(state))
            if not all_finite(own._replace(table=tables.values(own.table)))
        ]
        if bad:
            raise UserError(
                f"parameters or rows{_of(seeds, bad)} are not finite after step {step}; checkpoint of step "
                f"{saved_step[0]} is kept. Lower config.optimizer.learning_rate"
            )
        checkpoints.save(state, meta, best)
        saved_step[0] = step

    def outcomes(finished: bool) -> list[Outcome]:
        return [
            Outcome(own, history, finished, runner.compile_seconds, losses.step_seconds)
            for own, history in zip(split(state), histories, strict=True)
        ]

    with contextlib.ExitStack() as stack:
        terminated = stack.enter_context(_sigterm_flag())
        for resource in (bar, *events):
            stack.enter_context(contextlib.closing(resource))
        for epoch in range(step // per_epoch, config.epochs):
            example, index = group.plan(epoch)
            start, compile_before, done = (
                time.perf_counter(),
                runner.compile_seconds,
                step % per_epoch,
            )
            for first in range(done, per_epoch, config.steps_per_dispatch):
                chunk = slice(first, min(first + config.steps_per_dispatch, per_epoch))
                compiled = runner.compile_seconds
                state, batch_losses = runner(state, example[chunk], index[chunk])
                if runner.compile_seconds > compiled:
                    losses.pause()
                losses.push(step, batch_losses)
                step += len(batch_losses)
                bar.update(len(batch_losses) * step_images)
                if terminated() and step % per_epoch:
                    losses.flush()
                    save()
                    return outcomes(finished=False)
            losses.flush()
            seconds = time.perf_counter() - start - (runner.compile_seconds - compile_before)
            state = group.end_epoch(state, epoch)
            rows = [
                _epoch_row(member, own, epoch, step, seconds, per_epoch - done)
                for member, own in zip(members, split(state), strict=True)
            ]
            for row, evaluate, own in zip(rows, evaluations, split(state), strict=True):
                row |= (
                    evaluate(own) if _is_evaluated(config, epoch) else dict.fromkeys(evaluate.keys)
                )
            best = _is_best(rows, histories)
            for row, history, own, written in zip(rows, histories, folders, events, strict=True):
                history.append(row)
                append_metrics(own, row)
                written.add(row)
            if speaks:
                tqdm.write(_describe(rows, config.epochs))
            losses.pause()
            if (
                best
                or terminated()
                or (epoch + 1) % config.checkpoint_every == 0
                or epoch + 1 == config.epochs
            ):
                save(best)
            if terminated() and epoch + 1 < config.epochs:
                return outcomes(finished=False)
    return outcomes(finished=True)


def _of(seeds: tuple[int, ...], places: Sequence[int]) -> str:
    """' of seed 3' where there are several seeds to tell apart, else ''."""
    return f" of seed {', '.join(str(seeds[place]) for place in places)}" if len(seeds) > 1 else ""


def _is_evaluated(config, epoch: int) -> bool:
    return (epoch + 1) % config.eval_every == 0 or epoch + 1 == config.epochs


def _is_best(rows: list[dict], histories: list[list[dict]]) -> bool:
    """Whether the epoch has the highest validation accuracy so far, the mean over seeds (never,
    without a split).
    """

    def accuracy(rows: Sequence[dict]) -> float | None:
        values = [row.get("validation_accuracy") for row in rows]
        return None if None in values else statistics.fmean(values)

    now = accuracy(rows)
    return now is not None and all(
        now > (accuracy(past) or 0.0) for past in zip(*histories, strict=True)
    )


def _epoch_row(
    experiment: Experiment, state: TrainState, epoch: int, step: int, seconds: float, steps: int
) -> dict:
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


def _describe(rows: list[dict], epochs: int) -> str:
    """One line for people; of several seeds the mean +- the sample standard deviation."""
    parts = [f"epoch {rows[0]['epoch'] + 1}/{epochs}"]
    for name, text in (
        ("train_loss", "loss"),
        ("train_accuracy", "train (given labels)"),
        ("test_accuracy", "test"),
        ("validation_accuracy", "validation (given labels)"),
        ("label_issue_auroc", "issue AUROC"),
    ):
        values = [row[name] for row in rows if row.get(name) is not None]
        if values:
            spread = f" +- {statistics.stdev(values):.4f}" if len(values) > 1 else ""
            parts.append(f"{text} {statistics.fmean(values):.4f}{spread}")
    return ", ".join([*parts, f"{sum(row['images_per_second'] for row in rows):,.0f} images/s"])
