"""The page: what it says, that it needs nothing from outside, clear errors for damaged folders."""

import csv
import html as markup
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from fake_run import make_old, write_run
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import roc_auc_score

from sop_jax import panels, plots, report
from sop_jax.errors import UserError
from sop_jax.heat_maps import count_pairs
from sop_jax.palette import LIGHT
from sop_jax.run_folder import number, read_run

VOID = {"meta", "img", "br", "source", "link", "hr"}
NAMES = ("<b>cat", "dog & co", "a$b", "$x^$", 'quote"d', "truck 卡车", "g", "=1+1", "'-i", "'j")


class Page(HTMLParser):
    """Collects the text, the attributes and any tag that is not closed in order."""

    def __init__(self, html):
        super().__init__()
        self.open, self.unbalanced, self.attributes, self.words = [], [], [], []
        self.feed(html)
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, key, value) for key, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    def all(self, tag, key):
        return [value for found, name, value in self.attributes if (found, name) == (tag, key)]


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """A run with a noise model and known truth, 10 classes with awkward names, grey images."""
    workdir = tmp_path_factory.mktemp("known")
    facts = write_run(workdir, names=NAMES)
    path = report.write_report(workdir)
    return workdir, facts, path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def blind(tmp_path_factory):
    """No noise model, no truth, 100 classes, colour images larger than a thumbnail."""
    workdir = tmp_path_factory.mktemp("blind")
    facts = write_run(workdir, num_classes=100, channels=3, size=96, known=False, noise_model=False)
    path = report.write_report(workdir)
    return workdir, facts, path.read_text(encoding="utf-8")


@pytest.mark.parametrize("which", ["known", "blind"])
def test_page_is_balanced_small_and_self_contained(which, request):
    workdir, _, html = request.getfixturevalue(which)
    page = Page(html)
    assert page.unbalanced == []
    assert page.open == []
    sources = [value for _, key, value in page.attributes if key in ("src", "srcset", "href")]
    assert len(sources) > 100
    assert all(value.startswith("data:image/png;base64,") for value in sources)
    assert "<script" not in html
    assert "url(" not in html
    assert page.all("meta", "content")[0].startswith("default-src 'none'")
    assert (workdir / "report.html").stat().st_size < 3e6


def test_headline_numbers_are_those_of_the_summary(known):
    _, facts, html = known
    text, summary = Page(html).text, facts["summary"]
    before, after = (100 * summary[f"label_accuracy_{when}"] for when in ("before", "after"))
    for expected in (
        "97.41 %",
        "best 98.23 % at epoch 9; diagnostic: chosen on the test set",
        "39.12 %",
        f"actual {100 * summary['noise_rate_actual']:.2f} %",
        "0.988",
        "AUPRC 0.965",
        f"F1 {summary['label_issue_f1']:.3f}",
        "AUROC of the margin alone 0.932",
        f"{before:.1f} % → {after:.1f} %",
        f"{facts['flagged'].sum():,}",
        "12,346",
        "2026-08-01 10:20",
        "noise: symmetric_exclusive 0.4",
    ):
        assert expected in text, expected


def test_numbers_drawn_from_the_rows(known):
    workdir, facts, html = known
    text = Page(html).text
    label, flagged, order = facts["label"], facts["flagged"], facts["order"]
    wrong = label != facts["true_label"]
    assert f"{wrong.sum()} labels are truly wrong" in text
    for k, name in ((1, "dog & co"), (6, "g")):
        own = label == k
        share = 100 * (own & flagged).sum() / own.sum()
        accuracy = 100 * facts["summary"]["test_accuracy_per_class"][k]
        expected = 100 * facts["summary"]["noise_rate_per_class"][k]
        assert abs(expected - share) > 0.05  # so that one cannot stand for the other
        line = f"{name} {own.sum()} {expected:.1f} % {(own & flagged).sum()} {share:.1f} %"
        assert f"{line} {accuracy:.1f} %" in text
    run = read_run(workdir)
    strength = run.diagnostics["strength"]
    numbers = f"{strength.min():.4g} {np.median(strength):.4g} {strength.max():.4g}"
    assert f"strength {numbers} {100 / len(strength):.2f} % 0" in text
    area = roc_auc_score(run.wrong, strength)
    assert f"strength alone {area:.3f}" in text
    assert text.count("✗ truly wrong") == wrong[order[:100]].sum()
    assert text.count("✓ given label is right") == 100 - wrong[order[:100]].sum()
    assert text.index("right with < 0.1 %") < text.index(
        f"right with {100 * run.quality[99]:.1f} %"
    )
    assert text.count("right with < 0.1 %") == (run.quality[:100] < 0.001).sum() > 3


