"""What a run writes while it goes: run.json with its sessions, and metrics.jsonl."""

import json

import pytest

from sop_jax.config import default
from sop_jax.errors import UserError
from sop_jax.workdir import Session


def facts(path):
    return json.loads((path / "run.json").read_text())


def test_every_session_stands_in_run_json_and_their_seconds_add_up(tmp_path):
    first = Session(tmp_path, default())
    first.add({"epoch": 0})
    written = facts(tmp_path)
    assert written["seed"] == 0 and written["versions"]["jax"] and len(written["sessions"]) == 1
    sessions = written["sessions"]
    sessions[0] |= {"seconds": 3600.0, "started": "2026-01-01T00:00:00+00:00"}  # an hour, killed
    (tmp_path / "run.json").write_text(json.dumps(written))
    second = Session(tmp_path, default())
    assert facts(tmp_path)["sessions"][0] == sessions[0]
    seconds = second.note_time()
    assert 3600 < seconds < 3700
    written = facts(tmp_path)
    assert written["started"] == "2026-01-01T00:00:00+00:00" and written["seconds"] == seconds
    assert [session["command"] for session in written["sessions"]] == [written["command"]] * 2
    assert sum(session["seconds"] for session in written["sessions"]) == pytest.approx(
        seconds, 1e-6
    )


def test_a_run_json_from_before_there_were_sessions_is_the_first(tmp_path):
    old = {"versions": {}, "command": "python old", "started": "2025-01-01T00:00:00+00:00"}
    (tmp_path / "run.json").write_text(json.dumps(old))
    assert 0 <= Session(tmp_path, default()).note_time() < 60
    assert facts(tmp_path)["started"] == old["started"]
    assert facts(tmp_path)["sessions"][0] == old


@pytest.mark.parametrize("content", ["{", '{"sessions": 3}', '{"sessions": [{}]}', '{"seed": 0}'])
def test_a_damaged_run_json_stops_nothing(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    Session(tmp_path, default())
    assert len(facts(tmp_path)["sessions"]) == 1


RECORDS = [{"epoch": epoch, "train_loss": epoch / 3, "test_accuracy": None} for epoch in range(3)]


@pytest.fixture
def run(tmp_path):
    """A session with three epochs in metrics.jsonl, and the lines of that file."""
    session = Session(tmp_path, default())
    for record in RECORDS:
        session.add(record)
    return session, (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)


@pytest.mark.parametrize("damage", [None, "", "7\n", '{"epoch": 0}\n{"epo'])
def test_metrics_lost_or_damaged_come_back_from_the_checkpoint(tmp_path, run, damage):
    session, lines = run
    path = tmp_path / "metrics.jsonl"
    path.unlink() if damage is None else path.write_text(damage)
    assert session.restore_metrics(2, RECORDS[:2]) == RECORDS[:2]
    assert path.read_text() == "".join(lines[:2])


def test_metrics_without_any_in_the_checkpoint_are_cut_back(tmp_path, run):
    """An old checkpoint holds none."""
    session, lines = run
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(lines) + '{"epoch": 3, "tr')
    assert session.restore_metrics(2, None) == RECORDS[:2]
    assert path.read_text() == "".join(lines[:2])


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: lines[:1],
        lambda lines: [lines[0], lines[1][:9], lines[2]],
        lambda lines: [lines[0], lines[2], lines[1]],
        lambda lines: [lines[0], "7\n", lines[2]],
        lambda lines: [],
    ],
)
def test_a_needed_line_of_metrics_that_is_damaged(tmp_path, run, damage):
    session, lines = run
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(damage(lines)))
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"metrics.jsonl, line [12]: missing or damaged"):
        session.restore_metrics(3, None)
    assert path.read_bytes() == before
