"""The files a finished run leaves beside its metrics: labels, issues, predictions, gallery, summary
(design, 5).
"""

import functools
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from sop_jax import evaluate, label_issues
from sop_jax import mesh as meshes
from sop_jax import table as tables
from sop_jax.data.dataset import Dataset
from sop_jax.experiment import Experiment
from sop_jax.files import write_arrays, write_json
from sop_jax.label_issues import LabelIssues
from sop_jax.loop import Outcome
from sop_jax.models.api import num_parameters
from sop_jax.step import TrainState

GALLERY_SIZE = 100


def write_labels(workdir: pathlib.Path, data: Dataset, truth: np.ndarray | None) -> None:
    """labels.npz: the given labels of all N rows, in row order, with their hash."""
    arrays = {
        "id": data.train.ids,
        "given_label": data.train.labels.astype(np.int32),
        "sha256": np.array(data.noise.sha256),
        "train_rows": data.train_rows,
        "validation_rows": data.validation_rows,
    }
    if truth is not None:
        arrays["true_label"] = truth.astype(np.int32)
    write_arrays(workdir / "labels.npz", **arrays)


class TrainRows(NamedTuple):
    """What training left of its rows, in row order, on the host."""

    tracker: dict  # leaves [n, ...]
    table: dict  # the method's rows, [n, ...]
    given: np.ndarray  # int32 [n], the given labels
    noise: np.ndarray  # [n, K], the method's estimate s of given minus clean label

    @property
    def quality(self) -> np.ndarray:
        """[n], see `label_issues.quality`."""
        return label_issues.quality(self.given, self.tracker["margin"][:, 0], self.noise)


def read_rows(experiment: Experiment, state: TrainState) -> TrainRows:
    """The training rows, from the state alone."""
    rows, data = experiment.dataset.train_rows, experiment.dataset
    tracker, table = meshes.fetch((state.tracker, state.table))
    table = jax.tree.map(np.asarray, tables.values({k: v[rows] for k, v in table.items()}))
    given = data.train.labels[rows]
    noise = np.asarray(experiment.method.noise_estimate(table, given, experiment.num_classes))
    return TrainRows({k: v[rows] for k, v in tracker.items()}, table, given, noise)


def read_issues(experiment: Experiment, state: TrainState) -> LabelIssues:
    """The verdict on every training row."""
    read = read_rows(experiment, state)
    return _find(read, train_probs(experiment, state, read))


def train_probs(experiment: Experiment, state: TrainState, read: TrainRows) -> np.ndarray:
    """Predictions of the training rows [n, K]: the tracker's mean or, where it keeps none, the
    final network's.
    """
    if "probs" in read.tracker:
        return read.tracker["probs"]
    data = experiment.dataset
    images = meshes.put(data.train.images, meshes.replicated(experiment.mesh))
    return experiment.predict(
        evaluate.evaluation_params(state), state.model_state, images, data.train_rows
    )


def _find(read: TrainRows, probs: np.ndarray) -> LabelIssues:
    return label_issues.find(read.given, read.tracker["margin"][:, 0], probs, read.noise)


