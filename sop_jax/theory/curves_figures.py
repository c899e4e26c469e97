"""Figures of the two-manifold problem, from the arrays that the task `two_curves` has kept."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sop_jax.palette import MUTED, SERIES

COLORS = (*SERIES, MUTED)  # for unordered series; ordered ones, such as depths, take viridis
MARKERS = "osD^vPX*<>"
STYLE = {
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": "#e3e8ee",
    "legend.frameon": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "font.size": 10,
}


@matplotlib.rc_context(STYLE)
def kernel(angles: np.ndarray, ratios: np.ndarray, depths: Sequence[int]) -> Figure:
    """Theta/(nL/2) [depths, angles] against the angle: all of it, and the peak on a log axis."""
    figure, (whole, peak) = _panels(2)
    for ratio, depth, color in zip(ratios, depths, _shades(len(depths)), strict=True):
        whole.plot(angles, ratio, color=color, label=f"L = {depth}")
        peak.semilogx(angles[1:], ratio[1:], color=color)
    whole.axhline(0.25, color=MUTED, linestyle=":", linewidth=1)
    whole.annotate(
        "1/4", (np.pi, 0.25), (0, -3), textcoords="offset points", ha="right", va="top", fontsize=9
    )
    whole.set(
        title="Kernel against angle", xlabel="angle between the inputs (rad)", ylabel="Θ / (nL/2)"
    )
    peak.set(title="Deeper: a sharper peak", xlabel="angle between the inputs (rad), logarithmic")
    whole.legend()
    return figure


@matplotlib.rc_context(STYLE)
def certificates(eigenvalues: Mapping[str, np.ndarray], depths: Sequence[int]) -> Figure:
    """Certificate norm 1/lam_y against depth, a line a pair of curves; the coils on the right."""
    figure, axes = _panels(2, sharey=True)
    titles = ("Certificate norm against depth", "Coils: separation – curvature – near-returns")
    for ax, title, coils in zip(axes, titles, (False, True), strict=True):
        chosen = [name for name in eigenvalues if name.startswith("coils") == coils]
        for i, name in enumerate(chosen):
            values = eigenvalues[name]
            seen = values > 1e-9  # 0 where a shallow kernel does not see the label: no certificate
            color, marker = COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)]
            ax.loglog(
                np.array(depths)[seen], 1 / values[seen], marker=marker, color=color, label=name
            )
        ax.set(title=title, xlabel="depth L (hidden layers)")
        if chosen:
            ax.legend(fontsize=8)
    axes[0].set_ylabel("1/λ$_y$ (units of 2/n)")
    return figure


@matplotlib.rc_context(STYLE)
def concentration(
    widths: Sequence[int],
    spread: Mapping[int, np.ndarray],
    bias: Mapping[int, np.ndarray],
    bias_error: Mapping[int, np.ndarray],
) -> Figure:
    """Relative s.d. and bias of the empirical kernel's diagonal, {depth: [widths]}, over width."""
    figure, (left, right) = _panels(2)
    shades = _shades(len(spread))
    for i, (depth, values) in enumerate(spread.items()):
        color = shades[i]
        left.loglog(widths, values, color=color, marker=MARKERS[i], label=f"L = {depth}")
        # beside one another, or the bars would hide each other
        shifted = np.array(widths) * 1.06**i
        right.errorbar(
            shifted, bias[depth], bias_error[depth], color=color, marker=MARKERS[i], capsize=3
        )
    lowest = min(values[0] for values in spread.values())
    guide = 0.7 * lowest * np.sqrt(widths[0] / np.array(widths))
    left.loglog(widths, guide, color=MUTED, linestyle=":", label="∝ 1/√n")
    right.axhline(0, color=MUTED, linewidth=1)
    right.set_xscale("log")
    for ax in (left, right):
        ax.set_xlabel("width n")
        ax.set_xticks(widths, [str(width) for width in widths])
        ax.minorticks_off()
    left.set(title="Spread over networks", ylabel="s.d. of Θ(x, x) / its mean")
    right.set(title="Mean against the formula (± s.e.)", ylabel="mean of Θ(x, x) / (nL/2) − 1")
    left.legend()
    return figure


@matplotlib.rc_context(STYLE)
def training(steps: np.ndarray, accuracy: Mapping[str, Mapping[int, np.ndarray]]) -> Figure:
    """Sign accuracy on the whole curves, {curve: {depth: [seeds, steps]}}: mean and range."""
    figure, axes = _panels(len(accuracy), sharey=True)
    for ax, (name, by_depth) in zip(axes, accuracy.items(), strict=True):
        for color, (depth, values) in zip(_shades(len(by_depth)), by_depth.items(), strict=True):
            ax.plot(steps, values.mean(axis=0), color=color, label=f"L = {depth}")
            ax.fill_between(
                steps, values.min(axis=0), values.max(axis=0), color=color, alpha=0.15, linewidth=0
            )
        ax.set(title=name, xlabel="steps of gradient descent", ylim=(0.35, 1.02))
    axes[0].set_ylabel("sign accuracy on all of M")
    axes[0].legend(
        loc="lower right", title=f"mean and range, {len(values)} seeds", title_fontsize=9
    )
    return figure


@matplotlib.rc_context(STYLE)
def tradeoff(
    widths: Mapping[int, Mapping[int, np.ndarray]], samples: Mapping[int, Mapping[int, np.ndarray]]
) -> Figure:
    """Final accuracy against width and against samples a curve.

    Each is {depth: {width or samples: [seeds]}}; NaN where descent diverged.
    """
    figure, axes = _panels(2, sharey=True)
    titles, names = ("Width (statistical resource)", "Data"), ("width n", "samples a curve")
    for ax, title, name, by_depth in zip(axes, titles, names, (widths, samples), strict=True):
        shades = _shades(len(by_depth))
        for i, (depth, by_value) in enumerate(by_depth.items()):
            color = shades[i]
            places = np.array(list(by_value)) * 1.06**i
            kept = [values[~np.isnan(values)] for values in by_value.values()]
            for place, values in zip(places, kept, strict=True):
                ax.plot(np.full(len(values), place), values, ".", color=color, markersize=4)
            means = [values.mean() if len(values) else np.nan for values in kept]
            ax.plot(places, means, color=color, marker=MARKERS[i], label=f"L = {depth}")
        ticks = sorted({value for by_value in by_depth.values() for value in by_value})
        ax.set(title=title, xlabel=name, xscale="log")
        ax.set_xticks(ticks, [str(tick) for tick in ticks])
        ax.minorticks_off()
    axes[0].set_ylabel("sign accuracy on all of M")
    axes[0].legend(loc="lower right")
    return figure


def _panels(count: int, **options) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(9, 3.8) if count > 1 else (6, 3.8), dpi=100, layout="constrained")
    return figure, figure.subplots(1, count, squeeze=False, **options)[0]


def _shades(count: int) -> np.ndarray:
    """`count` colours from dark to light, without viridis's palest, which a white page swallows."""
    return matplotlib.colormaps["viridis"](np.linspace(0, 0.85, count))