def test_names_are_escaped(known):
    _, facts, html = known
    assert "<b>cat" not in html
    assert "&lt;b&gt;cat" in html
    assert "dog & co" in Page(html).text
    assert "symmetric_exclusive" in Page(html).text


def test_gallery_holds_every_image_at_its_own_size(known, blind):
    pixelated = Page(known[2]).all("img", "class")
    assert pixelated == ["small"] * 100
    # 96 pixels are scaled down to a thumbnail, so no blocks to keep
    assert Page(blind[2]).all("img", "class") == []
    assert len([alt for alt in Page(blind[2]).all("img", "alt") if alt.startswith("row ")]) == 100


def test_what_cannot_be_known_is_a_dash_with_its_reason(blind):
    text = Page(blind[2]).text
    for expected in (
        "neighbours 36.4 % actual – (true labels unknown)",
        "Label accuracy, before → after – (true labels unknown)",
        "Label-issue AUROC – (true labels unknown) AUPRC – · F1 –",
        "at the best validation epoch – (no validation split)",
        "true labels unknown, so no ranking can be graded",
        "this method keeps none",
    ):
        assert expected in text, expected
    for invented in ("truly wrong", "nan", "None", "Infinity"):
        assert invented not in text, invented


def test_configuration_environment_and_files_are_listed(known):
    text = Page(known[2]).text
    for expected in (
        "optimizer.learning_rate 0.02",
        "data.dir null",
        "versions.jax 0.10.2",
        'devices ["cpu:0"]',
        "python -m sop_jax.main --config=configs/digits_sop.py",
        "label_issues.csv every training example",
        "gallery.npz",
    ):
        assert expected in text, expected
    assert "checkpoints the trained network" not in text  # the fake run left none


@pytest.mark.parametrize("which, expected", [("known", 5), ("blind", 4)])
def test_plots_open(which, expected, request):
    folder = request.getfixturevalue(which)[0] / "plots"
    names = sorted(path.stem for path in folder.glob("*.png"))
    assert names == sorted(
        {"curves", "scores", "confusion", "gallery"} | ({"detection"} if expected == 5 else set())
    )
    for path in folder.glob("*.png"):
        image = Image.open(path)
        image.load()
        assert image.width >= 700
        assert image.height >= 500
        assert len(image.convert("L").getcolors()) > 5, f"{path} is blank"


def test_the_ranking_by_epoch_is_that_of_the_margin(known):
    run, titles = read_run(known[0]), Page(known[2]).all("img", "alt")
    assert "AUROC of the margin by epoch" in titles and "Label-issue AUROC by epoch" not in titles
    axes = Figure().subplots()
    (panel,) = [panel for panel in plots._detection(run) if "by epoch" in panel.title]
    panel.draw(axes, LIGHT)
    drawn = [record["margin_auroc"] for record in run.epochs]
    assert axes.lines[0].get_ydata().tolist() == drawn


def test_dark_and_light_figures_differ(known):
    page = Page(known[2])
    dark = page.all("source", "srcset")
    assert len(dark) == 12
    assert page.all("source", "media") == ["(prefers-color-scheme: dark)"] * 12
    assert not set(dark) & set(page.all("img", "src"))


def test_count_pairs_by_hand():
    counts = count_pairs(np.array([0, 0, 2, 0]), np.array([1, 1, 2, 0]), 3)
    assert counts.tolist() == [[1, 2, 0], [0, 0, 0], [0, 0, 1]]


