"""The page: what it says, that it needs nothing from outside, clear errors for damaged folders."""

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from fake_run import write_run
from PIL import Image
from sklearn.metrics import roc_auc_score

from sop_jax import report
from sop_jax.errors import UserError
from sop_jax.heat_maps import count_pairs
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
        assert f"{name} {own.sum()} {(own & flagged).sum()} {share:.1f} % {accuracy:.1f} %" in text
    run = read_run(workdir)
    strength = run.diagnostics["strength"]
    numbers = f"{strength.min():.4g} {np.median(strength):.4g} {strength.max():.4g}"
    assert f"strength {numbers} {100 / len(strength):.2f} % 0" in text
    area = roc_auc_score(run.wrong, strength)
    assert f"strength alone {area:.3f}" in text
    assert text.count("✗ truly wrong") == wrong[order[:100]].sum()
    assert text.count("✓ given label is right") == 100 - wrong[order[:100]].sum()
    assert text.index(f"quality {run.quality[0]:.3f}") < text.index(
        f"quality {run.quality[99]:.3f}"
    )


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
        "Noise rate, estimated – (this method estimates none) actual – (true labels unknown)",
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


def test_dark_and_light_figures_differ(known):
    page = Page(known[2])
    dark = page.all("source", "srcset")
    assert len(dark) == 11
    assert page.all("source", "media") == ["(prefers-color-scheme: dark)"] * 11
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
    """One from before diagnostics had names of their own, with numbers that nobody reads now."""
    write_run(tmp_path, count=20)
    path = tmp_path / "predictions.npz"
    arrays = _arrays(path)
    np.savez(path, u_squared=arrays.pop("diagnostic_strength"), **arrays)
    _edit_json(tmp_path / "summary.json", rows_at_bound=0.1)
    text = Page(report.write_report(tmp_path).read_text(encoding="utf-8")).text
    assert "this method keeps none" in text
    assert "sessions" not in text and "in all 14 s · compiling 3 s" in text


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
