"""Panels of curves and histograms, each drawn on one pair of axes."""

import itertools

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from sop_jax.palette import Theme
from sop_jax.run_folder import Run

NUM_BINS = 50
RELIABILITY_BINS = 10
MAX_MARKED = 15  # epochs of a curve whose points still stand apart
SPREAD = 1e3  # largest over median value, from which on a histogram's axis is logarithmic
FLOOR = 1e-8  # of the largest value: what lies below shares the first bin of a logarithmic axis


def draw_epochs(axes: Axes, run: Run, labels: dict[str, str]) -> None:
    """Series of metrics.jsonl over the epochs, {key: label}; epochs without a value are skipped."""
    for key, label in labels.items():
        points = [
            (record.get("epoch", i), record[key])
            for i, record in enumerate(run.epochs)
            if record.get(key) is not None
        ]
        if points:
            marker = "o" if len(points) < MAX_MARKED else None
            axes.plot(*zip(*points, strict=True), label=label, marker=marker, markersize=3)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(labels) == 1:
        axes.set_ylabel(*labels.values())


def draw_accuracy(axes: Axes, theme: Theme, run: Run) -> None:
    """Every accuracy over the epochs, beside the share of labels that are right."""
    doubtful = run.summary.get("test_labels_doubtful")
    labels = {
        "test_accuracy": "test, given labels" if doubtful else "test",
        "train_accuracy": "training, given labels",
        "train_accuracy_true": "training, true labels",
        "validation_accuracy": "validation, given labels",
    }
    draw_epochs(axes, run, labels)
    rate, kind = run.value("noise_rate_actual"), "noise rate"
    if rate is None:
        rate, kind = run.value("noise_rate_estimated"), "estimated noise rate"
    if rate is not None:
        guide = {"color": theme.muted, "linestyle": ":", "linewidth": 1.3}
        axes.axhline(1 - rate, label=f"1 − {kind}", **guide)
    axes.set_ylabel("accuracy")
    axes.legend(fontsize=8)


def draw_roc(axes: Axes, theme: Theme, run: Run) -> None:
    """The ROC curve of every ranking."""
    from sklearn.metrics import roc_auc_score, roc_curve

    for (name, values), style in _styled_rankings(run):
        false_positive, true_positive, _ = roc_curve(run.wrong, values)
        area = roc_auc_score(run.wrong, values)
        axes.plot(false_positive, true_positive, style, label=f"{name}, area {area:.3f}")
    axes.plot([0, 1], [0, 1], color=theme.muted, linewidth=0.8)
    axes.set(xlabel="right labels flagged", ylabel="wrong labels found")
    axes.set(xlim=(-0.01, 1), ylim=(0, 1.02))
    axes.legend(loc="lower right")


def draw_precision_recall(axes: Axes, theme: Theme, run: Run) -> None:
    """Precision over recall of every ranking, and the point of the flagged labels."""
    from sklearn.metrics import average_precision_score, precision_recall_curve

    for (name, values), style in _styled_rankings(run):
        precision, recall, _ = precision_recall_curve(run.wrong, values)
        area = average_precision_score(run.wrong, values)
        axes.plot(recall, precision, style, label=f"{name}, area {area:.3f}")
    caught = (run.flagged & run.wrong).sum()
    if caught:
        point = caught / run.wrong.sum(), caught / run.flagged.sum()
        axes.plot(*point, "o", color=theme.ink, markersize=6, label="flagged labels")
    axes.set(xlabel="recall: wrong labels found", ylabel="precision of what is flagged")
    axes.set(xlim=(0, 1.01), ylim=(0, 1.02))
    axes.legend(loc="lower left")


