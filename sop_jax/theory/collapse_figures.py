"""Figures of neural collapse over training, from the curves of finished runs."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sop_jax.palette import SERIES

LOSSES = {
    "ce": "cross-entropy",
    "focal": "focal",
    "label_smoothing": "label smoothing",
    "mse": "squared error",
}
WRONG_LABELS = {
    "ce": "CE, clean labels",
    "ce_noisy": "CE, wrong labels",
    "sop_noisy": "SOP, wrong labels",
    "ce_random": "CE, random labels",
}
# case -> epoch int [E], and float [E] of each metric
Curves = Mapping[str, Mapping[str, np.ndarray]]


def losses(curves: Curves, terminal: float) -> Figure:
    """NC1, NC2, NC3 and self-duality over epochs; a dot where training accuracy gets `terminal`."""
    panels = {
        "nc1": "NC1: variability within classes",
        "nc2": "NC2: W W' against the simplex ETF",
        "nc3": "NC3: W times class means against the ETF",
        "self_duality": "Self-duality: W against class means",
    }
    return _draw(curves, LOSSES, panels, terminal)


def wrong_labels(curves: Curves, terminal: float) -> Figure:
    """Does a method collapse onto wrong labels?

    NC1 by the given and by the true labels, where wrong examples lie, and test accuracy.
    """
    panels = {
        "nc1": "NC1 by the given labels",
        "nc1_true": "NC1 by the true labels",
        "wrong_at_given": "Wrong labels: nearest to the given class",
        "test_accuracy": "Test accuracy",
    }
    return _draw(curves, WRONG_LABELS, panels, terminal)


def _draw(curves: Curves, cases: dict[str, str], panels: dict[str, str], terminal: float) -> Figure:
    """Four panels over epochs, metrics on a log scale; `cases` names all that have a colour."""
    colours = dict(zip(cases, SERIES, strict=False))
    figure = Figure(figsize=(9.6, 6.4), dpi=94, layout="constrained")
    for ax, (key, title) in zip(figure.subplots(2, 2).ravel(), panels.items(), strict=True):
        ax.set_title(title, loc="left", fontsize=11, fontweight="bold")
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(color="#e3e8ee")
        ax.spines[["top", "right"]].set_visible(False)
        if key in ("wrong_at_given", "test_accuracy"):
            ax.set(ylim=(-0.02, 1.02), ylabel="share of examples")
        else:
            ax.set_yscale("log")
        for case, values in curves.items():
            start = np.flatnonzero(values["train_accuracy"] >= terminal)[:1]
            ax.plot(
                values["epoch"], values[key], color=colours[case], linewidth=1.4, label=cases[case]
            )
            ax.plot(
                values["epoch"][start], values[key][start], "o", color=colours[case], markersize=6
            )
    figure.legend(
        *ax.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=4,
        frameon=False,
        title=f"dot: accuracy on the training labels reaches {terminal:.1%}",
        title_fontsize="small",
    )
    return figure