def test_rows_follow_the_list_whatever_the_order_of_the_arrays(known, tmp_path):
    workdir, facts, _ = known
    run = read_run(workdir)
    assert run.label.tolist() == facts["label"][facts["order"]].tolist()
    assert run.true_label.tolist() == facts["true_label"][facts["order"]].tolist()
    assert np.allclose(run.score, 1 - run.quality, atol=1e-5)
    shutil.copytree(workdir, tmp_path / "turned")
    with np.load(workdir / "predictions.npz") as file:
        turned = {
            key: file[key] if key.startswith("test") else file[key][::-1] for key in file.files
        }
    np.savez(tmp_path / "turned" / "predictions.npz", **turned)
    again = read_run(tmp_path / "turned")
    assert np.array_equal(again.margin, run.margin)
    assert np.array_equal(again.diagnostics["strength"], run.diagnostics["strength"])


def test_every_label_right_has_no_detection_curves(tmp_path):
    write_run(tmp_path, count=20, epochs=1)
    arrays = _arrays(tmp_path / "labels.npz")
    np.savez(tmp_path / "labels.npz", **{**arrays, "true_label": arrays["given_label"]})
    text = Page(report.write_report(tmp_path).read_text(encoding="utf-8")).text
    assert "0 of 20 labels are wrong, so no ranking can be graded" in text
    assert not (tmp_path / "plots" / "detection.png").exists()


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-40])


def _drop_class(path):
    summary = json.loads(path.read_text())
    path.write_text(json.dumps(summary | {"class_names": summary["class_names"][:-1]}))


def _pickle(path):
    np.savez(path, id=np.array([{}], dtype=object), image=np.zeros((1, 2, 2, 1), np.uint8))


def _nan_score(path):
    arrays = _arrays(path)
    arrays["noise_score"][3] = np.nan
    np.savez(path, **arrays)


DAMAGE = [
    ("summary.json", lambda path: path.unlink(), "has not finished"),
    ("gallery.npz", lambda path: path.unlink(), "no such file"),
    ("config.json", lambda path: path.write_text("[1]"), "not a JSON object"),
    ("run.json", _truncate, "damaged"),
    ("metrics.jsonl", _truncate, "epoch record 12"),
    (
        "metrics.jsonl",
        lambda path: path.write_text('{"epoch": "one"}'),
        "epoch is 'one', wanted a number",
    ),
    ("metrics.jsonl", lambda path: path.write_text(""), "no epoch in it"),
    ("label_issues.csv", _truncate, "damaged"),
    ("label_issues.csv", lambda path: path.write_text("id,label\n1,2\n"), "line 1"),
    ("summary.json", _drop_class, "class 9"),
    ("summary.json", lambda path: _edit_json(path, transition_matrix=[[1.0]]), "is not 10 x 10"),
    (
        "summary.json",
        lambda path: _edit_json(path, noise_rate_per_class=["many"] * 10),
        "noise_rate_per_class is not 10 numbers",
    ),
    (
        "summary.json",
        lambda path: _edit_json(path, noise_rate_estimates={"neighbours": "many"}),
        "neighbours is 'many', wanted a number",
    ),
    ("label_issues.csv", lambda path: _edit_list(path, apply_suggestion="perhaps"), "perhaps"),
    ("label_issues.csv", lambda path: _edit_list(path, apply_suggestion=None), "line 1"),
    ("labels.npz", _truncate, "damaged"),
    ("predictions.npz", lambda path: np.savez(path, train_id=np.arange(3)), "noise_score"),
    ("predictions.npz", _nan_score, "finite"),
    ("predictions.npz", lambda path: path.write_bytes(b""), "damaged"),
    ("gallery.npz", _pickle, "allow_pickle"),
    (
        "gallery.npz",
        lambda path: np.savez(path, id=[1], image=np.zeros((1, 2, 2, 1), np.uint8)),
        "id '1'",
    ),
    (
        "gallery.npz",
        lambda path: np.savez(path, id=[1000], image=np.zeros((1, 2, 2))),
        "wanted uint8",
    ),
]


