"""A finished run whose outputs are lost or damaged is mended by the same command, bit for bit."""

import json
import shutil

import pytest
from mending import assert_same_run, metrics, outputs
from test_loop import tiny

from sop_jax import finished
from sop_jax.errors import UserError
from sop_jax.lock import locked
from sop_jax.report import write_report
from sop_jax.tasks import classify

OUTPUTS = (
    "gallery.npz",
    "held_out.npz",
    "label_issues.csv",
    "labels.npz",
    "predictions.npz",
    "metrics.jsonl",
    "summary.json",
    "report.html",
    "run.json",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    classify.run(tiny(), workdir)
    return workdir


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


def delete(path):
    path.unlink()


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [delete, cut])
def test_all_outputs_at_once(whole, copy, damage, capsys):
    for name in OUTPUTS:
        damage(copy / name)
    shutil.rmtree(copy / "plots")
    classify.run(tiny(), copy)
    assert "resumed at step 18" in capsys.readouterr().out
    for path in copy.glob("*.old"):  # what was cut is kept
        path.unlink()
    assert_same_run(whole, copy)
    classify.run(tiny(), copy)
    assert "already finished" in capsys.readouterr().out


def test_a_run_that_ended_before_its_report(whole, copy, tmp_path):
    """Killed between its summary and its mark; the page is a link into somebody else's files."""
    (copy / "finished.json").unlink()
    (copy / "report.html").unlink()
    (tmp_path / "theirs.html").write_text("theirs")
    (copy / "report.html").symlink_to(tmp_path / "theirs.html")
    classify.run(tiny(), copy)
    assert (tmp_path / "theirs.html").read_text() == "theirs"
    assert not (copy / "report.html").is_symlink()
    assert_same_run(whole, copy)


def test_a_page_made_anew_by_its_own_command_is_no_damage(copy):
    (copy / "report.html").write_text("a page of another version")
    write_report(copy)
    assert finished.damaged(copy) == []


def test_without_checkpoints_whole_outputs_are_finished_and_damaged_ones_named(copy, capsys):
    shutil.rmtree(copy / "checkpoints")
    classify.run(tiny(), copy)
    assert "already finished" in capsys.readouterr().out
    (copy / "gallery.npz").unlink()
    with pytest.raises(UserError, match="gallery.npz is missing or damaged and the checkpoints"):
        classify.run(tiny(), copy)


def test_lost_metrics_do_not_stop_a_run_that_goes_on(tmp_path):
    constant = {"optimizer__schedule": "constant"}
    classify.run(tiny(epochs=1, **constant), tmp_path)
    first = metrics(tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    classify.run(tiny(epochs=2, **constant), tmp_path)
    assert metrics(tmp_path)[:1] == first and len(metrics(tmp_path)) == 2


def test_several_seeds_are_finished_when_all_of_them_are(tmp_path, capsys):
    config = tiny(epochs=1, num_seeds=2)
    classify.run(config, tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in outputs(tmp_path)}
    assert finished.damaged(tmp_path) == finished.damaged(tmp_path / "seed_1") == []
    assert len(json.loads(before["summary.json"])["runs"]) == 2
    classify.run(config, tmp_path)
    classify.run(tiny(epochs=1, seed=1), tmp_path / "seed_1")  # one of them is a run as any other
    assert capsys.readouterr().out.count("already finished") == 2
    (tmp_path / "seed_1" / "gallery.npz").unlink()
    (tmp_path / "summary.json").unlink()
    classify.run(config, tmp_path)
    assert outputs(tmp_path) == before.keys()
    for name in ("seed_0/finished.json", "seed_1/gallery.npz", "seed_1/label_issues.csv"):
        assert (tmp_path / name).read_bytes() == before[name]
    with locked(tmp_path / "seed_1"), pytest.raises(UserError, match="seed_1 is in use"):
        classify.run(config, tmp_path)
