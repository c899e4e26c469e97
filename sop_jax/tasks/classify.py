"""The main task: train a classifier on doubtful labels, leave a ranked list of the wrong ones."""

import contextlib
import pathlib
import time
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from sop_jax.agreement import facts_of, fingerprint, require_same, together
from sop_jax.checkpoint import Checkpoints
from sop_jax.claim import claim
from sop_jax.config import each_seed
from sop_jax.crossfit import NAME as HELD_OUT
from sop_jax.crossfit import Stopped, cross_fit
from sop_jax.data.dataset import Dataset, load_seeds
from sop_jax.evaluate import (
    COLLAPSE_KEYS,
    COLLAPSE_TRUE_KEYS,
    accuracy,
    collapse_metrics,
    evaluation_params,
)
from sop_jax.evidence import read_evidence, read_tracked
from sop_jax.experiment import Experiment, build, memory_of, resolve
from sop_jax.finished import mark, reopen
from sop_jax.grading import auroc
from sop_jax.lock import locked
from sop_jax.loop import train
from sop_jax.mesh import make_mesh, put, replicated
from sop_jax.outputs import (
    GROUP_OUTPUTS,
    OUTPUTS,
    write_group_summary,
    write_labels,
    write_results,
)
from sop_jax.report import write_report
from sop_jax.run_folder import seed_folders
from sop_jax.settings import changed_fields, text
from sop_jax.state import TrainState, flat
from sop_jax.workdir import Session


class Images(NamedTuple):
    """On every device, shared by the runs of all seeds; uint8 [., H * W * C]."""

    train: jax.Array
    test: jax.Array


class Evaluation:
    """Metrics of an evaluated epoch. True labels enter here and go no further."""

    def __init__(self, experiment: Experiment, true_label: np.ndarray | None, images: Images):
        self._experiment = experiment
        self._true_label = true_label
        self._images = images
        self._collapse = experiment.config.track_collapse
        self.keys = ["test_accuracy", "validation_accuracy"]
        if true_label is not None:
            self.keys += ["train_accuracy_true", "margin_auroc"]
        if self._collapse:
            self.keys += COLLAPSE_KEYS if true_label is None else COLLAPSE_KEYS + COLLAPSE_TRUE_KEYS

    def _probs(self, state: TrainState, images: jax.Array, index: np.ndarray) -> np.ndarray:
        return self._experiment.predict(evaluation_params(state), state.model_state, images, index)

    def test_probs(self, state: TrainState) -> np.ndarray:
        """Test predictions float32 [M, K]."""
        return self._probs(state, self._images.test, np.arange(self._images.test.shape[0]))

    def __call__(self, state: TrainState) -> dict:
        data = self._experiment.dataset
        record = {
            "test_accuracy": accuracy(self.test_probs(state), data.test.labels),
            "validation_accuracy": None,
        }
        held_out = data.validation_index
        if len(held_out):
            probs = self._probs(state, self._images.train, held_out)
            record["validation_accuracy"] = accuracy(probs, data.train.labels[held_out])
        if self._true_label is not None:
            true_label = self._true_label[data.train_index]
            tracked = read_tracked(self._experiment, state)
            record["train_accuracy_true"] = float(np.mean(tracked.prediction == true_label))
            record["margin_auroc"] = auroc(true_label != tracked.label, -tracked.margin)
        if self._collapse:
            record |= self._measure_collapse(state)
        return record

    def _measure_collapse(self, state: TrainState) -> dict:
        data, params = self._experiment.dataset, evaluation_params(state)
        index, true_label = data.train_index, self._true_label
        features = self._experiment.features(params, state.model_state, self._images.train, index)
        weight, bias = jax.tree.map(np.asarray, self._experiment.classifier(params[0]))
        known = None if true_label is None else true_label[index]
        return collapse_metrics(features, weight, bias, data.train.labels[index], known)