def write_results(
    workdir: pathlib.Path,
    experiment: Experiment,
    outcome: Outcome,
    test_probs: np.ndarray,
    truth: np.ndarray | None,
    wall_seconds: float,
) -> dict:
    """Writes label_issues.csv, predictions.npz, gallery.npz and, last, summary.json, which marks
    the run finished.

    Every process calls this, since they gather the rows together; the first writes.

    Returns:
      What summary.json holds (in the other processes, nothing).
    """
    data, rows = experiment.dataset, experiment.dataset.train_rows
    read = read_rows(experiment, outcome.state)
    probs = train_probs(experiment, outcome.state, read)
    if jax.process_index() != 0:
        return {}
    issues, margin = _find(read, probs), read.tracker["margin"][:, 0]
    given, ids = read.given, data.train.ids[rows]
    known = None if truth is None else truth[rows]
    label_issues.write_csv(
        workdir / "label_issues.csv", ids, given, issues, data.class_names, known
    )

    worst = label_issues.worst_first(issues)[:GALLERY_SIZE]
    write_arrays(workdir / "gallery.npz", id=ids[worst], image=data.train.images[rows[worst]])
    diagnostics = {
        "train_given_label": given,
        "train_margin": margin,
        "noise_score": 1 - issues.quality,
    }
    if "u" in read.table:
        diagnostics["u_squared"] = read.table["u"][:, 0] ** 2
    write_arrays(
        workdir / "predictions.npz",
        test_id=data.test.ids,
        test_pred_probs=test_probs,
        train_id=ids,
        train_pred_probs=probs,
        **diagnostics,
    )
    summary = _summary(experiment, outcome, test_probs, wall_seconds)
    summary |= label_issues.summarise(given, issues, margin, known)
    summary["rows_at_bound"] = _share_at_bound(read.table)
    write_json(workdir / "summary.json", summary)
    return summary


def write_group_summary(workdir: pathlib.Path, runs: list[dict]) -> None:
    """summary.json of a run of several seeds: the summary of each, and the mean and std (ddof = 1)
    of every number.

    A number that some seed does not know is null.
    """
    shared = ("method", "dataset", "epochs", "class_names", "noise_kind")
    names = [
        name
        for name in runs[0]
        if name not in (*shared, "seed")
        and all(run[name] is None or isinstance(run[name], int | float) for run in runs)
    ]

    def over_seeds(statistic: Callable) -> dict:
        columns = {name: [run[name] for run in runs] for name in names}
        return {
            name: None if None in column else float(statistic(column))
            for name, column in columns.items()
        }

    write_json(
        workdir / "summary.json",
        {
            **{name: runs[0][name] for name in shared},
            "num_seeds": len(runs),
            "seeds": [run["seed"] for run in runs],
            "images_per_second": sum(
                run["images_per_second"] for run in runs
            ),  # of all seeds together
            "mean": over_seeds(np.mean),
            "std": over_seeds(functools.partial(np.std, ddof=1)),
            "runs": runs,
        },
    )


def _summary(
    experiment: Experiment, outcome: Outcome, test_probs: np.ndarray, wall_seconds: float
) -> dict:
    config, data, history = experiment.config, experiment.dataset, outcome.history
    tested = [row for row in history if row["test_accuracy"] is not None]
    best = max(tested, key=lambda row: row["test_accuracy"])
    validated = [row for row in tested if row["validation_accuracy"] is not None]
    chosen = max(validated, key=lambda row: row["validation_accuracy"]) if validated else None
    labels, speeds = data.test.labels, [row["images_per_second"] for row in history]
    return {
        "method": config.method.name,
        "dataset": data.name,
        "seed": config.seed,
        "epochs": config.epochs,
        "class_names": list(data.class_names),
        "noise_kind": data.noise.kind,
        "parameters": num_parameters(outcome.state.params),
        "test_accuracy_last": history[-1]["test_accuracy"],
        "test_accuracy_best": best["test_accuracy"],
        "best_epoch": best["epoch"],
        "validation_accuracy": chosen and chosen["validation_accuracy"],
        "test_accuracy_at_best_validation": chosen and chosen["test_accuracy"],
        "test_top5_last": evaluate.accuracy(test_probs, labels, top=5)
        if experiment.num_classes > 5
        else None,
        "test_accuracy_per_class": evaluate.accuracy_per_class(test_probs, labels),
        "images_per_second": float(np.median(speeds)),
        "step_seconds_median": float(np.median(outcome.step_seconds))
        if outcome.step_seconds
        else None,
        "compile_seconds": outcome.compile_seconds,
        "wall_seconds": wall_seconds,
    }


def _share_at_bound(table: dict) -> float | None:
    """Share of rows with an |u| or |v| at or beyond 1; None for a method without u and v."""
    if "u" not in table:
        return None
    return float(
        np.mean(np.any(np.abs(np.concatenate([table["u"], table["v"]], axis=1)) >= 1, axis=1))
    )
