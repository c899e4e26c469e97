"""Panels over pairs of classes: which labels were confused with which."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize

from sop_jax.run_folder import Run

MAX_NAMED = 30  # classes whose names fit on an axis
MAX_NUMBERED = 12  # classes whose numbers fit into the cells
MAX_NAME = 14  # characters of a name on an axis


def count_pairs(first: np.ndarray, second: np.ndarray, num_classes: int) -> np.ndarray:
    """How often class r of `first` int [n] meets class c of `second` int [n]: int64 [K, K]."""
    pairs = first.astype(np.int64) * num_classes + second
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def draw_confusion(axes: Axes, run: Run) -> None:
    """Counts of given labels against labels after the suggestions that are to be applied."""
    counts = count_pairs(run.label, run.label_after, len(run.class_names))
    norm = LogNorm(1, max(2, counts.max()))
    _draw_matrix(axes, run, np.where(counts > 0, counts, np.nan), norm, "{:.0f}")
    axes.set(xlabel="label after", ylabel="given label")


def given_shares(run: Run) -> np.ndarray:
    """Shares of given labels within each true label, which is known: float64 [K, K]."""
    counts = count_pairs(run.true_label, run.label, len(run.class_names))
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def draw_transition(axes: Axes, run: Run, shares: np.ndarray) -> None:
    """P(given | true) float64 [K, K], row by row of true labels; cells below 0.005 are blank."""
    _draw_matrix(axes, run, np.where(shares >= 0.005, shares, np.nan), Normalize(0, 1), "{:.2f}")
    axes.set(xlabel="given label", ylabel="true label")


def short_name(run: Run, k: int) -> str:
    """The name of class k as it fits on an axis."""
    name = run.class_names[k]
    return plain(name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…")


def plain(text: str) -> str:
    """The text as matplotlib should print it: no formulas between dollar signs, no line breaks."""
    return " ".join(text.replace("$", r"\$").split())


def _draw_matrix(axes: Axes, run: Run, matrix: np.ndarray, norm: Normalize, form: str) -> None:
    """Draws a [K, K] matrix, NaN left blank; names and numbers only where they fit."""
    image = axes.imshow(matrix, cmap="viridis", norm=norm, aspect="auto", interpolation="nearest")
    axes.grid(False)
    axes.figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02).outline.set_visible(False)
    if len(matrix) > MAX_NAMED:
        axes.set(xticks=[], yticks=[])
        return
    ticks = range(len(matrix))
    names = [short_name(run, k) for k in ticks]
    upright = max(len(name) for name in names) > 2
    axes.set_xticks(ticks, names, rotation=90 if upright else 0, fontsize=7)
    axes.set_yticks(ticks, names, fontsize=7)
    if len(matrix) > MAX_NUMBERED:
        return
    for (r, c), value in np.ndenumerate(matrix):
        if not np.isnan(value):
            ink = "white" if norm(value) < 0.6 else "black"
            axes.text(c, r, form.format(value), ha="center", va="center", fontsize=7, color=ink)
