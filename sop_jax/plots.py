"""Figures of a run: the page shows their panels one by one, plots/*.png side by side."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from matplotlib import cycler, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from sop_jax.files import write_bytes
from sop_jax.heat_maps import draw_confusion, draw_transition, given_shares, plain, short_name
from sop_jax.palette import DARK, LIGHT, Theme
from sop_jax.panels import (
    draw_accuracy,
    draw_diagnostic,
    draw_epochs,
    draw_precision_recall,
    draw_quality,
    draw_reliability,
    draw_roc,
)
from sop_jax.run_folder import Run

SPACE = "\N{NO-BREAK SPACE}"
WIDTH, HEIGHT, MAP_HEIGHT = 5.2, 3.5, 4.5  # inches, of a panel; a heat map is higher
COLUMNS = 10  # of the contact sheet
LINE = 1.46  # height of its lines, in widths of its columns
RANKED_BY_EPOCH = {  # keys of metrics.jsonl; older runs have the second
    "margin_auroc": "AUROC of the margin by epoch",
    "label_issue_auroc": "Label-issue AUROC by epoch",
}


class Draw(Protocol):
    """What a panel shows."""

    def __call__(self, axes: Axes, theme: Theme) -> None:
        """Draws it on empty axes in the colours of `theme`."""


class Panel(NamedTuple):
    """One pair of axes."""

    title: str
    draw: Draw


class Drawn(NamedTuple):
    """A panel as images, for light and for dark pages."""

    title: str
    light: Image.Image
    dark: Image.Image


def draw_figures(run: Run) -> dict[str, list[Drawn]]:
    """Draws the panels of every figure that this run's files allow.

    Returns:
      The panels of 'curves', 'scores', 'confusion' and, where some labels are known to be wrong and
      some to be right, 'detection'.
    """
    figures = {"curves": _curves(run), "scores": _scores(run), "confusion": _confusion(run)}
    if run.wrong is not None and 0 < run.wrong.sum() < len(run.wrong):
        figures["detection"] = _detection(run)
    drawn = {}
    for name, panels in figures.items():
        height = MAP_HEIGHT if name == "confusion" else HEIGHT
        drawn[name] = [
            Drawn(panel.title, _draw(panel, LIGHT, height), _draw(panel, DARK, height))
            for panel in panels
        ]
    return drawn


def write_plots(run: Run, figures: dict[str, list[Drawn]], folder: Path) -> None:
    """Writes one PNG a figure, its panels side by side, and gallery.png, each of them whole."""
    folder.mkdir(exist_ok=True)
    for name, panels in figures.items():
        joined = np.concatenate([np.asarray(panel.light) for panel in panels], axis=1)
        write_bytes(folder / f"{name}.png", png(Image.fromarray(joined)))
    write_bytes(folder / "gallery.png", png(_draw_gallery(run)))


def png(image: Image.Image) -> bytes:
    """Returns a PNG of at most 256 colours, a third of the size of a full-colour one."""
    packed = io.BytesIO()
    image.quantize(256, dither=Image.Dither.NONE).save(packed, "PNG")
    return packed.getvalue()


def chance(probability: float) -> str:
    """A probability as a percentage, never rounded to 0 or 100 % where it is neither."""
    percent = 100 * probability
    if 0 < percent < 0.1:
        return f"<{SPACE}0.1{SPACE}%"
    if 99.9 < percent < 100:
        return f">{SPACE}99.9{SPACE}%"
    return f"{percent:.1f}{SPACE}%"


def quality_text(run: Run, i: int) -> str:
    """The quality of row i in words."""
    if run.calibrated:
        return f"right with {chance(run.quality[i])}"
    return f"quality {run.quality[i]:.3f}"


def _curves(run: Run) -> list[Panel]:
    def draw_loss(axes: Axes, theme: Theme) -> None:
        draw_epochs(axes, run, {"train_loss": "loss"})

    def draw_rate(axes: Axes, theme: Theme) -> None:
        draw_epochs(axes, run, {"learning_rate": "learning rate"})

    return [
        Panel("Accuracy", lambda axes, theme: draw_accuracy(axes, theme, run)),
        Panel("Training loss", draw_loss),
        Panel("Learning rate", draw_rate),
    ]


def _detection(run: Run) -> list[Panel]:
    panels = [
        Panel("ROC", lambda axes, theme: draw_roc(axes, theme, run)),
        Panel("Precision and recall", lambda axes, theme: draw_precision_recall(axes, theme, run)),
    ]
    if run.calibrated:
        panels.append(
            Panel(
                "Reliability of the quality", lambda axes, theme: draw_reliability(axes, theme, run)
            )
        )
    for key, title in RANKED_BY_EPOCH.items():
        if any(record.get(key) is not None for record in run.epochs):
            panels.append(Panel(title, _auroc_of(run, key)))
            break
    return panels


def _auroc_of(run: Run, key: str) -> Draw:
    return lambda axes, theme: draw_epochs(axes, run, {key: "AUROC"})


def _scores(run: Run) -> list[Panel]:
    panels = [Panel("Label quality", lambda axes, theme: draw_quality(axes, theme, run))]
    for name, values in run.diagnostics.items():
        if np.any(np.isfinite(values)):
            panels.append(Panel(plain(name), _draw_of(run, name)))
    return panels


def _draw_of(run: Run, name: str) -> Draw:
    return lambda axes, theme: draw_diagnostic(axes, run, name)


def _confusion(run: Run) -> list[Panel]:
    panels = [Panel("Given label and label after", lambda axes, theme: draw_confusion(axes, run))]
    estimate = run.array("transition_matrix", (len(run.class_names),) * 2)
    if estimate is not None:
        panels.append(Panel("Estimated transition", _transition_of(run, estimate)))
    if run.true_label is not None:
        panels.append(Panel("Actual transition", _transition_of(run, given_shares(run))))
    return panels


def _transition_of(run: Run, shares: np.ndarray) -> Draw:
    return lambda axes, theme: draw_transition(axes, run, shares)


def _draw(panel: Panel, theme: Theme, height: float) -> Image.Image:
    with _style(theme):
        figure = Figure(figsize=(WIDTH, height), dpi=144, layout="constrained")
        axes = figure.subplots()
        axes.set_title(panel.title)
        panel.draw(axes, theme)
        return _rasterise(figure)


def _draw_gallery(run: Run) -> Image.Image:
    """A contact sheet of the worst labels: image, id, given and suggested label, quality."""
    lines = max(1, -(-len(run.gallery_index) // COLUMNS))
    height, width = run.gallery_images.shape[1:3]
    half_width, half_height = 0.42 * width / max(height, width), 0.42 * height / max(height, width)
    with _style(LIGHT):
        figure = Figure(figsize=(1.3 * COLUMNS, 1.9 * lines), dpi=144)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        for cell, image in enumerate(run.gallery_images):
            x, y = cell % COLUMNS + 0.5, (cell // COLUMNS) * LINE + 0.46
            extent = (x - half_width, x + half_width, y + half_height, y - half_height)
            picture = image.squeeze(-1) if image.shape[-1] == 1 else image
            axes.imshow(picture, "gray", vmin=0, vmax=255, extent=extent)
            i = run.gallery_index[cell]
            known_wrong = run.wrong is not None and run.wrong[i]
            color = LIGHT.series[1] if known_wrong else LIGHT.ink
            style = {"ha": "center", "va": "top", "fontsize": 7, "color": color}
            axes.text(x, y + 0.46, _caption(run, i), **style)
        axes.set_xlim(0, COLUMNS)
        axes.set_ylim(LINE * lines, 0)
        axes.set_aspect("auto")
        return _rasterise(figure)


def _caption(run: Run, i: int) -> str:
    labels = f"{short_name(run, run.label[i])}\n→ {short_name(run, run.suggested_label[i])}"
    return f"{plain(run.ids[i][-16:])}\n{labels}\n{quality_text(run, i)}"


@contextmanager
def _style(theme: Theme) -> Iterator[None]:
    style = {
        "text.color": theme.ink,
        "axes.labelcolor": theme.ink,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "figure.facecolor": theme.ground,
        "axes.facecolor": theme.ground,
        "axes.edgecolor": theme.grid,
        "grid.color": theme.grid,
        "axes.prop_cycle": cycler(color=theme.series),
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlelocation": "left",
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "legend.frameon": False,
        "font.size": 9,
    }
    with rc_context(style):
        yield


def _rasterise(figure: Figure) -> Image.Image:
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        # a class name in a script that the font lacks
        warnings.filterwarnings("ignore", message="Glyph")
        canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
