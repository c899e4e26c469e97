"""Neural collapse over training: four losses, a fixed classifier, and wrong labels.

Sources: Zhu et al., NeurIPS 2021 (arXiv 2105.02375), and for the losses Zhou et al., NeurIPS 2022
(arXiv 2210.02192); the wrong labels are ours.

Every case is an ordinary run of the main task in runs/<case>, with its own checkpoints and report;
what this task adds is the comparison. `default()` has the main task's fields and `config.collapse`.
"""

import copy
import functools
import json
import math
import pathlib

import numpy as np
from ml_collections import ConfigDict

from sop_jax import config as configs
from sop_jax.collapse import metrics
from sop_jax.config import group_of, require
from sop_jax.data.dataset import load
from sop_jax.evaluate import COLLAPSE_KEYS, COLLAPSE_TRUE_KEYS
from sop_jax.files import read_json
from sop_jax.finished import damaged
from sop_jax.methods.focal import focal_loss
from sop_jax.methods.label_smoothing import smoothed_cross_entropy
from sop_jax.methods.mse import rescaled_mse
from sop_jax.run_folder import seed_folders
from sop_jax.settings import complete
from sop_jax.study import Study, describe, opened, say
from sop_jax.tasks import classify
from sop_jax.theory import collapse_figures
from sop_jax.theory.unconstrained_features import minimise

# Cases: cross-entropy on clean labels, with a learnt classifier, belongs to each of the groups.
LOSSES = ("ce", "focal", "label_smoothing", "mse")
# learnt or fixed; narrow: as many features as classes, d = K
CLASSIFIERS = ("ce", "etf", "narrow", "narrow_etf")
WRONG_LABELS = ("ce", "ce_noisy", "sop_noisy", "ce_random")
CASES = tuple(dict.fromkeys(LOSSES + CLASSIFIERS + WRONG_LABELS))
CURVES = ("train_accuracy", "test_accuracy", *COLLAPSE_KEYS, *COLLAPSE_TRUE_KEYS)
TERMINAL = 0.999  # training accuracy from which on the phase is terminal (Papyan et al. 2020)
SET_BY_THE_CASES = (
    "method.name",
    "noise.kind",
    "noise.rate",
    "model.classifier",
    "model.feature_dim",
    "track_collapse",
)


def default() -> ConfigDict:
    """Returns the main task's fields, of every case, and the cases."""
    config = configs.default()
    config.task = "neural_collapse"
    config.method.name = "ce"
    config.track_collapse = True
    config.collapse = ConfigDict()
    # which of CASES to run: four losses, fixed classifier, wrong labels
    config.collapse.cases = CASES
    config.collapse.noise_rate = 0.4  # share of wrong labels of ce_noisy and sop_noisy
    config.collapse.learning_rate_u = 20.0  # of SOP's u in sop_noisy, as in digits_sop.py
    config.collapse.learning_rate_v = 20.0  # of its v
    return config


def case_config(config: ConfigDict, case: str, num_classes: int) -> ConfigDict:
    """The main task's config of one case: the study's own fields, and what the case sets."""
    study = config.collapse
    noisy = {"noise.kind": "symmetric_exclusive", "noise.rate": study.noise_rate}
    sop = {
        "method.name": "sop",
        "method.learning_rate_u": study.learning_rate_u,
        "method.learning_rate_v": study.learning_rate_v,
    }
    fields = {
        "ce": {},
        "focal": {"method.name": "focal"},
        "label_smoothing": {"method.name": "label_smoothing"},
        "mse": {"method.name": "mse"},
        "etf": {"model.classifier": "etf"},
        "narrow": {"model.feature_dim": num_classes},
        "narrow_etf": {"model.feature_dim": num_classes, "model.classifier": "etf"},
        "ce_noisy": noisy,
        "sop_noisy": noisy | sop,
        "ce_random": {"noise.kind": "symmetric", "noise.rate": 1.0},
    }
    own = copy.deepcopy(config).unlock()
    del own.collapse
    for field, value in {"task": "classify", **fields[case]}.items():
        group, name = group_of(own, field)
        group[name] = value
    return complete(own)


def check(config: ConfigDict) -> None:
    """Raises UserError naming the first field that cannot be right."""
    cases, usual = config.collapse.cases, complete(default())
    known = len(cases) > 0 and set(cases) <= set(CASES)
    require(known, "collapse.cases", cases, f"it must be a list of {', '.join(CASES)}")
    rate = config.collapse.noise_rate
    require(0 < rate <= 1, "collapse.noise_rate", rate, "it must lie in (0, 1]")
    for field in SET_BY_THE_CASES:
        group, name = group_of(config, field)
        usual_group, _ = group_of(usual, field)
        if name in group:
            wanted = "the cases of this study set it (config.collapse.cases); leave it"
            require(group[name] == usual_group[name], field, group[name], wanted)
    for case in cases:
        configs.check(case_config(config, case, 2))


def run(config: ConfigDict, workdir: pathlib.Path | None, dry_run: bool = False) -> None:
    """Runs, or goes on with, every case; then writes curves, figures and summary."""
    if dry_run:
        lines = [f"a run of the main task: runs/{case}" for case in config.collapse.cases]
        describe(config, lines)
        return
    with opened(config, workdir) as folder:
        if folder is None:
            return
        dataset, _ = load(case_config(config, config.collapse.cases[0], 2))
        num_classes = len(dataset.class_names)
        for case in config.collapse.cases:
            say(f"case {case}")
            classify.run(case_config(config, case, num_classes), workdir / "runs" / case)
            if damaged(workdir / "runs" / case) is None:
                return  # not finished: stopped by SIGTERM, which the run has said
        _compare(config, folder)


