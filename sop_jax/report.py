"""The page a run leaves behind: `python -m sop_jax.report --workdir=DIR` rebuilds it from the run's
files alone.
"""

import argparse
import io
import json
import os
import sys
from html import escape
from pathlib import Path

import numpy as np

from sop_jax import plots
from sop_jax.errors import UserError
from sop_jax.report_html import data_uri, decimal, figure_row, page, percent, table, tile, unknown
from sop_jax.run_folder import Run, flatten, read_run

THUMBNAIL = 72  # longest side in pixels of an embedded image, which keeps the page below 3 MB
NO_TRUTH = "true labels unknown"
ARTEFACTS = {
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
USAGE = """<h2>Using the list</h2>
<p><code>label_issues.csv</code> holds every training example, worst label first, in cleanlab's column names:
look through the top by hand, drop the flagged rows or take the suggestion, then train again.</p>
<pre><code>import pandas as pd
rows = pd.read_csv("label_issues.csv", dtype={"id": str}, keep_default_na=False)
clean = rows[~rows.is_label_issue]  # drop the flagged rows, or take the suggestions:
rows["label"] = rows.predicted_label.where(rows.is_label_issue, rows.given_label)</code></pre>"""


def write_report(workdir: str | os.PathLike) -> Path:
    """Writes report.html and plots/*.png from the files that a finished run left in `workdir`.

    Returns:
        The path of the page.

    Raises:
        UserError: the folder or a file is missing or damaged, or nothing can be written there.
    """
    run = read_run(workdir)
    figures = plots.draw_figures(run)
    shown = {
        name: figure_row(
            (panel.title, plots.png(panel.light), plots.png(panel.dark)) for panel in panels
        )
        for name, panels in figures.items()
    }
    sections = (
        _heading(run),
        _tiles(run),
        _curves(shown["curves"]),
        _detection(run, shown.get("detection", "")),
        _scores(run, shown["scores"]),
        _confusion(run, shown["confusion"]),
        _classes(run),
        _gallery(run),
        USAGE,
        _configuration(run),
    )
    html = page(_title(run), "\n".join(sections))
    path = run.workdir / "report.html"
    try:
        plots.write_plots(run, figures, run.workdir / "plots")
        path.write_text(html, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error})") from error
    return path


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m sop_jax.report", description=__doc__)
    parser.add_argument("--workdir", required=True, help="folder of a finished run")
    try:
        print(write_report(parser.parse_args(arguments).workdir))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _title(run: Run) -> str:
    return f"{run.summary.get('dataset', '?')} · {run.summary.get('method', '?')} · seed {run.summary.get('seed', '?')}"


def _heading(run: Run) -> str:
    noise = run.config.get("noise", {})
    kind, rate = noise.get("kind", "?"), noise.get("labels") or noise.get("rate", "")
    date = str(run.environment.get("started") or "date unknown")[:16].replace("T", " ")
    facts = (
        date,
        f"{len(run.ids):,} training rows",
        f"{len(run.class_names)} classes",
        f"noise: {kind} {rate}",
    )
    return f'<h1>{escape(_title(run))}</h1><p class="muted">{escape(" · ".join(facts))}</p>'


