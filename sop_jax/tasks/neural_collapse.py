"""Neural collapse: the metrics over training for four losses, a fixed classifier, and wrong labels
(methods.md, 7).

Every case is an ordinary run of the main task in runs/<case>, with its own checkpoints and report;
what this task adds is the comparison. `default()` has the main task's fields and `config.collapse`.
"""

import copy
import json
import math
import pathlib

import numpy as np
from ml_collections import ConfigDict

from sop_jax import collapse, settings, study
from sop_jax import config as configs
from sop_jax.data import dataset as datasets
from sop_jax.evaluate import COLLAPSE_KEYS, COLLAPSE_TRUE_KEYS
from sop_jax.files import read_json
from sop_jax.methods import focal, label_smoothing, mse
from sop_jax.run_folder import seed_folders
from sop_jax.tasks import classify
from sop_jax.theory import collapse_figures, unconstrained_features

# Cases: cross-entropy on clean labels, with a learnt classifier, belongs to each of the three
# groups.
LOSSES = ("ce", "focal", "label_smoothing", "mse")
# learnt or fixed; narrow: as many features as classes, d = K
CLASSIFIERS = ("ce", "etf", "narrow", "narrow_etf")
WRONG_LABELS = ("ce", "ce_noisy", "sop_noisy", "ce_random")
CASES = tuple(dict.fromkeys(LOSSES + CLASSIFIERS + WRONG_LABELS))
CURVES = ("train_accuracy", "test_accuracy", *COLLAPSE_KEYS, *COLLAPSE_TRUE_KEYS)
TERMINAL = 0.999  # training accuracy from which on the phase is terminal: "approximately zero error" (Papyan et al.)


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
    noisy = {"noise.kind": "symmetric_exclusive", "noise.rate": config.collapse.noise_rate}
    rates = {
        "method.learning_rate_u": config.collapse.learning_rate_u,
        "method.learning_rate_v": config.collapse.learning_rate_v,
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
        "sop_noisy": noisy | {"method.name": "sop"} | rates,
        "ce_random": {"noise.kind": "symmetric", "noise.rate": 1.0},
    }
    own = copy.deepcopy(config).unlock()
    del own.collapse
    for field, value in {"task": "classify", **fields[case]}.items():
        group, name = configs.group_of(own, field)
        group[name] = value
    return settings.complete(own)


def check(config: ConfigDict) -> None:
    """Raises UserError naming the first field that cannot be right."""
    cases, fixed = config.collapse.cases, settings.complete(default())
    configs.require(
        len(cases) > 0 and set(cases) <= set(CASES),
        "collapse.cases",
        cases,
        f"it must be a list of {', '.join(CASES)}",
    )
    configs.require(
        0 < config.collapse.noise_rate <= 1,
        "collapse.noise_rate",
        config.collapse.noise_rate,
        "it must lie in (0, 1]",
    )
    for field in (
        "method.name",
        "noise.kind",
        "noise.rate",
        "model.classifier",
        "model.feature_dim",
        "track_collapse",
    ):
        (group, name), (usual, _) = configs.group_of(config, field), configs.group_of(fixed, field)
        configs.require(
            group[name] == usual[name],
            field,
            group[name],
            "the cases of this study set it (config.collapse.cases); leave it",
        )
    for case in cases:
        configs.check(case_config(config, case, 2))


def run(config: ConfigDict, workdir: pathlib.Path | None, dry_run: bool = False) -> None:
    """Runs, or goes on with, every case; then writes curves, figures and summary."""
    if dry_run:
        study.describe(
            config, [f"a run of the main task: runs/{case}" for case in config.collapse.cases]
        )
        return
    with study.opened(config, workdir) as folder:
        if folder is None:
            return
        num_classes = len(
            datasets.load(case_config(config, config.collapse.cases[0], 2))[0].class_names
        )
        for case in config.collapse.cases:
            study.say(f"case {case}")
            classify.run(case_config(config, case, num_classes), workdir / "runs" / case)
            if not (workdir / "runs" / case / "summary.json").exists():
                return  # stopped by SIGTERM, which the run has said
        _compare(config, folder)


