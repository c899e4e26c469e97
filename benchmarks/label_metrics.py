"""What is measured of a list of wrong labels, the bounds that ours is held to, and the table."""

from typing import NamedTuple

import numpy as np
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

BINS = 10


class Claim(NamedTuple):
    """What one side says of n labels."""

    quality: np.ndarray  # float [n], the ranking, worst lowest
    confidence: np.ndarray  # float [n], probability that the label is right
    flagged: np.ndarray  # bool [n]
    suggested: np.ndarray  # int [n]
    applied: np.ndarray  # bool [n], suggestions to be taken unseen
    rate: float  # estimated share that is wrong


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Mean over rows of |mean confidence - share right| in bins of equal width."""
    places = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(places, confidence - right, minlength=BINS)
    return float(np.abs(gaps).sum() / len(right))


def measure(claim: Claim, label: np.ndarray, true_label: np.ndarray) -> dict[str, float | None]:
    """The claim against the truth; what needs wrong labels is None where there are none."""
    wrong, flagged = label != true_label, claim.flagged

    def accuracy_after(taken):
        return float(np.mean(np.where(taken, claim.suggested, label) == true_label))

    names = ("auroc", "auprc", "precision", "recall", "f1", "best_f1")
    found = {
        **dict.fromkeys(names),
        "flagged_share": float(flagged.mean()),
        "rate": float(claim.rate),
        "applied": int(claim.applied.sum()),
        "accuracy_after": accuracy_after(claim.applied),
        "accuracy_after_all": accuracy_after(flagged),
        "calibration_error": calibration_error(claim.confidence, ~wrong),
    }
    if not wrong.any():
        return found
    both = np.sum(wrong & flagged)
    precision, recall, _ = precision_recall_curve(wrong, -claim.quality)
    return found | {
        "auroc": float(roc_auc_score(wrong, -claim.quality)) if not wrong.all() else None,
        "auprc": float(average_precision_score(wrong, -claim.quality)),
        "precision": float(both / flagged.sum()) if flagged.any() else None,
        "recall": float(both / wrong.sum()),
        "f1": float(2 * both / (flagged.sum() + wrong.sum())),
        "best_f1": float(np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12))),
    }


class Entry(NamedTuple):
    """One run against one bound."""

    text: str  # with both numbers
    slack: float  # how far within the bound; negative: missed


def at_least(run: dict, value: float, bound: float) -> Entry:
    return Entry(f"{run['run']} {value:.4f} (>= {bound:.4f})", value - bound)


def at_most(run: dict, value: float, bound: float) -> Entry:
    return Entry(f"{run['run']} {value:.4f} (<= {bound:.4f})", bound - value)


def allowed_gap(run: dict) -> float:
    """Between the estimated and the true rate."""
    return 0.06 if run["cell"].startswith("cifar10n") else max(0.03, run["rate"] / 4)


def check_runs(runs: list[dict]) -> list[dict]:
    """The bounds, each with `met` (None where no run is judged by it), numbers and a line to print.

    Args:
      runs: `run`, `cell`, `rate`, `accuracy_before`, `cpu_ratio` and the sides `ours` and
        `cleanlab`, each with what `measure` returns.
    """
    clean, noisy = ([run for run in runs if (run["rate"] > 0) == some] for some in (False, True))

    def of_ours(name, bound, cells):
        return [at_least(run, run["ours"][name], bound) for run in runs if run["cell"] in cells]

    def against_cleanlab(name):
        return [at_least(run, run["ours"][name], run["cleanlab"][name]) for run in noisy]

    def gap(run):
        return at_most(run, abs(run["ours"]["rate"] - run["rate"]), allowed_gap(run))

    found = {
        "labels no worse after than before": [
            at_least(run, run["ours"]["accuracy_after"], run["accuracy_before"]) for run in runs
        ],
        "clean: at most 1 % flagged": [
            at_most(run, run["ours"]["flagged_share"], 0.01) for run in clean
        ],
        "clean: accuracy after": [
            at_least(run, run["ours"]["accuracy_after"], 0.995) for run in clean
        ],
        "AUPRC at least cleanlab's": against_cleanlab("auprc"),
        "F1 at least cleanlab's": against_cleanlab("f1"),
        "a third of cleanlab's CPU time": [at_least(run, run["cpu_ratio"], 3.0) for run in runs],
        "estimated rate off by": [gap(run) for run in runs],
        "F1, 40 % symmetric": of_ours("f1", 0.98, ("digits_symmetric_exclusive_0.4",)),
        "F1, instance": of_ours("f1", 0.85, ("digits_instance_0.2",)),
        "F1, 40 % pairflip, or within .02 of the best": [
            at_least(run, run["ours"]["f1"], min(0.93, run["ours"]["best_f1"] - 0.02))
            for run in runs
            if run["cell"] == "digits_pairflip_0.4"
        ],
    }
    return [verdict(name, entries) for name, entries in found.items()]


def verdict(name: str, entries: list[Entry]) -> dict:
    """A check from its entries: the line names every run that missed, else the closest one."""
    if not entries:
        return {"check": name, "met": None, "runs": [], "line": f"-      {name}: no such run"}
    missed = [entry.text for entry in entries if entry.slack < 0]
    met = not missed
    closest = min(entries, key=lambda entry: entry.slack).text
    count = f"{len(entries) - len(missed)} of {len(entries)}"
    numbers = f"closest {closest}" if met else "; ".join(missed)
    return {
        "check": name,
        "met": met,
        "runs": [entry.text for entry in entries],
        "line": f"{'met' if met else 'MISSED':6} {name}: {count}; {numbers}",
    }


def rounded(value: object) -> object:
    """The same with every float, also those of NumPy, of 6 digits."""
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(part) for part in value]
    return round(float(value), 6) if isinstance(value, float | np.floating) else value


def number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def pair(result: dict, name: str) -> str:
    return f"{number(result['ours'][name])}/{number(result['cleanlab'][name])}"


HEADINGS = ("wrong", "rate", "AUROC", "AUPRC", "F1", "best F1", "flagged", "before", "after")
HEADINGS += ("after all", "ECE", "CPU s", "ratio")


def line(result: dict | None) -> str:
    """One cell of the table, `ours/cleanlab`; the heading for None."""
    if result is None:
        parts = HEADINGS
    else:
        names = ("rate", "auroc", "auprc", "f1", "best_f1", "flagged_share")
        after = ("accuracy_after", "accuracy_after_all", "calibration_error")
        seconds = [f"{result[side]['cpu_seconds']:.0f}" for side in ("ours", "cleanlab")]
        parts = [
            number(result["rate"]),
            *(pair(result, name) for name in names),
            number(result["accuracy_before"]),
            *(pair(result, name) for name in after),
            "/".join(seconds),
            number(result["cpu_ratio"], 2),
        ]
    widths = (6, 12, 12, 12, 12, 12, 12, 7, 12, 12, 12, 10, 6)
    row = " ".join(f"{part:>{width}}" for part, width in zip(parts, widths, strict=True))
    return f"{result['run'] if result else 'ours/cleanlab':38}{row}"