@pytest.mark.parametrize("file, harm, message", DAMAGE)
def test_damage_is_one_clear_line_and_keeps_the_old_page(file, harm, message, tmp_path, capsys):
    write_run(tmp_path)
    (tmp_path / "report.html").write_text("old")
    harm(tmp_path / file)
    assert report.main([f"--workdir={tmp_path}"]) != 0
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert (tmp_path / "report.html").read_text() == "old"


def test_shell_command_on_a_missing_folder(tmp_path):
    command = [sys.executable, "-m", "sop_jax.report", f"--workdir={tmp_path / 'nowhere'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stderr.startswith("error: ")
    assert "nowhere: no such folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_unwritable_place_is_a_user_error(known, tmp_path):
    shutil.copytree(known[0], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "plots")
    (tmp_path / "run" / "plots").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="cannot be written"):
        report.write_report(tmp_path / "run")


def test_number(tmp_path):
    assert number({"x": 2}, "x", tmp_path) == 2.0
    assert number({"x": float("nan")}, "x", tmp_path) is None
    assert number({}, "x", tmp_path) is None
    for bad in ("1", True, [1]):
        with pytest.raises(UserError, match="wanted a number"):
            number({"x": bad}, "x", tmp_path)


def _arrays(path):
    with np.load(path) as file:
        return {key: file[key] for key in file.files}


