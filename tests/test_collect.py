"""benchmarks/collect.py: what it keeps of a run of the main task, and of a study."""

import json
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "benchmarks"))
import collect

RUN = {
    "command": "python /home/me/sop_jax/main.py --config=configs/digits_sop.py "
    "--workdir=/home/me/runs/x",
    "git_commit": "abc",
    "started": "2026-11-24",
    "devices": ["cpu:0 cpu"],
    "versions": {},
}


def kept(folder, summary):
    (folder / "run.json").write_text(json.dumps(RUN))
    (folder / "summary.json").write_text(json.dumps(summary))
    return collect.collect(folder)


def test_a_run_keeps_its_figures_and_no_path_of_the_machine(tmp_path):
    found = kept(tmp_path, dict.fromkeys(collect.FIGURES, 0.123456789) | {"class_names": ["a"]})
    assert (
        found["command"] == "python -m sop_jax.main --config=configs/digits_sop.py --workdir=.../x"
    )
    assert found["test_accuracy_last"] == 0.123456789 and "class_names" not in found


def test_a_study_keeps_its_whole_summary_to_six_digits(tmp_path):
    found = kept(
        tmp_path, {"task": "two_curves", "kernel": {"1": [0.123456789, 2, None, "a", True]}}
    )
    assert (
        found["kernel"] == {"1": [0.123457, 2, None, "a", True]} and found["task"] == "two_curves"
    )


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("summary.json", "[", "damaged"),
        ("summary.json", "{}", "has no method, dataset"),
        ("run.json", '{"command": "x"}', "has no git_commit"),
        ("run.json", None, "no such file"),
    ],
)
def test_a_folder_that_is_no_run_is_one_line(file, content, message, tmp_path, capsys):
    kept(tmp_path, dict.fromkeys(collect.FIGURES, 0.1))
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_text(content)
    out = tmp_path / "out.json"
    assert collect.main([str(tmp_path), f"--out={out}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path / file}") and error.count("\n") == 1
    assert message in error
    assert not out.exists()
