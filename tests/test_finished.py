"""The mark of a finished run notices every output that is not as the run wrote it."""

import pytest

from sop_jax import finished

OUTPUTS = ("list.csv", "plots")


@pytest.fixture
def run(tmp_path):
    (tmp_path / "plots").mkdir()
    for name in ("list.csv", "plots/a.png", "plots/b.png"):
        (tmp_path / name).write_text(f"content of {name}")
    finished.mark(tmp_path, OUTPUTS)
    return tmp_path


def test_a_whole_run(run):
    assert finished.damaged(run) == []
    (run / "list.csv.old").write_text("no output")
    assert finished.damaged(run) == []


DAMAGES = {
    "deleted": lambda path: path.unlink(),
    "cut": lambda path: path.write_text(path.read_text()[:-1]),
    "empty": lambda path: path.write_text(""),
    "of another run, of the same size": lambda path: path.write_text(path.read_text()[::-1]),
    "a folder in its place": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
@pytest.mark.parametrize("name", ["list.csv", "plots/b.png"])
def test_an_output_that_is_not_as_written(run, name, damage):
    damage(run / name)
    assert finished.damaged(run) == [name]


@pytest.mark.parametrize("content", [b"", b"{}", b'{"outputs": 3}', b'{"outputs": {"a": {}}}'])
def test_no_mark_and_a_damaged_one(run, content):
    (run / finished.NAME).write_bytes(content)
    assert finished.damaged(run) is None
    (run / finished.NAME).unlink()
    assert finished.damaged(run) is None


def test_reopening_keeps_what_may_have_been_edited(run, caplog):
    (run / "list.csv").write_text("corrected by hand")
    (run / "plots" / "a.png").write_text("x")
    (run / "plots" / "b.png").unlink()
    finished.reopen(run, finished.damaged(run))
    assert (run / "list.csv.old").read_text() == "corrected by hand"
    left = sorted(path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file())
    assert left == ["list.csv.old"]
    said = [record.message for record in caplog.records]
    assert len(said) == 3
    assert "list.csv is not as written; kept as list.csv.old" in said[0]
    assert "a.png is not as written" in said[1] and "b.png is missing" in said[2]


def test_an_output_made_anew_by_its_own_tool(run):
    (run / "list.csv").write_text("a newer page")
    finished.renew(run, ["list.csv"])
    assert finished.damaged(run) == []
    (run / finished.NAME).unlink()
    finished.renew(run, ["list.csv"])
    assert not (run / finished.NAME).exists()
