"""Figures 2 to 4 of the SOP paper: descent against the convex program, lambda, phase transition."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from sop_jax.palette import MUTED, SERIES

COLOURS = (*SERIES, MUTED)
INK = "#24292f"
SMALLEST = 1e-15  # errors below it are drawn at it: what is left there is rounding
QUANTITIES = {"theta": "θ", "s": "s"}


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=90, layout="constrained")


def draw_heat_maps(
    alphas: np.ndarray,
    lambdas: np.ndarray,
    differences: Mapping[str, np.ndarray],
    curve: np.ndarray,
    gamma: str,
) -> Figure:
    """Figure 2: relative differences of descent's and the convex program's solutions.

    Args:
      alphas: [A].
      lambdas: [M].
      differences: {"theta", "s"}: [A, M], a map each.
      curve: [A], the lambda that belongs to each alpha.
      gamma: the start value of descent, as text.
    """
    figure = _figure(10, 4)
    for axes, (key, name) in zip(figure.subplots(1, 2), QUANTITIES.items(), strict=True):
        edges = _edges(lambdas), _edges(alphas)
        mesh = axes.pcolormesh(
            *edges, np.minimum(differences[key], 1), cmap="magma", vmin=0, vmax=1
        )
        axes.plot(curve, alphas, color="#4cacea", linewidth=2.5, label="α = −log γ / (2λ)")
        axes.set(xscale="log", yscale="log", xlim=edges[0][[0, -1]], ylim=edges[1][[0, -1]])
        axes.set(xlabel="λ of the convex program", ylabel="α of gradient descent")
        axes.set_title(
            f"relative difference of {name}, one instance, γ = {gamma}", fontsize=10, loc="left"
        )
        axes.legend(loc="lower left", fontsize=8, framealpha=0.9)
        figure.colorbar(mesh, ax=axes).outline.set_visible(False)
    return figure


def _edges(values: np.ndarray) -> np.ndarray:
    """Edges [n + 1] of the cells around values [n] >= 2 that are even on a log scale."""
    half = np.sqrt(values[1] / values[0])
    return np.append(values / half, values[-1] * half)


def draw_curve(lambdas: np.ndarray, by_gamma: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """The same differences on the curve: medians and quartiles over instances, for each gamma.

    Args:
      lambdas: [A].
      by_gamma: {gamma as text: {"theta", "s"}: [T, A]}.
    """
    figure = _figure(10, 3.6)
    for axes, (key, name) in zip(figure.subplots(1, 2), QUANTITIES.items(), strict=True):
        for colour, (gamma, differences) in zip(COLOURS, by_gamma.items(), strict=False):
            low, median, high = np.quantile(differences[key], (0.25, 0.5, 0.75), axis=0)
            axes.fill_between(lambdas, low, high, color=colour, alpha=0.2, linewidth=0)
            axes.plot(lambdas, median, "o-", color=colour, markersize=4, label=f"γ = {gamma}")
        axes.set(
            xscale="log",
            xlabel="λ; descent with α = −log γ / (2λ)",
            ylabel=f"relative difference of {name}",
        )
        axes.set_title(
            f"{name}: median and quartiles of {len(differences[key])} instances",
            fontsize=10,
            loc="left",
        )
        _plain(axes)
        axes.legend(fontsize=8)
    return figure


def draw_errors(lambdas: np.ndarray, panels: Sequence[Mapping]) -> Figure:
    """Figure 3: mean recovery errors against lambda, a row of axes a panel, theta left, s right.

    Args:
      lambdas: [M].
      panels: each with title, labels [C], thresholds [C] (lambda_0, dotted) and errors
        {"theta", "s"}: [C, M].
    """
    figure = _figure(10, 3.6 * len(panels))
    rows = figure.subplots(len(panels), 2, squeeze=False)
    for row, panel in zip(rows, panels, strict=True):
        for axes, (key, name) in zip(row, QUANTITIES.items(), strict=True):
            curves = zip(panel["labels"], panel["thresholds"], panel["errors"][key], strict=True)
            for number, (label, threshold, errors) in enumerate(curves):
                colour = COLOURS[number % len(COLOURS)]
                axes.plot(lambdas, np.maximum(errors, SMALLEST), color=colour, label=label)
                axes.axvline(threshold, color=colour, linestyle=":", linewidth=1.2)
            axes.set(
                xscale="log",
                yscale="log",
                xlabel="λ",
                ylabel=f"relative error of {name}",
                ylim=(SMALLEST, 1e3),
            )
            axes.set_title(f"{panel['title']}: {name}; dotted: λ₀", fontsize=10, loc="left")
            _plain(axes)
        row[0].legend(fontsize=8, loc="lower left")
    return figure


def draw_phase_transition(
    ranks: Sequence[int],
    sparsities: Sequence[int],
    successes: Mapping[str, np.ndarray],
    trials: int,
) -> Figure:
    """Figure 4: how many of the trials recover theta (left) and s (right).

    Args:
      ranks: [R], upwards.
      sparsities: [C], to the right.
      successes: {"theta", "s"}: [R, C] counts of `trials`.
    """
    figure = _figure(10, 4.2)
    for axes, (key, name) in zip(figure.subplots(1, 2), QUANTITIES.items(), strict=True):
        axes.imshow(successes[key], cmap="gray", vmin=0, vmax=trials, origin="lower", aspect="auto")
        for (row, column), count in np.ndenumerate(successes[key]):
            ink = INK if count > 0.5 * trials else "white"
            axes.text(column, row, count, ha="center", va="center", fontsize=8, color=ink)
        axes.set_xticks(range(len(sparsities)), sparsities)
        axes.set_yticks(range(len(ranks)), ranks)
        axes.set(xlabel="sparsity k of s*", ylabel="rank r of J")
        axes.set_title(f"{name} recovered, trials of {trials}", fontsize=10, loc="left")
        axes.spines[:].set_visible(False)
    return figure


def _plain(axes) -> None:
    axes.grid(color="#e3e8ee", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
