"""benchmarks/throughput.py run as from outside, at a tiny size: its counts, not its times."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from sop_jax.models import api

ROOT = pathlib.Path(__file__).resolve().parents[1]
TINY = ("--network=small_resnet", "--batch_size=16", "--steps=2", "--image_size=8", "--num_rows=64")


def run(out, *flags, **environment):
    """(process, JSON or None) of the command, without the XLA flags of the tests around it."""
    environment = {
        name: value for name, value in os.environ.items() if name != "XLA_FLAGS"
    } | environment
    command = [sys.executable, "benchmarks/throughput.py", *TINY, *flags, f"--out={out}"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    return done, json.loads(out.read_text()) if out.exists() else None


@pytest.fixture(scope="module")
def on_eight_devices(tmp_path_factory):
    done, result = run(tmp_path_factory.mktemp("out") / "result.json", "--devices=8")
    assert done.returncode == 0, done.stderr
    return result


@pytest.mark.slow
def test_the_file_has_what_outside_callers_read(on_eight_devices):
    result = on_eight_devices
    assert set(result["images_per_second"]) == {"ce", "sop", "sop_plus"}
    assert all(np.isfinite(value) and value > 0 for value in result["images_per_second"].values())
    assert result["sop_over_ce"] > 0 and result["sop_plus_over_ce"] > 0
    assert "ours_over_torch" not in result
    assert result["flops_per_step"]["sop_plus"] > 1.8 * result["flops_per_step"]["ce"]
    assert all(0 < share < 1 for share in result["utilisation"].values())
    assert (
        result["command"].startswith("python benchmarks/throughput.py")
        and result["versions"]["jax"]
    )


@pytest.mark.slow
def test_gradients_travel_in_at_most_two_fused_all_reduces(on_eight_devices):
    params = jax.eval_shape(
        lambda: api.find("small_resnet", 10).init(jax.random.key(0), (8, 8, 3))
    )[0]
    kernels = sum(leaf.size for leaf in jax.tree.leaves(params) if leaf.ndim == 4)
    for found in on_eight_devices["collectives"].values():
        assert set(found["counts"]) <= {"all-reduce", "all-gather", "reduce-scatter"}
        assert 1 <= found["gradient_all_reduces"] <= 2
        # every kernel's gradient is in them
        assert found["values_in_gradient_all_reduces"] >= kernels
        assert found["values_in_largest_other"] < 16 * 64  # vectors of channels, indices, B rows


def test_the_peer_is_raced_in_the_same_rounds(tmp_path):
    pytest.importorskip("torch", reason="pip install torch==2.13.0 to race the peer")
    # compiling takes a minute
    done, result = run(tmp_path / "result.json", "--peer=torch", CXX="no-such-compiler")
    assert done.returncode == 0, done.stderr
    assert set(result["ours_over_torch"]) == {"plain", "channels_last"}
    assert all(value > 0 for value in result["torch_images_per_second"].values())
