"""Whose a folder is: another config, other labels, a finished run and one that must be mended."""

import json
from functools import partial

import numpy as np
import pytest
from fake_run import write_run

from sop_jax import finished
from sop_jax.claim import claim
from sop_jax.config import default
from sop_jax.errors import UserError
from sop_jax.settings import changed_fields

LABELS = "a" * 64


def claimed(path, sha256=LABELS, **fields):
    config = default()
    config.update(**fields)
    return claim(path, config, lambda saved: changed_fields(saved, config, config), sha256)


def everything(path):
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file()
    }


@pytest.fixture
def run(tmp_path):
    """A finished run: three outputs, a checkpoint and the mark."""
    assert claimed(tmp_path) is False
    np.savez(tmp_path / "labels.npz", sha256=np.array(LABELS))
    (tmp_path / "summary.json").write_text("{}")
    (tmp_path / "checkpoints" / "7").mkdir(parents=True)
    finished.mark(tmp_path, ["config.json", "labels.npz", "summary.json"])
    return tmp_path


def test_the_config_is_saved_and_another_refused_without_a_trace(tmp_path):
    assert claimed(tmp_path) is False
    before = everything(tmp_path)
    assert json.loads(before["config.json"])["seed"] == 0
    with pytest.raises(UserError, match="seed \\(was 0, now 1\\)"):
        claimed(tmp_path, seed=1)
    assert everything(tmp_path) == before
    assert claimed(tmp_path, eval_every=2) is False
    assert json.loads((tmp_path / "config.json").read_text())["eval_every"] == 2


def test_other_labels_are_refused(tmp_path):
    claimed(tmp_path)
    np.savez(tmp_path / "labels.npz", sha256=np.array(LABELS))
    before = everything(tmp_path)
    with pytest.raises(UserError, match="given labels are not those"):
        claimed(tmp_path, "b" * 64, eval_every=2)
    assert everything(tmp_path) == before
    assert claimed(tmp_path) is False
    # written anew by the run; the checkpoint decides
    (tmp_path / "labels.npz").write_bytes(before["labels.npz"][:20])
    assert claimed(tmp_path) is False


def test_a_finished_run_stays_as_it_is(run, caplog):
    before = everything(run)
    assert claimed(run, eval_every=3) is True
    assert everything(run) == before and not caplog.records


def test_without_its_mark_a_run_is_not_finished(run):
    (run / "finished.json").unlink()
    assert claimed(run) is False


@pytest.mark.parametrize("name", ["labels.npz", "summary.json"])
def test_a_finished_run_with_a_damaged_output_goes_on(run, name, caplog):
    (run / name).write_bytes(b"")
    assert claimed(run) is False
    assert name in caplog.text and not (run / "finished.json").exists()


def test_labels_of_another_run_in_a_finished_one_are_mended(run):
    np.savez(run / "labels.npz", sha256=np.array("b" * 64))
    assert claimed(run) is False
    assert (run / "labels.npz.old").exists()


def test_a_finished_run_without_checkpoints(run, caplog):
    (run / "checkpoints" / "7").rmdir()
    assert claimed(run) is True
    assert "holds no checkpoint any more" in caplog.text
    (run / "summary.json").unlink()
    before = everything(run)
    with pytest.raises(UserError, match="summary.json is missing or damaged and the checkpoints"):
        claimed(run)
    assert everything(run) == before


def test_a_longer_run_takes_the_mark_away(run):
    assert claim(run, longer(), lambda saved: [], LABELS) is False
    assert not (run / "finished.json").exists()
    assert json.loads((run / "config.json").read_text())["epochs"] == default().epochs + 1
    assert not list(run.glob("*.old"))


def longer():
    config = default()
    config.epochs += 1
    return config


@pytest.fixture
def old(tmp_path):
    """A run that ended before there were marks."""
    write_run(tmp_path, epochs=default().epochs)
    (tmp_path / "report.html").write_text("page")
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "curves.png").write_text("image")
    return tmp_path


same = partial(claim, config=default(), changed=lambda saved: [], labels_sha256=None)


def test_a_run_finished_before_there_were_marks(old):
    before = everything(old)
    assert same(old) is True
    assert everything(old) == before


@pytest.mark.parametrize(
    "name",
    ["report.html", "plots/curves.png", "gallery.npz", "label_issues.csv", "predictions.npz",
     "metrics.jsonl", "summary.json", "run.json"],
)  # fmt: skip
def test_an_old_run_that_lacks_an_output_goes_on(old, name):
    (old / name).unlink()
    assert same(old) is False


def test_a_run_with_sessions_and_no_mark_was_killed_at_its_outputs(old):
    facts = json.loads((old / "run.json").read_text())
    (old / "run.json").write_text(json.dumps(facts | {"sessions": [facts]}))
    assert same(old) is False
