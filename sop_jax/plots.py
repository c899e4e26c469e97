"""Figures of a run: the report shows their panels one by one, plots/*.png shows them side by
side.
"""

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sop_jax.palette import MUTED, SERIES
from sop_jax.run_folder import Run

LIGHT = {
    "ink": "#24292f",
    "muted": MUTED,
    "grid": "#e3e8ee",
    "ground": "#ffffff",
    "series": list(SERIES),
}
DARK = {"ink": "#e6edf3", "muted": "#9aa4af", "grid": "#2d343c", "ground": "#171b21", "series": [
    "#4cacea", "#ff8a4c", "#2fc79b", "#e08fc4", "#f0b83a"]}  # fmt: skip
# inches, a panel
SIZE = {
    "curves": (5.2, 3.5),
    "detection": (5.2, 3.5),
    "scores": (5.2, 3.5),
    "confusion": (5.2, 4.5),
}
MAX_NAMED = 30  # classes whose names fit on an axis of the heat maps
MAX_NUMBERED = 12  # classes whose numbers fit into the cells


class Panel(NamedTuple):
    """One pair of axes: its heading and the function that draws it on (axes, theme)."""

    title: str
    draw: Callable


class Drawn(NamedTuple):
    """A panel as PIL images, for light and for dark pages."""

    title: str
    light: Any
    dark: Any


def draw_figures(run: Run) -> dict[str, list[Drawn]]:
    """Draws the panels of every figure that this run's files allow: curves, scores, confusion,
    perhaps detection.
    """
    return {
        name: [
            Drawn(panel.title, *(_draw(panel, theme, SIZE[name]) for theme in (LIGHT, DARK)))
            for panel in panels
        ]
        for name, panels in _panels(run).items()
    }


def write_plots(run: Run, figures: dict[str, list[Drawn]], folder: Path) -> None:
    """Writes one PNG a figure, its panels side by side, and gallery.png."""
    from PIL import Image

    folder.mkdir(exist_ok=True)
    for name, panels in figures.items():
        joined = np.concatenate([np.asarray(panel.light) for panel in panels], axis=1)
        (folder / f"{name}.png").write_bytes(png(Image.fromarray(joined)))
    (folder / "gallery.png").write_bytes(png(_draw_gallery(run)))


def png(image: Any) -> bytes:
    """Returns a PIL image as a PNG of at most 256 colours, a third of the size of a full-colour
    one.
    """
    from PIL import Image

    packed = io.BytesIO()
    image.quantize(256, dither=Image.Dither.NONE).save(packed, "PNG")
    return packed.getvalue()


def _panels(run: Run) -> dict[str, list[Panel]]:
    panels = {
        "curves": [
            Panel("Accuracy", lambda ax, theme: _accuracy(ax, theme, run)),
            Panel("Training loss", lambda ax, theme: _curves(ax, run, {"train_loss": "loss"})),
            Panel(
                "Learning rate",
                lambda ax, theme: _curves(ax, run, {"learning_rate": "learning rate"}),
            ),
        ],
        "scores": [Panel("Noise score", lambda ax, theme: _score_histogram(ax, theme, run))],
        "confusion": [
            Panel("Given against corrected labels (rows)", lambda ax, theme: _confusion(ax, run))
        ],
    }
    truth_varies = run.wrong is not None and 0 < run.wrong.sum() < len(run.wrong)
    if truth_varies:
        panels["detection"] = [
            Panel("ROC", lambda ax, theme: _roc(ax, theme, run)),
            Panel("Precision and recall", lambda ax, theme: _precision_recall(ax, theme, run)),
        ]
        if any(record.get("label_issue_auroc") is not None for record in run.epochs):
            draw = lambda ax, theme: _curves(ax, run, {"label_issue_auroc": "AUROC"})  # noqa: E731
            panels["detection"].append(Panel("Label-issue AUROC by epoch", draw))
    if run.u_squared is not None:
        panels["scores"].append(Panel("u² of SOP", lambda ax, theme: _u_histogram(ax, theme, run)))
    by_model = Panel(
        "Estimated transition",
        lambda ax, theme: _transition(ax, run, run.corrected, "corrected label"),
    )
    panels["confusion"].append(by_model)
    if run.truth is not None:
        by_truth = Panel(
            "Actual transition", lambda ax, theme: _transition(ax, run, run.truth, "true label")
        )
        panels["confusion"].append(by_truth)
    return panels


