"""The main task: train a classifier on doubtful labels and leave a ranked list of the wrong ones."""

import pathlib
import time

import jax
import numpy as np
from ml_collections import ConfigDict

from sop_jax import checkpoint, label_issues, loop, outputs, report
from sop_jax import experiment as experiments
from sop_jax import mesh as meshes
from sop_jax import workdir as folder
from sop_jax.data import dataset as datasets
from sop_jax.evaluate import accuracy, evaluation_params
from sop_jax.experiment import Experiment
from sop_jax.step import TrainState


class Evaluation:
    """Metrics of an evaluated epoch: state -> the keys of `keys`. Truth enters here and goes no further."""

    def __init__(self, experiment: Experiment, truth: np.ndarray | None):
        self._experiment = experiment
        self._truth = truth
        data, copied = experiment.dataset, meshes.replicated(experiment.mesh)
        self._test_images = meshes.put(data.test.images, copied)
        self._validation_images = meshes.put(data.train.images[data.validation_rows], copied)
        self.keys = ["test_accuracy", "validation_accuracy"]
        if truth is not None:
            self.keys += ["train_accuracy_true", "label_issue_auroc"]

    def test_probs(self, state: TrainState) -> np.ndarray:
        """Test predictions float32 [M, K]."""
        rows = np.arange(len(self._experiment.dataset.test.labels))
        return self._experiment.predict(evaluation_params(state), state.model_state, self._test_images, rows)

    def __call__(self, state: TrainState) -> dict:
        data = self._experiment.dataset
        metrics = {"test_accuracy": accuracy(self.test_probs(state), data.test.labels), "validation_accuracy": None}
        held_out = data.validation_rows
        if len(held_out):
            probs = self._experiment.predict(
                evaluation_params(state), state.model_state, self._validation_images, np.arange(len(held_out))
            )
            metrics["validation_accuracy"] = accuracy(probs, data.train.labels[held_out])
        if self._truth is not None:
            truth = self._truth[data.train_rows]
            tracked = meshes.fetch(state.tracker["prediction"])[data.train_rows, 0]
            issues = outputs.read_issues(self._experiment, state)
            wrong = truth != data.train.labels[data.train_rows]
            metrics["train_accuracy_true"] = float(np.mean(tracked == truth))
            metrics["label_issue_auroc"] = label_issues.auroc(wrong, 1 - issues.quality)
        return metrics


def run(config: ConfigDict, workdir: pathlib.Path | None, dry_run: bool = False) -> None:
    """Trains (or resumes) the run of `workdir` and writes everything that design.md section 5 lists."""
    started = time.perf_counter()
    data, truth = datasets.load(config)
    resolved, notes = experiments.resolve(config, len(data.class_names))
    for line in [data.noise.describe(), *notes]:
        _say(line)
    experiment = experiments.build(resolved, data, meshes.make_mesh())
    if dry_run:
        _say(describe(experiment))
        return
    with folder.locked(workdir):
        if folder.claim(workdir, resolved, config, data.noise.sha256):
            _say(f"{workdir} is already finished ({resolved.epochs} epochs); nothing to do. See {workdir}/report.html")
            return
        _train(experiment, truth, workdir, started)


def _train(experiment: Experiment, truth: np.ndarray | None, workdir: pathlib.Path, started: float) -> None:
    data = experiment.dataset
    if jax.process_index() == 0:
        folder.write_json(workdir / "run.json", folder.describe_run(experiment.config))
        outputs.write_labels(workdir, data, truth)
    checkpoints = checkpoint.Checkpoints(workdir)
    evaluation = Evaluation(experiment, truth)
    try:
        outcome = loop.train(experiment, workdir, checkpoints, evaluation, data.noise.sha256)
    finally:
        checkpoints.close()
    if not outcome.finished:
        _say(f"stopped by SIGTERM at step {int(outcome.state.step)}; the same command goes on from there")
        return
    test_probs = evaluation.test_probs(outcome.state)
    outputs.write_results(workdir, experiment, outcome, test_probs, truth, time.perf_counter() - started)
    if jax.process_index() == 0:
        _say(f"report: {report.write_report(workdir)}")


def _say(text: str) -> None:
    """Prints, in the first of several processes."""
    if jax.process_index() == 0:
        print(text, flush=True)


def describe(experiment: Experiment) -> str:
    """What `--dry_run` prints: the resolved config, shapes and the memory they take."""
    data, mesh = experiment.dataset, experiment.mesh

    def size(tree) -> int:
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))

    state, devices = experiment.abstract, mesh.devices.size
    lines = [
        str(experiment.config),
        f"devices: {devices} x {jax.devices()[0].device_kind}",
        f"training rows: {len(data.train_rows)} of {len(data.train.labels)} {data.train.images.shape[1:]} "
        f"{data.train.images.dtype}, validation rows: {len(data.validation_rows)}, test: {len(data.test.labels)}, "
        f"classes: {len(data.class_names)}",
        f"steps: {experiment.steps_per_epoch} an epoch, {experiment.steps_per_epoch * experiment.config.epochs} in all",
        f"parameters: {sum(x.size for x in jax.tree.leaves(state.params)):,}",
        *(f"table {name}: {leaf.shape} {leaf.dtype}" for name, leaf in {**state.table, **state.tracker}.items()),
        "memory a device: "
        f"network and optimiser {size((state.params, state.model_state, state.opt_state)) / 2**20:.1f} MiB, "
        f"rows {size((state.table, state.tracker)) / devices / 2**20:.1f} MiB, "
        f"images {(data.train.images.nbytes + data.test.images.nbytes) / 2**20:.1f} MiB (activations not counted)",
        "dry run: nothing was trained or written",
    ]
    return "\n".join(lines)
