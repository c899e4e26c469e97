"""Figures of robust recovery: the images with their curves, and the errors of the matrix."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from sop_jax.palette import MUTED, SERIES
from sop_jax.theory.image_fit import DOUBLE, PLAIN_L1, PLAIN_MSE

COLORS = dict(zip((DOUBLE, PLAIN_L1, PLAIN_MSE), SERIES, strict=False))
TITLES = {
    DOUBLE: "double over-parameterisation",
    PLAIN_L1: "plain prior, l1",
    PLAIN_MSE: "plain prior, MSE",
}
DPI = 90


def draw_recovery(
    title: str,
    clean: np.ndarray,
    corrupted: np.ndarray,
    recovered: Mapping[str, np.ndarray],
    curves: Mapping[str, np.ndarray],
    input_psnr: float,
) -> Figure:
    """The images side by side above the PSNR over iterations.

    Args:
      title: of the whole figure.
      clean, corrupted: [H, W, 3] in [0, 1].
      recovered: fit -> its image after the last iteration, [H, W, 3].
      curves: fit -> PSNR in dB of every iteration.
      input_psnr: PSNR in dB of the corrupted image.
    """
    figure = Figure(figsize=(10, 6.2), dpi=DPI, layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1, 1.5))
    above.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=11)
    shown = {"clean": clean, f"corrupted, {input_psnr:.1f} dB": corrupted}
    for fit, image in recovered.items():
        shown[f"{TITLES[fit]}\nlast: {curves[fit][-1]:.1f} dB"] = image
    for axes, (caption, image) in zip(above.subplots(1, len(shown)), shown.items(), strict=True):
        axes.imshow(np.clip(image, 0, 1), interpolation="nearest")
        axes.set_title(caption, fontsize=8)
        axes.set_axis_off()
    axes = below.subplots()
    for fit, curve in curves.items():
        best = int(np.argmax(curve))
        axes.plot(
            np.arange(1, len(curve) + 1), curve, color=COLORS[fit], linewidth=1.1, label=TITLES[fit]
        )
        axes.plot(best + 1, curve[best], "o", color=COLORS[fit], markersize=5)
    axes.axhline(input_psnr, color=MUTED, linestyle=":", linewidth=1.2, label="corrupted image")
    axes.set(xlabel="iteration", ylabel="PSNR to the clean image (dB)", xlim=(0, None))
    _tidy(axes)
    axes.legend(
        title="dot: best iteration", fontsize=8, title_fontsize=8, frameon=False, loc="center right"
    )
    return figure


def draw_errors(iterations: np.ndarray, errors: Mapping[float, np.ndarray]) -> Figure:
    """||UU' - X|| / ||X|| over iterations: errors[gamma] [problems, T], a line a problem."""
    figure = Figure(figsize=(6.2, 3.9), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    for (gamma, each), color in zip(sorted(errors.items(), reverse=True), SERIES, strict=False):
        axes.plot(iterations, each.T, color=color, linewidth=0.8, alpha=0.6)
        axes.plot([], [], color=color, label=f"γ = {gamma:.0e}")
    axes.set(
        xlabel="iteration",
        ylabel="relative error of the low-rank part",
        yscale="log",
        xlim=(0, None),
    )
    _tidy(axes)
    axes.legend(
        title=f"start, {len(each)} matrices each", fontsize=8, title_fontsize=8, frameon=False
    )
    return figure


def draw_limit(
    gammas: Sequence[float], distances: np.ndarray, spectra: np.ndarray, rank: int
) -> Figure:
    """Left: distance of each limit to robust PCA over gamma; right: its eigenvalues.

    Args:
      gammas: [G]. distances: [G, problems]. spectra: [G, problems, n], eigenvalues falling.
    """
    figure = Figure(figsize=(10, 3.9), dpi=DPI, layout="constrained")
    left, right = figure.subplots(1, 2)
    order = np.argsort(gammas)
    line = {"color": MUTED, "linewidth": 0.8, "marker": "o", "markersize": 3}
    left.plot(np.asarray(gammas)[order], distances[order], **line)
    left.plot([], [], **line, label="one matrix")
    left.set(xscale="log", yscale="log")
    left.set(xlabel="γ, the start of U, g and h", ylabel="relative distance to robust PCA")
    number = np.arange(1, spectra.shape[-1] + 1)
    for row, color in zip(order[::-1], SERIES, strict=False):
        right.plot(number, np.maximum(spectra[row], 1e-16).T, color=color, linewidth=0.8, alpha=0.6)
        right.plot([], [], color=color, label=f"γ = {gammas[row]:.0e}")
    right.axvline(rank + 0.5, color=MUTED, linestyle=":", linewidth=1.2, label=f"true rank, {rank}")
    right.set(xlabel="number", ylabel="eigenvalue of UU'", yscale="log")
    for axes in (left, right):
        axes.legend(fontsize=8, frameon=False)
        _tidy(axes)
    return figure


def _tidy(axes) -> None:
    axes.grid(color="#e3e8ee")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