def count_pairs(rows: np.ndarray, columns: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns int64 [K,K]: how often class r of `rows` [n] meets class c of `columns` [n]."""
    flat = np.bincount(rows.astype(np.int64) * num_classes + columns, minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes)


def _draw(panel: Panel, theme: dict, size: tuple[float, float]) -> Any:
    from matplotlib.figure import Figure

    with _style(theme):
        figure = Figure(figsize=size, dpi=144, layout="constrained")
        axes = figure.subplots()
        axes.set_title(panel.title)
        panel.draw(axes, theme)
        return _rasterise(figure)


def _draw_gallery(run: Run, columns: int = 10) -> Any:
    """Returns a contact sheet of the worst labels: image, id, given -> suggested, quality."""
    from matplotlib.figure import Figure

    count = len(run.gallery_rows)
    lines = max(1, -(-count // columns))
    height, width = run.gallery_images.shape[1:3]
    half_width, half_height = 0.42 * width / max(height, width), 0.42 * height / max(height, width)
    with _style(LIGHT):
        figure = Figure(figsize=(1.3 * columns, 1.9 * lines), dpi=144)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        for cell, (row, image) in enumerate(zip(run.gallery_rows, run.gallery_images, strict=True)):
            x, y = cell % columns + 0.5, (cell // columns) * 1.46 + 0.46
            extent = (x - half_width, x + half_width, y + half_height, y - half_height)
            axes.imshow(
                image.squeeze(-1) if image.shape[-1] == 1 else image,
                "gray",
                vmin=0,
                vmax=255,
                extent=extent,
            )
            labels = f"{_name(run, run.given[row])}\n→ {_name(run, run.suggested[row])}"
            caption = f"{_plain(run.ids[row][-16:])}\n{labels}\nquality {run.quality[row]:.3f}"
            known_wrong = run.wrong is not None and run.wrong[row]
            color = LIGHT["series"][1] if known_wrong else LIGHT["ink"]
            axes.text(x, y + 0.46, caption, ha="center", va="top", fontsize=7, color=color)
        axes.set_xlim(0, columns)
        axes.set_ylim(1.46 * lines, 0)
        axes.set_aspect("auto")
        return _rasterise(figure)


@contextmanager
def _style(theme: dict) -> Iterator[None]:
    from matplotlib import cycler, rc_context

    style = dict.fromkeys(("text.color", "axes.labelcolor"), theme["ink"])
    style |= dict.fromkeys(("xtick.color", "ytick.color"), theme["muted"])
    style |= dict.fromkeys(("figure.facecolor", "axes.facecolor"), theme["ground"])
    style |= dict.fromkeys(("axes.edgecolor", "grid.color"), theme["grid"])
    style |= {
        "axes.prop_cycle": cycler(color=theme["series"]),
        "axes.grid": True,
        "axes.axisbelow": True,
    }
    style |= {"axes.spines.right": False, "axes.spines.top": False, "legend.frameon": False}
    style |= {
        "axes.titlelocation": "left",
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "font.size": 9,
    }
    with rc_context(style):
        yield


def _rasterise(figure) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        # a class name in a script that the font lacks
        warnings.filterwarnings("ignore", message="Glyph")
        canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _curves(ax, run: Run, labels: dict[str, str]) -> None:
    """Draws series of metrics.jsonl over the epochs; epochs without a value are passed over."""
    from matplotlib.ticker import MaxNLocator

    for key, label in labels.items():
        points = [(record.get("epoch", i), record[key]) for i, record in enumerate(run.epochs)
                  if record.get(key) is not None]  # fmt: skip
        if points:
            ax.plot(
                *zip(*points, strict=True),
                label=label,
                marker="o" if len(points) < 15 else None,
                markersize=3,
            )
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(labels) == 1:
        ax.set_ylabel(*labels.values())


def _accuracy(ax, theme: dict, run: Run) -> None:
    _curves(
        ax,
        run,
        {
            "test_accuracy": "test",
            "train_accuracy": "training, given labels",
            "train_accuracy_true": "training, true labels",
            "validation_accuracy": "validation, given labels",
        },
    )
    rate, kind = run.value("noise_rate_actual"), "noise rate"
    if rate is None:
        rate, kind = run.value("noise_rate_estimated"), "estimated noise rate"
    if rate is not None:
        ax.axhline(
            1 - rate, color=theme["muted"], linestyle=":", linewidth=1.3, label=f"1 − {kind}"
        )
    ax.set_ylabel("accuracy")
    ax.legend(fontsize=8)


def _roc(ax, theme: dict, run: Run) -> None:
    from sklearn.metrics import roc_auc_score, roc_curve

    for (name, values), style in zip(run.rankings.items(), ("-", "--", ":"), strict=False):
        false_positive, true_positive, _ = roc_curve(run.wrong, values)
        ax.plot(
            false_positive,
            true_positive,
            style,
            label=f"{name}, area {roc_auc_score(run.wrong, values):.3f}",
        )
    ax.plot([0, 1], [0, 1], color=theme["muted"], linewidth=0.8)
    ax.set(
        xlabel="clean labels flagged", ylabel="wrong labels found", xlim=(-0.01, 1), ylim=(0, 1.02)
    )
    ax.legend(loc="lower right")


def _precision_recall(ax, theme: dict, run: Run) -> None:
    from sklearn.metrics import average_precision_score, precision_recall_curve

    for (name, values), style in zip(run.rankings.items(), ("-", "--", ":"), strict=False):
        precision, recall, _ = precision_recall_curve(run.wrong, values)
        area = average_precision_score(run.wrong, values)
        ax.plot(recall, precision, style, label=f"{name}, area {area:.3f}")
    caught = (run.flagged & run.wrong).sum()
    if caught:
        point = caught / run.wrong.sum(), caught / run.flagged.sum()
        ax.plot(*point, "o", color=theme["ink"], markersize=6, label="flagged rows")
    ax.set(
        xlabel="recall: wrong labels found",
        ylabel="precision of what is flagged",
        xlim=(0, 1.01),
        ylim=(0, 1.02),
    )
    ax.legend(loc="lower left")


def _histogram(ax, run: Run, values: np.ndarray, bins: np.ndarray) -> None:
    if run.wrong is None:
        parts = {"all rows": values}
    else:
        parts = {"label is right": values[~run.wrong], "label is wrong": values[run.wrong]}
    for label, part in parts.items():
        ax.hist(part, bins, alpha=0.5, histtype="stepfilled", label=f"{label} ({len(part):,})")
    ax.set_yscale("log")
    ax.set_ylabel("rows")


def _score_histogram(ax, theme: dict, run: Run) -> None:
    low, high = min(0.0, run.score.min()), max(1.0, run.score.max())
    _histogram(ax, run, run.score, np.linspace(low, high, 51))
    if run.flagged.any():
        threshold = run.score[run.flagged].min()
        ax.axvline(
            threshold,
            color=theme["ink"],
            linestyle="--",
            linewidth=1.2,
            label=f"threshold {threshold:.3f}",
        )
    ax.set_xlabel("noise score (1 − label quality)")
    ax.legend()


def _u_histogram(ax, theme: dict, run: Run) -> None:
    # untouched rows sit near 1e-16: one bin holds them all
    values = np.maximum(run.u_squared, 1e-8)
    _histogram(ax, run, values, np.geomspace(1e-8, max(10.0, values.max() * 1.1), 51))
    share = np.mean(run.u_squared >= 1)
    ax.axvline(
        1,
        color=theme["ink"],
        linestyle="--",
        linewidth=1.2,
        label=f"box bound, {share:.1%} at or beyond",
    )
    ax.set_xscale("log")
    ax.set_xlabel("u² (left bin: 1e-8 and below)")
    ax.legend()


def _confusion(ax, run: Run) -> None:
    from matplotlib.colors import LogNorm

    counts = count_pairs(run.given, run.corrected, len(run.class_names))
    _heat_map(
        ax, run, np.where(counts > 0, counts, np.nan), LogNorm(1, max(2, counts.max())), "{:.0f}"
    )
    ax.set(xlabel="corrected label", ylabel="given label")


def _transition(ax, run: Run, origin: np.ndarray, ylabel: str) -> None:
    from matplotlib.colors import Normalize

    counts = count_pairs(origin, run.given, len(run.class_names))
    matrix = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    _heat_map(ax, run, np.where(matrix >= 0.005, matrix, np.nan), Normalize(0, 1), "{:.2f}")
    ax.set(xlabel="given label", ylabel=ylabel)


def _heat_map(ax, run: Run, matrix: np.ndarray, norm, form: str) -> None:
    """Draws a [K,K] matrix, NaN left blank; names and numbers only where they fit."""
    image = ax.imshow(matrix, cmap="viridis", norm=norm, aspect="auto", interpolation="nearest")
    ax.grid(False)
    ax.figure.colorbar(image, ax=ax, fraction=0.05, pad=0.02).outline.set_visible(False)
    if len(matrix) > MAX_NAMED:
        ax.set(xticks=[], yticks=[])
        return
    names = [_name(run, k) for k in range(len(matrix))]
    ax.set_xticks(
        range(len(matrix)), names, rotation=0 if max(map(len, names)) < 3 else 90, fontsize=7
    )
    ax.set_yticks(range(len(matrix)), names, fontsize=7)
    if len(matrix) <= MAX_NUMBERED:
        for (r, c), value in np.ndenumerate(matrix):
            if not np.isnan(value):
                ink = "white" if norm(value) < 0.6 else "black"
                ax.text(c, r, form.format(value), ha="center", va="center", fontsize=7, color=ink)


def _name(run: Run, k: int) -> str:
    name = run.class_names[k]
    return _plain(name if len(name) <= 14 else f"{name[:13]}…")


def _plain(text: str) -> str:
    """Returns the text as matplotlib should print it: no formulas between dollar signs, no line
    breaks.
    """
    return " ".join(text.replace("$", r"\$").split())