def run(config: ConfigDict, workdir: pathlib.Path | None, dry_run: bool = False) -> None:
    """Trains, or goes on with, the run of `workdir` and writes all that it leaves there.

    Several seeds are so many runs, one after the other with the same programs, in folders of their
    own inside `workdir`.
    """
    started = time.perf_counter()
    configs = each_seed(config)
    datasets, true_label = load_seeds(configs)
    resolved, notes = resolve(config, datasets[0])
    require_same(facts_of(resolved) | _facts_of_data(datasets), "the data")
    for line in [*dict.fromkeys(data.noise.describe() for data in datasets), *notes]:
        _say(line)
    first = build(each_seed(resolved)[0], datasets[0], make_mesh())
    experiments = [
        first.of_seed(own, data) for own, data in zip(each_seed(resolved), datasets, strict=True)
    ]
    if dry_run:
        _say(describe(resolved, first))
        return
    with contextlib.ExitStack() as locks:
        locks.enter_context(locked(workdir))
        folders = seed_folders(workdir, [own.config.seed for own in experiments])
        several = len(folders) > 1
        whole = not several or claim(workdir, resolved, partial(_changed, resolved, config))
        for folder in folders if several else ():
            locks.enter_context(locked(folder))
        finished = [
            claim(
                folder, own.config, partial(_changed, own.config, asked), own.dataset.noise.sha256
            )
            for folder, own, asked in zip(folders, experiments, configs, strict=True)
        ]
        if whole and all(finished):
            _say(
                f"{workdir} is already finished ({resolved.epochs} epochs); nothing to do. See "
                f"{folders[0]}/report.html"
            )
            return
        if several and jax.process_index() == 0:
            reopen(workdir, [])
        group = Session(workdir, resolved, started) if several else None
        copied, data = replicated(first.mesh), datasets[0]
        images = Images(*(put(flat(part.images), copied) for part in (data.train, data.test)))
        for folder, own, done in zip(folders, experiments, finished, strict=True):
            session = None if done else Session(folder, own.config, started)
            if session is not None and not _run_seed(own, true_label, images, session):
                return
            started = time.perf_counter()
        if several and jax.process_index() == 0:
            group.note_time()
            write_group_summary(workdir, folders)
            mark(workdir, GROUP_OUTPUTS)
            _say(f"mean and std over {len(folders)} seeds: {workdir}/summary.json")


def _changed(config: ConfigDict, requested: ConfigDict, saved: dict) -> list[str]:
    return changed_fields(saved, config, requested)


def _facts_of_data(datasets: list[Dataset]) -> dict[str, str]:
    """What the processes of a run must have read alike."""
    train, test = datasets[0].train, datasets[0].test
    given = [data.train.labels for data in datasets]
    return {
        "the hash of the training images": fingerprint([train.images]),
        "the hash of the training ids": fingerprint([train.ids]),
        "the hash of the given labels": fingerprint(given),
        "the hash of the test set": fingerprint(test),
        "the list of the class names": ", ".join(datasets[0].class_names),
    }


def _run_seed(
    experiment: Experiment, true_label: np.ndarray | None, images: Images, session: Session
) -> bool:
    """One run, to its report and the mark of a finished one; False where SIGTERM ended it early."""
    workdir = session.workdir
    if jax.process_index() == 0:
        write_labels(workdir, experiment.dataset, true_label)
    checkpoints = Checkpoints(workdir)
    evaluation = Evaluation(experiment, true_label, images)
    resident = experiment.resident(images.train)
    try:
        with together():
            outcome = train(experiment, resident, session, checkpoints, evaluation)
    finally:
        checkpoints.close()
    if not outcome.finished:
        step = int(outcome.state.step)
        _say(f"stopped by SIGTERM at step {step}; the same command goes on from there")
        return False
    epochs = experiment.config.crossfit_epochs
    if epochs:
        _say(f"cross-fitting: two networks on half of the rows each, {epochs} epochs")
    try:
        with together():
            held_out = cross_fit(experiment, resident, workdir)
    except Stopped:
        _say("stopped by SIGTERM while cross-fitting; the same command goes on from there")
        return False
    evidence = read_evidence(experiment, outcome.state, resident, held_out)
    test_probs, seconds = evaluation.test_probs(outcome.state), session.note_time()
    if jax.process_index() == 0:
        write_results(workdir, experiment, outcome, evidence, test_probs, true_label, seconds)
        page = write_report(workdir)
        events = ["tensorboard"] if (workdir / "tensorboard").is_dir() else []
        held = [HELD_OUT] if epochs else []
        mark(workdir, [*OUTPUTS, *held, *events])
        _say(f"report: {page}")
    return True


def _say(text: str) -> None:
    """Prints, in the first of several processes."""
    if jax.process_index() == 0:
        print(text, flush=True)


def describe(config: ConfigDict, experiment: Experiment) -> str:
    """What `--dry_run` prints: the resolved config, shapes and the memory they take."""
    data, devices = experiment.dataset, experiment.mesh.devices.size
    state, per_epoch = experiment.abstract, experiment.steps_per_epoch
    rows = {**state.table, **state.tracker}
    parts = memory_of(state, data, experiment.mesh).items()
    memory = ", ".join(f"{name} {count / 2**20:.1f} MiB" for name, count in parts)
    shape = data.train.images.shape[1:]
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    seeds = ", ".join(str(own.seed) for own in each_seed(config))
    lines = [
        text(config),
        f"seeds, one after the other: {seeds}",
        f"devices: {devices} x {jax.devices()[0].device_kind}",
        f"training rows: {len(data.train_index)} of {len(data.train.labels)} {shape} "
        f"{data.train.images.dtype}, validation rows: {len(data.validation_index)}, "
        f"test: {len(data.test.labels)}, classes: {experiment.num_classes}",
        f"steps: {per_epoch} an epoch, {per_epoch * config.epochs} in all",
        f"parameters: {parameters:,}",
        *(f"table {name}: {leaf.shape} {leaf.dtype}" for name, leaf in rows.items()),
        f"memory a device: {memory} (activations not counted)",
        "dry run: nothing was trained or written",
    ]
    return "\n".join(lines)
