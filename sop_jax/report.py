"""The page a run leaves behind, rebuilt from its files alone.

    python -m sop_jax.report --workdir=DIR

This module finds the numbers; the words and the HTML are in templates/.
"""

import argparse
import base64
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from PIL import Image

from sop_jax.errors import UserError
from sop_jax.exit_status import exit_status
from sop_jax.files import write_bytes
from sop_jax.finished import renew
from sop_jax.heat_maps import count_pairs
from sop_jax.plots import chance, draw_figures, png, quality_text, write_plots
from sop_jax.run_folder import Run, number, read_run

THUMBNAIL = 72  # longest side in pixels of an embedded image, which keeps the page below 3 MB
MAX_NAME = 80  # characters of an id or a class name on the page
MOST_FREQUENT = 10  # pairs of given and suggested label in their table
NONE = "–"
FILES = {
    "config.json": "the resolved configuration",
    "run.json": "versions, devices, command line",
    "metrics.jsonl": "one line per epoch",
    "summary.json": "the numbers of this page",
    "label_issues.csv": "every training example, worst label first",
    "labels.npz": "the labels the run was given",
    "predictions.npz": "class probabilities and diagnostics of every example",
    "gallery.npz": "the images of the worst labels",
    "plots": "the figures of this page as files",
    "tensorboard": "the curves as TensorBoard events",
    "checkpoints": "the trained network, Orbax",
}

Lines = list[Sequence[str]]  # of a table, cell by cell


class Detection(NamedTuple):
    """How well the rankings find the labels that are truly wrong."""

    wrong: int  # their number
    right_suggestions: float | None  # share among the flagged of them; None where none was flagged
    right_applied: float | None  # share among the suggestions to apply; None where there is none
    rankings: Lines


class Cell(NamedTuple):
    """One of the worst labels, with its image."""

    id: str
    label: str
    suggested_label: str
    true_label: str | None
    wrong: bool
    quality: str
    confidence: str | None  # of the suggestion, where the run grades it
    flagged: bool
    apply: bool
    picture: bytes  # PNG
    small: bool  # whether its pixels are shown as they are


def write_report(workdir: str | os.PathLike) -> Path:
    """Writes report.html and plots/*.png from the files that a finished run left in `workdir`.

    The mark of the finished run, where there is one, then describes the new page.

    Returns:
        The path of the page.

    Raises:
        UserError: the folder or a file is missing or damaged, or nothing can be written there.
    """
    run = read_run(workdir)
    figures = draw_figures(run)
    page = _render(run, figures)
    path = run.workdir / "report.html"
    try:
        write_plots(run, figures, run.workdir / "plots")
        # A lone surrogate in a name of an old run has no UTF-8 form.
        write_bytes(path, page.encode("utf-8", errors="replace"))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error})") from error
    renew(run.workdir, ["plots", "report.html"])
    return path


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m sop_jax.report", description=__doc__)
    parser.add_argument("--workdir", required=True, help="folder of a finished run")
    workdir = parser.parse_args(arguments).workdir
    return exit_status(lambda: print(write_report(workdir)))