def _compare(config: ConfigDict, folder: Study) -> None:
    """Figures and summary from the files of the runs."""
    curves, cases = {}, {}
    for case in config.collapse.cases:
        own = folder.workdir / "runs" / case
        curves[case] = folder.part(case, functools.partial(read_curves, own, config))
        cases[case] = summarise(curves[case], _mean_of_summary(own))
    optimum = folder.part("unconstrained", _unconstrained)
    for name, drawn, draw in (
        ("losses", LOSSES, collapse_figures.losses),
        ("wrong_labels", WRONG_LABELS, collapse_figures.wrong_labels),
    ):
        shown = {case: curves[case] for case in drawn if case in curves}
        if shown:
            folder.figure(name, draw(shown, TERMINAL))
    unconstrained = {loss: {} for loss in LOSSES}
    for key, value in optimum.items():
        loss, _, figure = key.partition(".")
        unconstrained[loss][figure] = float(value)
    folder.finish(
        {
            "dataset": config.data.name,
            "epochs": config.epochs,
            **cases,
            "classifiers": compare_classifiers(cases),
            "unconstrained": unconstrained,
        }
    )


def read_curves(own: pathlib.Path, config: ConfigDict) -> dict[str, np.ndarray]:
    """A run's curves, means over its seeds.

    Returns:
      epoch int [E], the evaluated ones, and each of CURVES float [E]; NaN where unknown.
    """
    seeds = range(config.seed, config.seed + config.num_seeds)
    histories = [_evaluated(folder) for folder in seed_folders(own, tuple(seeds))]
    found = {"epoch": np.array([record["epoch"] for record in histories[0]])}
    for key in CURVES:
        values = [[record.get(key) for record in history] for history in histories]
        found[key] = np.array(values, dtype=float).mean(axis=0)
    return found


def _evaluated(folder: pathlib.Path) -> list[dict]:
    """The records of the epochs that were evaluated."""
    records = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [record for record in records if record["test_accuracy"] is not None]


def _mean_of_summary(own: pathlib.Path) -> dict:
    """A run's summary; of several seeds their means."""
    summary = read_json(own / "summary.json", "delete it and the same command writes it anew")
    return summary.get("mean", summary)


def summarise(curves: dict[str, np.ndarray], run: dict) -> dict:
    """The figures of one case.

    Args:
      curves: of `read_curves`. run: summary.json of the run.

    Returns:
      accuracy on the test set and train_accuracy on the given labels, of the last epoch; parameters
      trained; terminal_epoch, the first evaluated one with train_accuracy >= TERMINAL (None:
      never); of each metric its `first`, `terminal` (at that epoch) and `last` value; nc1_fall,
      terminal over last. None where unknown.
    """
    reached = np.flatnonzero(curves["train_accuracy"] >= TERMINAL)
    start = reached[0] if len(reached) else None

    def number(value: float) -> float | None:
        return float(value) if math.isfinite(value) else None

    found = {
        "accuracy": run["test_accuracy_last"],
        "train_accuracy": number(curves["train_accuracy"][-1]),
        "parameters": int(run["parameters"]),
        "terminal_epoch": None if start is None else int(curves["epoch"][start]),
        "nc1_fall": None if start is None else number(curves["nc1"][start] / curves["nc1"][-1]),
    }
    for key in (*COLLAPSE_KEYS, *COLLAPSE_TRUE_KEYS):
        values = curves[key]
        if np.isfinite(values).any():
            found[key] = {
                "first": number(values[0]),
                "terminal": None if start is None else number(values[start]),
                "last": number(values[-1]),
            }
    return found


def compare_classifiers(cases: dict[str, dict]) -> dict[str, dict]:
    """The table of fixed classifiers: parameters and the share saved, accuracy and points lost."""
    if "ce" not in cases:
        return {}
    learnt, table = cases["ce"], {}
    for case in (case for case in CLASSIFIERS if case in cases):
        parameters, accuracy = cases[case]["parameters"], cases[case]["accuracy"]
        table[case] = {
            "parameters": parameters,
            "saved_percent": 100 * (1 - parameters / learnt["parameters"]),
            "accuracy": accuracy,
            "points_below_learnt": 100 * (learnt["accuracy"] - accuracy),
        }
    return table


def _unconstrained() -> dict[str, np.ndarray]:
    """Where the losses end with free features: objective, metrics and |W|^2 of each.

    K = 4, ten examples a class, d = 8, decay 5e-3; the squared error is scaled to M = 1. Keys are
    <loss>.<figure>.
    """
    losses = {
        "ce": lambda z, y: smoothed_cross_entropy(z, y, 0.0),
        "focal": lambda z, y: focal_loss(z, y, 3.0),
        "label_smoothing": lambda z, y: smoothed_cross_entropy(z, y, 0.05),
        "mse": lambda z, y: rescaled_mse(z, y, 1.0, 1.0),
    }
    found = {}
    for name, loss in losses.items():
        end = minimise(loss, num_classes=4, per_class=10, dim=8, weight_decay=5e-3)
        figures = {"objective": end.objective, "weight_squared": np.sum(end.weight**2)}
        figures |= metrics(end.features, end.labels, end.weight, end.bias)
        found |= {f"{name}.{key}": np.float64(value) for key, value in figures.items()}
    return found
