"""The files of a finished run: labels, issues, predictions, gallery, summary."""

import functools
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import optax

from sop_jax.data.dataset import Dataset
from sop_jax.evaluate import accuracy, accuracy_per_class
from sop_jax.evidence import Evidence, judge
from sop_jax.experiment import Experiment
from sop_jax.files import read_json, write_arrays, write_json
from sop_jax.grading import summarise
from sop_jax.label_issues import worst_first, write_csv
from sop_jax.loop import Outcome

GALLERY_SIZE = 100
# What the mark of a finished run describes, and that of a run of several seeds.
OUTPUTS = (
    "config.json",
    "run.json",
    "metrics.jsonl",
    "labels.npz",
    "label_issues.csv",
    "gallery.npz",
    "predictions.npz",
    "summary.json",
    "plots",
    "report.html",
)
GROUP_OUTPUTS = ("config.json", "run.json", "summary.json")


def write_labels(workdir: pathlib.Path, data: Dataset, true_label: np.ndarray | None) -> None:
    """labels.npz: the given labels of all N rows, in row order, with their hash."""
    arrays = {
        "id": data.train.ids,
        "given_label": data.train.labels.astype(np.int32),
        "sha256": np.array(data.noise.sha256),
        "train_rows": data.train_index,
        "validation_rows": data.validation_index,
    }
    if true_label is not None:
        arrays["true_label"] = true_label.astype(np.int32)
    write_arrays(workdir / "labels.npz", **arrays)


def write_results(
    workdir: pathlib.Path,
    experiment: Experiment,
    outcome: Outcome,
    evidence: Evidence,
    test_probs: np.ndarray,
    true_label: np.ndarray | None,
    wall_seconds: float,
) -> None:
    """Writes label_issues.csv, predictions.npz, gallery.npz and summary.json.

    Args:
      test_probs: float32 [M, K], predictions of the test set.
      true_label: int32 [N], the true labels, where they are known.
      wall_seconds: of all sessions of the run.
    """
    data, rows = experiment.dataset, experiment.dataset.train_index
    verdict = judge(experiment, evidence)
    issues, ids = verdict.issues, data.train.ids[rows]
    known = None if true_label is None else true_label[rows]
    write_csv(workdir / "label_issues.csv", ids, evidence.label, issues, data.class_names, known)
    worst = worst_first(issues)[:GALLERY_SIZE]
    write_arrays(workdir / "gallery.npz", id=ids[worst], image=data.train.images[rows[worst]])
    write_arrays(
        workdir / "predictions.npz",
        test_id=data.test.ids,
        test_pred_probs=test_probs,
        train_id=ids,
        train_pred_probs=evidence.probs,
        train_given_label=evidence.label,
        train_margin=evidence.margin,
        noise_score=1 - issues.quality,
        **({} if evidence.held_out is None else {"held_out_pred_probs": evidence.held_out}),
        **{f"diagnostic_{name}": value for name, value in evidence.diagnostics.items()},
    )
    summary = _summary(experiment, outcome, test_probs, wall_seconds)
    summary |= summarise(evidence.label, verdict, evidence.margin, known)
    write_json(workdir / "summary.json", summary)


def write_group_summary(workdir: pathlib.Path, folders: Sequence[pathlib.Path]) -> None:
    """summary.json of a run of several seeds, from those of the seeds in `folders`.

    It holds each of them, and the mean and std (ddof = 1) of every number; a number that some seed
    does not know is null.
    """
    runs = [read_json(folder / "summary.json", "delete it and start again") for folder in folders]
    shared = ("method", "dataset", "epochs", "class_names", "noise_kind", "test_labels_doubtful")
    # a seed that an older version finished lacks keys that later ones have
    known = dict.fromkeys(name for run in runs for name in run)
    names = [name for name in known if name not in (*shared, "seed") and _is_number(runs, name)]

    def over_seeds(statistic: Callable[[list[float]], float]) -> dict:
        columns = {name: [run.get(name) for run in runs] for name in names}
        return {
            name: None if None in column else float(statistic(column))
            for name, column in columns.items()
        }

    summary = {
        **{name: runs[-1][name] for name in shared if name in runs[-1]},
        "num_seeds": len(runs),
        "seeds": [run["seed"] for run in runs],
        "images_per_second": float(np.mean([run["images_per_second"] for run in runs])),
        "mean": over_seeds(np.mean),
        "std": over_seeds(functools.partial(np.std, ddof=1)),
        "runs": runs,
    }
    write_json(workdir / "summary.json", summary)


def _is_number(runs: Sequence[dict], name: str) -> bool:
    """Whether each run has a number, null or nothing under the name."""
    return all(isinstance(run.get(name), int | float | None) for run in runs)


def _summary(
    experiment: Experiment, outcome: Outcome, test_probs: np.ndarray, wall_seconds: float
) -> dict:
    config, data, history = experiment.config, experiment.dataset, outcome.history
    tested = [record for record in history if record["test_accuracy"] is not None]
    best = max(tested, key=lambda record: record["test_accuracy"])
    validated = [record for record in tested if record["validation_accuracy"] is not None]
    chosen = max(validated, key=lambda record: record["validation_accuracy"], default=None)
    labels, many = data.test.labels, experiment.num_classes > 5
    speed = float(np.median([record["images_per_second"] for record in history]))
    # A process that only made the outputs anew ran no step: then from the speed of the epochs.
    step_images = len(data.train_index) / experiment.steps_per_epoch
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
        "test_top5_last": accuracy(test_probs, labels, top=5) if many else None,
        "test_accuracy_per_class": accuracy_per_class(test_probs, labels),
        "images_per_second": speed,
        "step_seconds_median": float(np.median(outcome.step_seconds or [step_images / speed])),
        "compile_seconds": outcome.compile_seconds,
        "wall_seconds": wall_seconds,
    }