def _render(run: Run, figures: dict[str, list]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sop_jax"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = _data_uri
    packed = {
        name: [
            {"title": panel.title, "light": png(panel.light), "dark": png(panel.dark)}
            for panel in panels
        ]
        for name, panels in figures.items()
    }
    return environment.get_template("report.html").render(
        run=run,
        title=_title(run),
        facts=_facts(run),
        figures=packed,
        detection=_detection(run),
        diagnostics=[_diagnostic(name, values) for name, values in run.diagnostics.items()],
        estimates=_estimates(run),
        warnings=_warnings(run),
        suggestions=_suggestions(run),
        classes=_classes(run),
        gallery=_gallery(run),
        config=_fields(run.config),
        environment=_fields(run.environment),
        sessions=[_session(session) for session in run.sessions],
        files=_files(run),
    )


def _data_uri(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}"


def _title(run: Run) -> str:
    dataset, method, seed = (run.summary.get(key, "?") for key in ("dataset", "method", "seed"))
    return f"{dataset} · {method} · seed {seed}"


def _facts(run: Run) -> list[str]:
    """What stands below the title."""
    kind = run.config.get("noise.kind", "?")
    rate = run.config.get("noise.labels") or run.config.get("noise.rate", "")
    return [
        _date(run.environment.get("started")),
        f"{len(run.ids):,} training rows",
        f"{len(run.class_names)} classes",
        f"noise: {kind} {rate}",
    ]


def _date(started: object) -> str:
    """Day and minute of an ISO 8601 time."""
    return str(started or "date unknown")[:16].replace("T", " ")


def _estimates(run: Run) -> dict[str, str]:
    """The noise rate by each way of estimating it that the run took, as the page writes it."""
    content = run.summary.get("noise_rate_estimates")
    known = content if isinstance(content, dict) else {}
    where = run.workdir / "summary.json, noise_rate_estimates"
    found = {name: number(known, name, where) for name in known}
    return {
        name: _percent(rate, 1 if rate >= 0.01 else 2)
        for name, rate in found.items()
        if rate is not None
    }


def _warnings(run: Run) -> list[str]:
    content = run.summary.get("warnings")
    return [_text(each) for each in content] if isinstance(content, list) else []


def _detection(run: Run) -> Detection | None:
    """None where no ranking can be graded."""
    if run.wrong is None or not 0 < run.wrong.sum() < len(run.wrong):
        return None
    from sklearn.metrics import average_precision_score, roc_auc_score

    wrong = int(run.wrong.sum())
    lines = []
    for name, ranking in run.rankings.items():
        found = run.wrong[np.argsort(-ranking, kind="stable")[:wrong]].mean()
        area = roc_auc_score(run.wrong, ranking)
        precision = average_precision_score(run.wrong, ranking)
        lines.append([name, *(f"{each:.3f}" for each in (area, precision, found, 1 - found))])
    caught = run.flagged & run.wrong
    right = run.suggested_label[caught] == run.true_label[caught]
    applied = (run.suggested_label == run.true_label)[run.apply]
    shares = [float(each.mean()) if len(each) else None for each in (right, applied)]
    return Detection(wrong, *shares, lines)


def _diagnostic(name: str, values: np.ndarray) -> list[str]:
    """One of the method's own arrays, as a line of the table of diagnostics."""
    finite = values[np.isfinite(values)]
    missing = f"{len(values) - len(finite):,}"
    if not len(finite):
        return [name, NONE, NONE, NONE, NONE, missing]
    largest = finite.max()
    numbers = [f"{each:.4g}" for each in (finite.min(), np.median(finite), largest)]
    return [name, *numbers, _percent(np.mean(values == largest), 2), missing]


def _suggestions(run: Run) -> Lines:
    """The pairs of flagged and suggested label that occur most often, with their counts."""
    flagged, applied = (
        count_pairs(run.label[part], run.suggested_label[part], len(run.class_names))
        for part in (run.flagged, run.apply)
    )
    lines = []
    for place in np.argsort(-flagged, axis=None, kind="stable")[:MOST_FREQUENT]:
        pair = np.unravel_index(place, flagged.shape)
        if flagged[pair]:
            safe = f"{applied[pair]:,}" if run.calibrated else NONE
            counts = f"{flagged[pair]:,}", safe
            lines.append([*(_name(run, k) for k in pair), *counts])
    return lines


def _classes(run: Run) -> Lines:
    """A line a class, the largest flagged share first."""
    num_classes = len(run.class_names)
    accuracy, expected = (
        run.array(key, (num_classes,))
        for key in ("test_accuracy_per_class", "noise_rate_per_class")
    )
    shares, lines = [], []
    for k in range(num_classes):
        own = run.label == k
        total, flagged = int(own.sum()), int((own & run.flagged).sum())
        line = [_name(run, k), f"{total:,}", _percent_of(expected, k), f"{flagged:,}"]
        line += [_share(flagged, total), _percent_of(accuracy, k)]
        if run.wrong is not None:
            wrong = int((own & run.wrong).sum())
            caught = int((own & run.wrong & run.flagged).sum())
            line.append(f"{wrong:,}")
            line += [f"{caught / whole:.3f}" if whole else NONE for whole in (flagged, wrong)]
        shares.append(flagged / max(total, 1))
        lines.append(line)
    return [lines[k] for k in np.argsort(-np.array(shares), kind="stable")]


def _share(part: int, whole: int) -> str:
    return _percent(part / whole, 1) if whole else NONE


def _percent_of(fractions: np.ndarray | None, k: int) -> str:
    known = fractions is not None and not np.isnan(fractions[k])
    return _percent(fractions[k] if known else None, 1)


def _percent(fraction: float | None, digits: int) -> str:
    return NONE if fraction is None else f"{100 * fraction:.{digits}f} %"


def _gallery(run: Run) -> list[Cell]:
    cells = []
    for i, image in zip(run.gallery_index, run.gallery_images, strict=True):
        cell = Cell(
            id=_shortened(run.ids[i]),
            label=_name(run, run.label[i]),
            suggested_label=_name(run, run.suggested_label[i]),
            true_label=None if run.true_label is None else _name(run, run.true_label[i]),
            wrong=run.wrong is not None and bool(run.wrong[i]),
            quality=quality_text(run, i),
            confidence=chance(run.suggestion_confidence[i]) if run.calibrated else None,
            flagged=bool(run.flagged[i]),
            apply=bool(run.apply[i]),
            picture=_thumbnail(image),
            small=max(image.shape) <= THUMBNAIL,
        )
        cells.append(cell)
    return cells


def _name(run: Run, k: int) -> str:
    return _shortened(run.class_names[k])


def _shortened(text: str) -> str:
    """At most MAX_NAME characters, the middle left out: the end of a path tells most."""
    half = MAX_NAME // 2
    return text if len(text) <= MAX_NAME else f"{text[: half - 1]}…{text[-half:]}"


def _thumbnail(image: np.ndarray) -> bytes:
    """Returns uint8 [H, W, 1 or 3] as a PNG of at most THUMBNAIL pixels a side."""
    picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    packed = io.BytesIO()
    picture.save(packed, "PNG", optimize=True)
    return packed.getvalue()


def _fields(settings: dict[str, Any]) -> Lines:
    return [(name, _text(value)) for name, value in settings.items()]


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _session(session: object) -> list[str]:
    """Start and seconds of one process that trained."""
    known = session if isinstance(session, dict) else {}
    seconds = known.get("seconds")
    measured = isinstance(seconds, int | float)
    return [_date(known.get("started")), f"{seconds:,.0f}" if measured else NONE]


def _files(run: Run) -> Lines:
    """What stands beside the page, of which plots/ is written together with it."""
    return [
        (name, content)
        for name, content in FILES.items()
        if name == "plots" or (run.workdir / name).exists()
    ]


if __name__ == "__main__":
    sys.exit(main())
