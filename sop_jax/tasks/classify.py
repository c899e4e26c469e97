"""The main task: train a classifier on doubtful labels and leave a ranked list of the wrong
ones.
"""

import pathlib
import time

import jax
import numpy as np
from ml_collections import ConfigDict

from sop_jax import checkpoint, label_issues, loop, outputs, report, seeds
from sop_jax import config as configs
from sop_jax import experiment as experiments
from sop_jax import mesh as meshes
from sop_jax.data import dataset as datasets
from sop_jax.evaluate import (
    COLLAPSE_KEYS,
    COLLAPSE_TRUE_KEYS,
    accuracy,
    collapse_metrics,
    evaluation_params,
)
from sop_jax.experiment import Experiment
from sop_jax.files import write_json
from sop_jax.run_folder import seed_folders
from sop_jax.seeds import Group
from sop_jax.step import TrainState
from sop_jax.workdir import claim, describe_run, locked


class Evaluation:
    """Metrics of an evaluated epoch: state -> the keys of `keys`. Truth enters here and goes no
    further.
    """

    def __init__(
        self,
        experiment: Experiment,
        truth: np.ndarray | None,
        test_images: jax.Array,
        train_images: jax.Array | None,
    ):
        self._experiment = experiment
        self._truth = truth
        # uint8 [M, H, W, C], on every device, shared by the evaluations of all seeds
        self._test_images = test_images
        self._train_images = train_images  # likewise, with config.track_collapse
        data, copied = experiment.dataset, meshes.replicated(experiment.mesh)
        self._validation_images = meshes.put(data.train.images[data.validation_rows], copied)
        self.keys = ["test_accuracy", "validation_accuracy"]
        if truth is not None:
            self.keys += ["train_accuracy_true", "label_issue_auroc"]
        if train_images is not None:
            self.keys += COLLAPSE_KEYS if truth is None else COLLAPSE_KEYS + COLLAPSE_TRUE_KEYS

    def test_probs(self, state: TrainState) -> np.ndarray:
        """Test predictions float32 [M, K]."""
        rows = np.arange(len(self._experiment.dataset.test.labels))
        return self._experiment.predict(
            evaluation_params(state), state.model_state, self._test_images, rows
        )

    def __call__(self, state: TrainState) -> dict:
        data = self._experiment.dataset
        metrics = {
            "test_accuracy": accuracy(self.test_probs(state), data.test.labels),
            "validation_accuracy": None,
        }
        held_out = data.validation_rows
        if len(held_out):
            probs = self._experiment.predict(
                evaluation_params(state),
                state.model_state,
                self._validation_images,
                np.arange(len(held_out)),
            )
            metrics["validation_accuracy"] = accuracy(probs, data.train.labels[held_out])
        if self._truth is not None:
            truth = self._truth[data.train_rows]
            read = outputs.read_rows(self._experiment, state)
            metrics["train_accuracy_true"] = float(
                np.mean(read.tracker["prediction"][:, 0] == truth)
            )
            metrics["label_issue_auroc"] = label_issues.auroc(truth != read.given, 1 - read.quality)
        if self._train_images is not None:
            metrics |= self._collapse(state)
        return metrics

    def _collapse(self, state: TrainState) -> dict:
        data, params = self._experiment.dataset, evaluation_params(state)
        rows, truth = data.train_rows, self._truth
        features = self._experiment.features(params, state.model_state, self._train_images, rows)
        weight, bias = jax.tree.map(np.asarray, self._experiment.classifier(params[0]))
        return collapse_metrics(
            features, weight, bias, data.train.labels[rows], None if truth is None else truth[rows]
        )


def run(config: ConfigDict, workdir: pathlib.Path | None, dry_run: bool = False) -> None:
    """Trains (or resumes) the run of `workdir` and writes everything that design.md section 5
    lists.
    """
    started = time.perf_counter()
    data, truth = datasets.load_seeds(configs.each_seed(config))
    resolved, notes = experiments.resolve(config, len(data[0].class_names))
    for line in [*dict.fromkeys(own.noise.describe() for own in data), *notes]:
        _say(line)
    group = seeds.build(resolved, data, meshes.make_mesh())
    if dry_run:
        _say(describe(resolved, group))
        return
    with locked(workdir):
        folders = seed_folders(workdir, group.seeds)
        labels = {
            own: member.dataset.noise.sha256
            for own, member in zip(folders, group.members, strict=True)
        }
        if claim(workdir, resolved, config, labels):
            _say(
                f"{workdir} is already finished ({resolved.epochs} epochs); nothing to do. See "
                f"{folders[0]}/report.html"
            )
            return
        _train(resolved, group, truth, workdir, started)