def _tiles(run: Run) -> str:
    value, rows = run.value, len(run.ids)
    undefined = (
        NO_TRUTH if run.truth is None else "no contrast: every label is right, or every one wrong"
    )
    issue = {
        part: decimal(value(f"label_issue_{part}"), "")
        for part in ("auprc", "f1", "precision", "recall")
    }
    best, best_epoch = percent(value("test_accuracy_best"), "not evaluated"), value("best_epoch")
    best += "" if best_epoch is None else f" at epoch {best_epoch:.0f}"
    at_best = percent(value("test_accuracy_at_best_validation"), "no validation split")
    before, after = (value(f"label_accuracy_{when}") for when in ("before", "after"))
    speed = value("images_per_second")
    seconds = " · ".join(
        f"{name} {unknown('not measured') if value(key) is None else f'{value(key):,.0f} s'}"
        for name, key in (("in all", "wall_seconds"), ("compiling", "compile_seconds"))
    )
    tiles = (
        tile(
            "Test accuracy, last epoch",
            percent(value("test_accuracy_last"), "not evaluated"),
            f"best {best}; diagnostic: chosen on the test set",
            f"at the best validation epoch {at_best}",
            f"top 5 {percent(value('test_top5_last'), 'not measured')}",
        ),
        tile(
            "Noise rate, estimated",
            percent(value("noise_rate_estimated"), "this method estimates none"),
            f"actual {percent(value('noise_rate_actual'), NO_TRUTH)}",
        ),
        tile(
            "Flagged labels",
            f"{run.flagged.sum():,}",
            f"{percent(run.flagged.mean())} of {rows:,} training rows",
        ),
        tile(
            "Label accuracy, before → after",
            unknown(NO_TRUTH)
            if after is None
            else f"{percent(before, NO_TRUTH, 1)} → {percent(after, '', 1)}",
            "after taking the suggestion in every flagged row",
        ),
        tile(
            "Label-issue AUROC",
            decimal(value("label_issue_auroc"), undefined),
            f"AUPRC {issue['auprc']} · F1 {issue['f1']}",
            f"precision {issue['precision']} · recall {issue['recall']}",
            f"AUROC of the margin alone {decimal(value('margin_auroc'), '')}",
        ),
        tile(
            "Throughput",
            unknown("not measured") if speed is None else f"{speed:,.0f} <small>images/s</small>",
            seconds,
        ),
    )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _curves(figures: str) -> str:
    return f"""<h2>Training</h2>
<p>Reading: on the given labels, a network that learns only the truth stays at 1 − noise rate (dotted, where the rate is
known); training accuracy above that, while test accuracy falls, is the network memorising the wrong labels.</p>
{figures}"""


def _detection(run: Run, figures: str) -> str:
    heading = "<h2>Finding the wrong labels</h2>"
    if run.wrong is None:
        return f"{heading}<p>{unknown(NO_TRUTH + ', so no ranking can be graded')}</p>"
    wrong = int(run.wrong.sum())
    if wrong in (0, len(run.ids)):
        reason = f"{wrong:,} of {len(run.ids):,} labels are wrong, so no ranking can be graded"
        return f"{heading}<p>{unknown(reason)}</p>"
    from sklearn.metrics import average_precision_score, roc_auc_score

    rows = []
    for name, ranking in run.rankings.items():
        found = run.wrong[np.argsort(-ranking, kind="stable")[:wrong]].mean()
        numbers = (
            roc_auc_score(run.wrong, ranking),
            average_precision_score(run.wrong, ranking),
            found,
        )
        rows.append([escape(name), *(f"{number:.3f}" for number in numbers), f"{1 - found:.3f}"])
    caught = run.flagged & run.wrong
    right = float(np.mean(run.suggested[caught] == run.truth[caught])) if caught.any() else None
    header = ("ranking by", "AUROC", "AUPRC", "precision at n", "missed at n")
    return f"""{heading}
<p>{wrong:,} labels are truly wrong (n). Of the wrong labels that were flagged,
{percent(right, "none was flagged", 1)} got the right suggestion.</p>
{table(header, rows)}
<p></p>
{figures}"""


def _scores(run: Run, figures: str) -> str:
    text = "The noise score is 1 − label_quality; rows at or beyond the threshold are flagged."
    if run.u_squared is None:
        text += f" u²: {unknown('this method has no u')}."
    else:
        text += (
            f" u² is SOP's own per-row noise variable: near 0 where the label is believed, 1 where it is cancelled."
            f" {percent(np.mean(run.u_squared >= 1))} of the rows have u² at or beyond its bound of 1;"
            f" any |u| or |v| at or beyond it: {percent(run.value('rows_at_bound'), 'not recorded')}."
        )
    return f"<h2>Scores</h2><p>{text}</p>{figures}"


def _confusion(run: Run, figures: str) -> str:
    counts = plots.count_pairs(run.given, run.corrected, len(run.class_names))
    np.fill_diagonal(counts, 0)
    largest = [
        np.unravel_index(i, counts.shape)
        for i in np.argsort(-counts, axis=None, kind="stable")[:10]
    ]
    names = [escape(name) for name in run.class_names]
    rows = [(names[g], names[s], f"{counts[g, s]:,}") for g, s in largest if counts[g, s]]
    frequent = (
        table(("given", "suggested", "rows"), rows, text_columns=2)
        if rows
        else unknown("no row is flagged")
    )
    return f"""<h2>Which classes are confused</h2>
<p>Corrected label: the suggestion where flagged, the given label elsewhere; every row off the diagonal is flagged.
The transition is the share of given labels within each corrected{" (or true)" if run.truth is not None else ""} class;
cells below 0.005 are blank.</p>
{figures}
<h3>Most frequent corrections</h3>
{frequent}"""