def _compare(config: ConfigDict, folder: study.Study) -> None:
    """Figures and summary from the files of the runs."""
    runs = {case: folder.workdir / "runs" / case for case in config.collapse.cases}
    curves = {
        case: folder.part(case, lambda own=own: read_curves(own, config))
        for case, own in runs.items()
    }
    optimum = folder.part("unconstrained", _unconstrained)
    for name, cases, draw in (
        ("losses", LOSSES, collapse_figures.losses),
        ("wrong_labels", WRONG_LABELS, collapse_figures.wrong_labels),
    ):
        shown = {case: curves[case] for case in cases if case in curves}
        if shown:
            folder.figure(name, draw(shown, TERMINAL))
    cases = {case: summarise(own, _mean_of_summary(runs[case])) for case, own in curves.items()}
    folder.finish(
        {
            "dataset": config.data.name,
            "epochs": config.epochs,
            **cases,
            "classifiers": compare_classifiers(cases),
            "unconstrained": {
                loss: {
                    name.removeprefix(f"{loss}."): float(value)
                    for name, value in optimum.items()
                    if name.startswith(f"{loss}.")
                }
                for loss in LOSSES
            },
        }
    )


def read_curves(own: pathlib.Path, config: ConfigDict) -> dict[str, np.ndarray]:
    """epoch int [E] and each of CURVES float [E] over a run's evaluated epochs, means over seeds;
    unknown: NaN.
    """
    seeds = range(config.seed, config.seed + config.num_seeds)
    histories = [
        [
            row
            for row in map(json.loads, (seed / "metrics.jsonl").read_text().splitlines())
            if row["test_accuracy"] is not None
        ]
        for seed in seed_folders(own, tuple(seeds))
    ]
    values = {key: [[row.get(key) for row in history] for history in histories] for key in CURVES}
    return {
        "epoch": np.array([row["epoch"] for row in histories[0]]),
        **{key: np.array(value, dtype=float).mean(axis=0) for key, value in values.items()},
    }


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
    """The table of fixed classifiers: parameters, the share of them saved, accuracy and the points
    lost.
    """
    if "ce" not in cases:
        return {}
    learnt = cases["ce"]
    return {
        case: {
            "parameters": cases[case]["parameters"],
            "saved_percent": 100 * (1 - cases[case]["parameters"] / learnt["parameters"]),
            "accuracy": cases[case]["accuracy"],
            "points_below_learnt": 100 * (learnt["accuracy"] - cases[case]["accuracy"]),
        }
        for case in CLASSIFIERS
        if case in cases
    }


def _unconstrained() -> dict[str, np.ndarray]:
    """Where the losses end with free features: objective, metrics and |W|^2 of each, at the setting
    of methods.md, 7.2.

    The squared error is scaled to M = 1 there. Keys are <loss>.<figure>.
    """
    losses = {
        "ce": lambda z, y: label_smoothing.smoothed_cross_entropy(z, y, 0.0),
        "focal": lambda z, y: focal.focal_loss(z, y, 3.0),
        "label_smoothing": lambda z, y: label_smoothing.smoothed_cross_entropy(z, y, 0.05),
        "mse": lambda z, y: mse.rescaled_mse(z, y, 1.0, 1.0),
    }
    found = {}
    for name, loss in losses.items():
        end = unconstrained_features.minimise(
            loss, num_classes=4, per_class=10, dim=8, weight_decay=5e-3
        )
        figures = {"objective": end.objective, "weight_squared": np.sum(end.weight**2)}
        figures |= collapse.metrics(end.features, end.labels, end.weight, end.bias)
        found |= {f"{name}.{key}": np.float64(value) for key, value in figures.items()}
    return found