def _train(
    config: ConfigDict,
    group: Group,
    truth: np.ndarray | None,
    workdir: pathlib.Path,
    started: float,
) -> None:
    folders = seed_folders(workdir, group.seeds)
    if jax.process_index() == 0:
        facts = describe_run(config)
        write_json(workdir / "run.json", facts)
        for own, member in zip(folders, group.members, strict=True):
            own.mkdir(exist_ok=True)
            write_json(own / "config.json", member.config.to_dict())
            write_json(own / "run.json", facts | {"seed": member.config.seed})
            outputs.write_labels(own, member.dataset, truth)
    checkpoints = checkpoint.Checkpoints(workdir)
    first = group.members[0]
    copied = meshes.replicated(first.mesh)
    test_images = meshes.put(first.dataset.test.images, copied)
    train_images = meshes.put(first.dataset.train.images, copied) if config.track_collapse else None
    evaluations = [Evaluation(member, truth, test_images, train_images) for member in group.members]
    try:
        outcomes = loop.train(group, workdir, checkpoints, evaluations)
    finally:
        checkpoints.close()
    if not outcomes[0].finished:
        _say(
            f"stopped by SIGTERM at step {int(outcomes[0].state.step)}; the same command goes on from there"
        )
        return
    summaries = []
    for own, member, outcome, evaluation in zip(
        folders, group.members, outcomes, evaluations, strict=True
    ):
        test_probs, seconds = evaluation.test_probs(outcome.state), time.perf_counter() - started
        summaries.append(outputs.write_results(own, member, outcome, test_probs, truth, seconds))
        if jax.process_index() == 0:
            _say(f"report: {report.write_report(own)}")
    if len(folders) > 1 and jax.process_index() == 0:
        outputs.write_group_summary(workdir, summaries)
        _say(f"mean and std over {len(folders)} seeds: {workdir}/summary.json")


def _say(text: str) -> None:
    """Prints, in the first of several processes."""
    if jax.process_index() == 0:
        print(text, flush=True)


def describe(config: ConfigDict, group: Group) -> str:
    """What `--dry_run` prints: the resolved config, shapes and the memory they take."""
    experiment, num_seeds = group.members[0], len(group.members)
    data, mesh = experiment.dataset, experiment.mesh

    def size(tree) -> int:
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))

    state, devices = experiment.abstract, mesh.devices.size
    network = num_seeds * size((state.params, state.model_state, state.opt_state))
    rows = num_seeds * size((state.table, state.tracker)) / devices
    lines = [
        str(config),
        f"seeds: {num_seeds} in one program{f' ({config.seeds_by})' if num_seeds > 1 else ''}: "
        f"{', '.join(map(str, group.seeds))}",
        f"devices: {devices} x {jax.devices()[0].device_kind}",
        f"training rows: {len(data.train_rows)} of {len(data.train.labels)} {data.train.images.shape[1:]} "
        f"{data.train.images.dtype}, validation rows: {len(data.validation_rows)}, test: {len(data.test.labels)}, "
        f"classes: {len(data.class_names)}",
        f"steps: {experiment.steps_per_epoch} an epoch, {experiment.steps_per_epoch * experiment.config.epochs} in all",
        f"parameters: {sum(x.size for x in jax.tree.leaves(state.params)):,}",
        *(
            f"table {name}: {leaf.shape} {leaf.dtype}"
            for name, leaf in {**state.table, **state.tracker}.items()
        ),
        f"memory a device: network and optimiser {network / 2**20:.1f} MiB, rows {rows / 2**20:.1f} MiB, "
        f"images {(data.train.images.nbytes + data.test.images.nbytes) / 2**20:.1f} MiB (activations not counted)",
        "dry run: nothing was trained or written",
    ]
    return "\n".join(lines)