def _edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _edit_list(path, **changes):
    """Gives columns of label_issues.csv one value in every line, or drops them for None."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row | changes for row in csv.DictReader(file)]
    columns = [name for name, value in rows[0].items() if value is not None]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def _text(workdir):
    return Page(report.write_report(workdir).read_text(encoding="utf-8")).text


def test_every_diagnostic_is_drawn_and_ranked_whatever_its_name(tmp_path):
    facts = write_run(tmp_path, names=NAMES)
    path = tmp_path / "predictions.npz"
    arrays = _arrays(path)
    gaps = arrays["diagnostic_strength"].copy()
    gaps[:3] = np.nan
    wrong = facts["label"] != facts["true_label"]
    more = {
        "diagnostic_<i>w": wrong + np.float32(0.5),
        "diagnostic_gaps": gaps,
        "diagnostic_void": np.full(len(gaps), np.inf),
        "diagnostic_same": np.zeros(len(gaps), np.int32),
    }
    np.savez(path, **arrays, **more)
    text = Page(html := report.write_report(tmp_path).read_text(encoding="utf-8")).text
    assert "<i>w alone 1.000 1.000 1.000 0.000" in text
    assert "<i>" not in html
    assert "gaps alone" not in text and "void alone" not in text  # not finite: they rank nothing
    assert f"{np.nanmax(gaps):.4g} {100 / len(gaps):.2f} % 3" in text
    assert "void – – – – 300" in text
    assert "same 0 0 0 100.00 % 0" in text
    titles = Page(html).all("img", "alt")
    assert [name for name in titles if name in ("<i>w", "gaps", "same", "strength", "void")] == [
        "<i>w",
        "gaps",
        "same",
        "strength",
    ]


def test_an_old_folder_still_makes_a_page(tmp_path):
    """One from before suggestions were graded, and before diagnostics had names of their own."""
    facts = write_run(tmp_path)
    make_old(tmp_path)
    path = tmp_path / "predictions.npz"
    arrays = _arrays(path)
    np.savez(path, u_squared=arrays.pop("diagnostic_strength"), **arrays)
    _edit_json(tmp_path / "summary.json", rows_at_bound=0.1)
    text = Page(report.write_report(tmp_path).read_text(encoding="utf-8")).text
    assert "this method keeps none" in text
    assert "sessions" not in text and "in all 14 s · compiling 3 s" in text
    flagged = facts["flagged"].sum()
    assert f"About 39.1 % of the labels look wrong : {flagged} are flagged. Test accuracy" in text
    assert "after taking every suggestion for a flagged label" in text
    assert "Estimated transition" not in text and "Reliability" not in text
    titles = Page((tmp_path / "report.html").read_text(encoding="utf-8")).all("img", "alt")
    assert "Label-issue AUROC by epoch" in titles
    assert "right with" not in text and f"quality {facts['quality'].min():.3f}" in text
    run = read_run(tmp_path)
    assert not run.calibrated and not run.apply.any() and np.isnan(run.suggestion_confidence).all()
    assert run.label_after.tolist() == run.label.tolist()
    _edit_json(tmp_path / "summary.json", noise_rate_estimated=None)
    text = Page(report.write_report(tmp_path).read_text(encoding="utf-8")).text
    assert f"{flagged} of 300 labels are flagged. Test accuracy" in text
    assert "Noise rate, estimated – (not estimated)" in text


def test_a_resumed_run_counts_its_sessions_and_keeps_its_start(tmp_path):
    write_run(tmp_path, count=20)
    sessions = [
        {"started": "2026-08-01T10:20:30", "seconds": 3000.4},
        {"started": "2026-08-01T12:00:00", "seconds": 477.0},
    ]
    _edit_json(tmp_path / "run.json", sessions=sessions, seconds=3477.4)
    _edit_json(tmp_path / "summary.json", wall_seconds=3477.4)
    text = Page(report.write_report(tmp_path).read_text(encoding="utf-8")).text
    assert "in all 3,477 s in 2 sessions" in text
    assert "2026-08-01 10:20 · 20 training rows" in text
    assert "2026-08-01 10:20 3,000 2026-08-01 12:00 477" in text


def test_links_are_replaced_and_not_written_through(tmp_path):
    write_run(tmp_path / "run", count=20)
    (tmp_path / "run" / "plots").mkdir()
    for link, name in (("report.html", "mine.html"), ("plots/curves.png", "mine.png")):
        (tmp_path / name).write_text("mine")
        (tmp_path / "run" / link).symlink_to(tmp_path / name)
    report.write_report(tmp_path / "run")
    for link, name in (("report.html", "mine.html"), ("plots/curves.png", "mine.png")):
        assert (tmp_path / name).read_text() == "mine"
        assert not (tmp_path / "run" / link).is_symlink()
        assert (tmp_path / "run" / link).stat().st_size > 1000


def test_nesting_without_end_is_one_line(tmp_path, capsys):
    write_run(tmp_path)
    for depth in (10_000, 500):
        for opening, closing in (('{"a":', "}"), ("[", "]")):
            deep = opening * depth + "1" + closing * depth
            for file in ("summary.json", "config.json", "run.json", "metrics.jsonl"):
                before = (tmp_path / file).read_text()
                (tmp_path / file).write_text(f'{{"seed": {deep}}}')
                assert report.main([f"--workdir={tmp_path}"]) == 2
                error = capsys.readouterr().err
                assert error.startswith("error: ") and error.count("\n") == 1
                assert file in error
                (tmp_path / file).write_text(before)


def test_names_longer_than_a_csv_cell_may_be(tmp_path):
    names = ["n" * 140_000, *(f"class {k}" for k in range(9))]
    write_run(tmp_path, count=20, names=names)
    page = report.write_report(tmp_path)
    assert page.stat().st_size < 3e6
    assert read_run(tmp_path).class_names == tuple(names)


def test_a_page_in_an_ascii_locale(tmp_path):
    write_run(tmp_path, count=20, names=NAMES)
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "sop_jax.report", f"--workdir={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "truck 卡车" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_verdict_is_read_row_by_row(known):
    workdir, facts, _ = known
    run, order = read_run(workdir), facts["order"]
    assert run.calibrated
    assert run.apply.tolist() == facts["apply"][order].tolist()
    assert np.allclose(run.suggestion_confidence, facts["confidence"][order], atol=1e-7)
    assert 0 < run.apply.sum() < run.flagged.sum()
    after = np.where(run.apply, run.suggested_label, run.label)
    assert run.label_after.tolist() == after.tolist()
    assert np.mean(run.label_after == run.true_label) == pytest.approx(
        facts["summary"]["label_accuracy_after"]
    )


def test_the_verdict_stands_first_in_words(known):
    _, facts, html = known
    flagged, applied = facts["flagged"].sum(), facts["apply"].sum()
    verdict = (
        f"About 39.1 % of the labels look wrong (between 35.2 and 42.3 %): {flagged} are flagged, "
        f"of which {applied} have a suggestion safe enough to take unseen."
    )
    differ = "estimated in 2 ways that differ: held-out networks 39.1 %, neighbours 36.4 %."
    text = Page(html).text
    assert text.index(verdict) < text.index(differ) < text.index("Test accuracy, last epoch")
    assert "Warning" not in text
    for expected in (
        "between 35.23 % and 42.34 % held-out networks 39.1 % · neighbours 36.4 %",
        f"Flagged labels {flagged} {100 * flagged / 300:.2f} % of 300 training rows {applied} with",
        "after taking every suggestion marked apply_suggestion",
        "calibration error of the quality 0.012",
        f"Of the {applied} suggestions marked apply_suggestion,",
    ):
        assert expected in text, expected
    right = (facts["suggested_label"] == facts["true_label"])[facts["apply"]].mean()
    assert f"suggestions marked apply_suggestion, {100 * right:.1f} % are right" in text


def test_nothing_wrong_is_said_where_nothing_is_flagged(tmp_path):
    write_run(tmp_path)
    _edit_list(tmp_path / "label_issues.csv", is_label_issue="False", apply_suggestion="False")
    rates = {"noise_rate_estimated": 0.0042, "noise_rate_low": 0.0, "noise_rate_high": 0.0123}
    same = {"held-out networks": 0.0042, "neighbours": 0.00421}
    _edit_json(tmp_path / "summary.json", noise_rate_estimates=same, **rates)
    text = _text(tmp_path)
    assert (
        "Nothing wrong found: none of the 300 labels is more likely wrong than right. "
        "The estimated share of wrong labels is 0.42 % (between 0.00 and 1.23 %)."
    ) in text
    assert "ways that differ" not in text  # nor do they, as they are written
    assert "look wrong" not in text and "suggestions marked apply_suggestion," not in text


def test_no_suggestion_that_is_safe_is_said(tmp_path):
    write_run(tmp_path, count=40)
    path = tmp_path / "label_issues.csv"
    _edit_list(path, apply_suggestion="False")
    assert "are flagged, none with a suggestion safe enough to take unseen." in _text(tmp_path)
    _edit_list(path, is_label_issue="False")
    lines = path.read_text().splitlines()
    for flags, words in (
        ("True,{},False", "1 is flagged, none with a suggestion safe"),
        ("True,{},True", "1 is flagged, with a suggestion safe enough to take unseen."),
    ):
        first = lines[1].split(",")
        first[4:7] = flags.format(first[5]).split(",")
        path.write_text("\n".join([lines[0], ",".join(first), *lines[2:]]) + "\n")
        assert words in _text(tmp_path)


def test_every_warning_is_a_line_of_its_own(tmp_path):
    write_run(tmp_path, count=40, warnings=("Class <3> looks odd.", "Look at the top."))
    html = report.write_report(tmp_path).read_text(encoding="utf-8")
    assert Page(html).all("p", "class").count("warning") == 2
    assert (
        "Warning: Class <3> looks odd. Warning: Look at the top. Test accuracy" in Page(html).text
    )


def test_doubtful_test_labels_are_no_accuracy(known, blind):
    doubtful, sure = Page(blind[2]).text, Page(known[2]).text
    assert "Agreement with the given test labels, last epoch 97.41 %" in doubtful
    assert (
        "these labels may be wrong too" in doubtful and "share flagged test agreement" in doubtful
    )
    assert "Test accuracy, last epoch" not in doubtful
    assert "may be wrong too" not in sure and "share flagged test accuracy" in sure
    for workdir, label in ((blind[0], "test, given labels"), (known[0], "test")):
        axes = Figure().subplots()
        panels.draw_accuracy(axes, LIGHT, read_run(workdir))
        assert axes.get_legend().get_texts()[0].get_text() == label


def test_the_gallery_says_what_to_do_with_each_label(known):
    workdir, _, html = known
    run = read_run(workdir)
    words = np.where(run.apply, "safe to take", "look by hand")[:100]
    assert run.flagged[:100].all()
    wall = Page(html.split('<div class="wall">')[1].split("<h2>")[0]).text
    assert re.findall("safe to take|look by hand|not flagged", wall) == words.tolist()
    sure = f"{100 * run.suggestion_confidence[0]:.1f} %"
    names = [run.class_names[k] for k in (run.label[0], run.suggested_label[0])]
    assert f"{names[0]} → {names[1]} ({sure}) right with < 0.1 %" in wall


def test_rows_that_are_not_flagged_say_so(tmp_path):
    facts = write_run(tmp_path, count=20)
    wall = _text(tmp_path)
    assert wall.count(" not flagged") == 20 - facts["flagged"].sum() > 0


@pytest.mark.parametrize(
    "probability, text",
    [
        (0.0, "0.0 %"),
        (3e-9, "< 0.1 %"),
        (0.003, "0.3 %"),
        (0.5, "50.0 %"),
        (0.99951, "> 99.9 %"),
        (1.0, "100.0 %"),
    ],
)
def test_a_chance_is_never_rounded_to_certainty(probability, text):
    assert plots.chance(probability).replace("\N{NO-BREAK SPACE}", " ") == text


def test_reliability_by_hand(known):
    quality = np.array([0.0, 0.08, 0.31, 0.33, 0.38, 1.0])
    right = np.array([False, True, True, False, False, True])
    means, shares, counts = panels.reliability(quality, right)
    np.testing.assert_allclose(means, [0.04, 0.34, 1.0])
    np.testing.assert_allclose(shares, [0.5, 1 / 3, 1.0])
    assert counts.tolist() == [2, 3, 1]

    run, axes = read_run(known[0]), Figure().subplots()
    panels.draw_reliability(axes, LIGHT, run)
    edges, error = np.linspace(0, 1, 11), 0.0
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        part = (run.quality >= low) & (run.quality < high)
        if part.any():
            gap = run.quality[part].mean() - (~run.wrong[part]).mean()
            error += part.mean() * abs(gap)
    assert f"(ECE) {error:.3f}" in axes.get_legend().get_texts()[0].get_text()
    assert sum(int(text.get_text()) for text in axes.texts) == 300
    assert "Reliability of the quality" in Page(known[2]).all("img", "alt")


def test_the_threshold_of_a_calibrated_quality_is_one_half(known, tmp_path):
    write_run(tmp_path)
    make_old(tmp_path)
    old = read_run(tmp_path)
    for run, threshold in ((read_run(known[0]), 0.5), (old, old.quality[old.flagged].max())):
        axes = Figure().subplots()
        panels.draw_quality(axes, LIGHT, run)
        assert axes.lines[0].get_xdata()[0] == threshold


def test_transitions_are_the_summary_s_and_the_counted_one(known, blind):
    workdir, facts, html = known
    matrices = []
    for panel in plots._confusion(read_run(workdir))[1:]:
        axes = Figure().subplots()
        panel.draw(axes, LIGHT)
        matrices.append(np.nan_to_num(axes.images[0].get_array().filled(0)))
    true_label, label = facts["true_label"], facts["label"]
    actual = np.array(
        [[np.mean(label[true_label == r] == c) for c in range(10)] for r in range(10)]
    )
    for matrix, expected in zip(
        matrices, (np.array(facts["summary"]["transition_matrix"]), actual), strict=True
    ):
        np.testing.assert_allclose(matrix, np.where(expected >= 0.005, expected, 0))
    assert not np.allclose(*matrices, atol=0.01)
    titles = Page(blind[2]).all("img", "alt")
    assert "Estimated transition" in titles and "Actual transition" not in titles


def test_the_code_of_the_page_takes_what_is_safe(tmp_path, monkeypatch):
    pytest.importorskip("pandas")
    write_run(tmp_path)
    html = report.write_report(tmp_path).read_text(encoding="utf-8")
    code = markup.unescape(re.search("<pre><code>(.*?)</code></pre>", html, re.DOTALL)[1])
    monkeypatch.chdir(tmp_path)
    made = {}
    exec(code, made)
    run = read_run(tmp_path)
    assert made["rows"]["label"].tolist() == [run.class_names[k] for k in run.label_after]
    left = run.flagged & ~run.apply
    assert 0 < left.sum() == made["doubtful"].sum()
    assert made["clean"]["id"].tolist() == [run.ids[i] for i in np.flatnonzero(~left)]
