"""The benchmark of the table's scale, at tiny sizes: what its file holds. No time is judged."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_bytes_follow_the_formula_and_the_program_does_not_grow(tmp_path):
    out = tmp_path / "scale.json"
    flags = "--rows=4000,1000,100000000 --num_classes=10 --batch_size=16 --steps=3 --devices=2"
    subprocess.run(
        [
            sys.executable,
            "benchmarks/table_scale.py",
            *flags.split(),
            "--max_bytes=1000000",
            f"--out={out}",
        ],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"},
        check=True,
        capture_output=True,
    )
    report = json.loads(out.read_text())
    assert report["rows"] == [1000, 4000] and report["num_classes"] == [10, 10]
    assert len(report["devices"]) == 2
    small, large = report["results"]
    for name in ("rows", "num_classes", "step_ms", "ratio_to_smallest"):
        assert report[name] == [small[name], large[name]]
    assert small["ratio_to_smallest"] == 1.0
    for result, padded in ((small, 1024), (large, 4096)):
        assert result["table_bytes"] == result["expected_bytes"] == padded * 11 * 4 // 2
        assert result["tracker_bytes"] == padded * 8 // 2
        assert result["step_ms_quartiles"][0] <= result["step_ms"] <= result["step_ms_quartiles"][1]
    assert small["program_temp_bytes"] == large["program_temp_bytes"]
    assert [(s["rows"], s["num_classes"]) for s in report["skipped"]] == [(100_000_000, 10)]
