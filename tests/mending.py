"""What two folders of one run must have in common, however they came about; used by tests."""

import json
import re

import numpy as np
import orbax.checkpoint as ocp

from sop_jax import checkpoint, finished

TIMES = ("seconds", "images_per_second", "step_seconds_median", "compile_seconds", "wall_seconds")


def without_times(record):
    return {name: value for name, value in record.items() if name not in TIMES}


def metrics(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [without_times(json.loads(line)) for line in lines]


def final_state(workdir):
    """Every leaf of the newest checkpoint by its name, read by Orbax alone."""
    manager = ocp.CheckpointManager(workdir / "checkpoints")
    restored = manager.restore(
        manager.latest_step(), args=ocp.args.Composite(state=ocp.args.StandardRestore())
    )
    manager.close()
    leaves = checkpoint._by_name(checkpoint._plain(restored["state"]))
    return {name: np.asarray(leaf) for name, leaf in leaves.items()}


def outputs(workdir):
    """Names of everything beside the checkpoints and the events, in whose names times stand."""
    files = [path.relative_to(workdir) for path in workdir.rglob("*") if path.is_file()]
    return {
        path.as_posix() for path in files if not {"checkpoints", "tensorboard"} & set(path.parts)
    }


def assert_same_run(one, two):
    """Both folders are whole and equal bit for bit, but for times."""
    assert finished.damaged(one) == finished.damaged(two) == []
    assert outputs(one) == outputs(two)
    assert metrics(one) == metrics(two)
    a, b = final_state(one), final_state(two)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    timed = {"run.json", "metrics.jsonl", "summary.json", "report.html", "finished.json", ".lock"}
    for name in sorted(outputs(one) - timed):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (one, two)]
    assert without_times(summaries[0]) == without_times(summaries[1])
    pages = [re.findall('data:image[^"]*', (run / "report.html").read_text()) for run in (one, two)]
    assert pages[0] == pages[1] and pages[0]
    assert list((two / "tensorboard").iterdir())