def _classes(run: Run) -> str:
    accuracy = run.summary.get("test_accuracy_per_class")
    if not isinstance(accuracy, list) or len(accuracy) != len(run.class_names):
        accuracy = [None] * len(run.class_names)
    rows = []
    for k, name in enumerate(run.class_names):
        own = run.given == k
        total, flagged = int(own.sum()), int((own & run.flagged).sum())
        row = [
            escape(name),
            f"{total:,}",
            f"{flagged:,}",
            "–" if not total else f"{100 * flagged / total:.1f} %",
        ]
        row.append("–" if accuracy[k] is None else f"{100 * float(accuracy[k]):.1f} %")
        if run.wrong is not None:
            wrong, caught = int((own & run.wrong).sum()), int((own & run.wrong & run.flagged).sum())
            shares = (f"{caught / total:.3f}" if total else "–" for total in (flagged, wrong))
            row += [f"{wrong:,}", *shares]
        rows.append((flagged / max(total, 1), row))
    header = ["class", "rows", "flagged", "share flagged", "test accuracy"]
    header += [] if run.wrong is None else ["truly wrong", "precision", "recall"]
    ordered = [row for _, row in sorted(rows, key=lambda item: -item[0])]
    return f"""<h2>Classes</h2>
<p>Rows by their given label, the class with the largest flagged share first; – where a class has no such row.</p>
{table(header, ordered)}"""


def _gallery(run: Run) -> str:
    cells = []
    for row, image in zip(run.gallery_rows, run.gallery_images, strict=True):
        name = {
            k: escape(run.class_names[labels[row]])
            for k, labels in (("given", run.given), ("to", run.suggested))
        }
        lines = [
            f"<b>{escape(run.ids[row])}</b>",
            f"{name['given']} → {name['to']}",
            f"quality {run.quality[row]:.3f}",
        ]
        if run.wrong is not None:
            truth = escape(run.class_names[run.truth[row]])
            verdict = f"✗ truly wrong: {truth}" if run.wrong[row] else "✓ given label is right"
            lines.append(f'<span class="{"wrong" if run.wrong[row] else "right"}">{verdict}</span>')
        source = data_uri(_thumbnail(image))
        size = ' class="small"' if max(image.shape) <= THUMBNAIL else ""
        picture = f'<img{size} src="{source}" alt="row {escape(run.ids[row])}">'
        cells.append(f"<figure>{picture}{'<br>'.join(lines)}</figure>")
    wall = (
        f'<div class="wall">{"".join(cells)}</div>'
        if cells
        else f"<p>{unknown('the run kept no image')}</p>"
    )
    return f"<h2>The worst labels</h2><p>Id, given → suggested label, label quality; worst first.</p>{wall}"


def _thumbnail(image: np.ndarray) -> bytes:
    """Returns [H,W,1 or 3] uint8 as a PNG of at most THUMBNAIL pixels a side."""
    from PIL import Image

    picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    packed = io.BytesIO()
    picture.save(packed, "PNG", optimize=True)
    return packed.getvalue()


def _configuration(run: Run) -> str:
    config = [
        (f"<code>{escape(k)}</code>", escape(_text(v))) for k, v in flatten(run.config).items()
    ]
    environment = [
        (f"<code>{escape(k)}</code>", escape(_text(v))) for k, v in flatten(run.environment).items()
    ]
    found = [
        (name, text)
        for name, text in ARTEFACTS.items()
        if (run.workdir / name).exists() or name == "plots"
    ]
    files = [(f"<code>{escape(name)}</code>", escape(text)) for name, text in found]
    return f"""<h2>How it was made</h2>
<div class="columns">
<div><h3>Configuration</h3>{table(("field", "value"), config, 2)}</div>
<div><h3>Run</h3>{table(("field", "value"), environment, 2)}
<h3>Files beside this page</h3>{table(("file", "content"), files, 2)}</div>
</div>"""


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


if __name__ == "__main__":
    sys.exit(main())
