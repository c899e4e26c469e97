"""The files a finished run leaves beside its metrics: labels, issues, predictions, gallery,
summary."""

import functools
import pathlib
from collections.abc import Callable

import jax
import numpy as np
import optax

from sop_jax import evaluate, label_issues
from sop_jax.data.dataset import Dataset
from sop_jax.evidence import judge, read_evidence
from sop_jax.experiment import Experiment
from sop_jax.files import write_arrays, write_json
from sop_jax.loop import Outcome

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
    evidence = read_evidence(experiment, outcome.state)
    issues, probs = judge(experiment, outcome.state, evidence)
    if jax.process_index() != 0:
        return {}
    ids = data.train.ids[rows]
    known = None if truth is None else truth[rows]
    label_issues.write_csv(
        workdir / "label_issues.csv", ids, evidence.label, issues, data.class_names, known
    )
    worst = label_issues.worst_first(issues)[:GALLERY_SIZE]
    write_arrays(workdir / "gallery.npz", id=ids[worst], image=data.train.images[rows[worst]])
    write_arrays(
        workdir / "predictions.npz",
        test_id=data.test.ids,
        test_pred_probs=test_probs,
        train_id=ids,
        train_pred_probs=probs,
        train_given_label=evidence.label,
        train_margin=evidence.margin,
        noise_score=1 - issues.quality,
        **{f"diagnostic_{name}": value for name, value in evidence.diagnostics.items()},
    )
    summary = _summary(experiment, outcome, test_probs, wall_seconds)
    summary |= label_issues.summarise(evidence.label, issues, evidence.margin, known)
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
        "parameters": optax.tree.size(outcome.state.params),
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
