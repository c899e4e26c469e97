"""benchmarks/collect.py: what it keeps of a run of the main task, and of a study."""

import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "benchmarks"))
import collect

RUN = {
    "command": "python /home/me/sop_jax/main.py --config=configs/digits_sop.py --workdir=/home/me/runs/x",
    # fmt: skip
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