def draw_reliability(axes: Axes, theme: Theme, run: Run) -> None:
    """Share of labels that are right against their mean quality, in bins with their counts."""
    quality, right, count = reliability(run.quality, ~run.wrong)
    error = np.sum(count * np.abs(quality - right)) / np.sum(count)
    axes.plot([0, 1], [0, 1], color=theme.muted, linewidth=0.8)
    axes.plot(quality, right, "o-", markersize=5, label=f"calibration error (ECE) {error:.3f}")
    for x, y, rows in zip(quality, right, count, strict=True):
        above = y < 0.9  # else the number would leave the axes
        axes.annotate(
            f"{rows:,}",
            (x, y),
            xytext=(0, 6 if above else -6),
            textcoords="offset points",
            ha="center",
            va="bottom" if above else "top",
            fontsize=7,
            color=theme.muted,
        )
    axes.set(xlabel="label quality, mean of a bin (numbers: rows)", ylabel="labels that are right")
    axes.set(xlim=(-0.05, 1.05), ylim=(-0.03, 1.05))
    axes.legend(loc="lower right")


def reliability(
    quality: np.ndarray, right: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean quality, share right and number of rows of RELIABILITY_BINS bins of equal width.

    Args:
      quality: float64 [n] in [0, 1].
      right: bool [n], whether the label is right.

    Returns:
      Three arrays over the bins that hold a row, by rising quality.
    """
    place = np.minimum((quality * RELIABILITY_BINS).astype(int), RELIABILITY_BINS - 1)
    count = np.bincount(place, minlength=RELIABILITY_BINS)
    held = count > 0
    means = [
        np.bincount(place, values, RELIABILITY_BINS)[held] / count[held]
        for values in (quality, right)
    ]
    return means[0], means[1], count[held]


def draw_quality(axes: Axes, theme: Theme, run: Run) -> None:
    """Histogram of the label quality, with the threshold below which labels are flagged."""
    low, high = min(0.0, run.quality.min()), max(1.0, run.quality.max())
    _draw_histogram(axes, run, run.quality, np.linspace(low, high, NUM_BINS + 1))
    guide = {"color": theme.ink, "linestyle": "--", "linewidth": 1.2}
    if run.calibrated:
        axes.axvline(0.5, label="flagged below 1/2", **guide)
    elif run.flagged.any():
        threshold = run.quality[run.flagged].max()
        axes.axvline(threshold, label=f"flagged up to {threshold:.3f}", **guide)
    axes.set_xlabel("label quality")
    axes.legend()


def draw_diagnostic(axes: Axes, run: Run, name: str) -> None:
    """Histogram of one of the method's own arrays: of its finite values, of which it has some."""
    values, label = run.diagnostics[name], name
    finite = values[np.isfinite(values)]
    largest = finite.max()
    if finite.min() >= 0 and largest > SPREAD * np.median(finite):
        lowest = FLOOR * largest
        values = np.maximum(values, lowest)
        bins = np.geomspace(lowest, 1.1 * largest, NUM_BINS + 1)
        axes.set_xscale("log")
        label = f"{name} (left bin: {lowest:.0e} and below)"
    else:
        bins = np.histogram_bin_edges(finite, NUM_BINS)
    _draw_histogram(axes, run, values, bins)
    axes.set_xlabel(label.replace("$", r"\$"))
    axes.legend()


def _styled_rankings(run: Run) -> zip:
    """((name, values), line style) of every ranking."""
    return zip(run.rankings.items(), itertools.cycle(("-", "--", ":")), strict=False)


def _draw_histogram(axes: Axes, run: Run, values: np.ndarray, bins: np.ndarray) -> None:
    """Counts of `values` [n] in bins, right and wrong labels apart where the truth is known."""
    if run.wrong is None:
        parts = {"all labels": np.full(len(values), True)}
    else:
        parts = {"label is right": ~run.wrong, "label is wrong": run.wrong}
    for name, part in parts.items():
        shown = values[part & np.isfinite(values)]
        axes.hist(shown, bins, alpha=0.5, histtype="stepfilled", label=f"{name} ({len(shown):,})")
    axes.set_yscale("log")
    axes.set_ylabel("training rows")
