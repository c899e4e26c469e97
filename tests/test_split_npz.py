"""benchmarks/split_npz.py: every fifth row for testing, nothing lost, readable as data.name=npz."""

import pathlib
import subprocess
import sys

import numpy as np

from sop_jax.data import sources

SCRIPT = pathlib.Path(__file__).resolve().parents[1] / "benchmarks" / "split_npz.py"


def test_split(tmp_path):
    images = np.arange(12 * 4, dtype=np.uint8).reshape(12, 2, 2)
    np.savez(tmp_path / "all.npz", images=images, labels=np.arange(12) % 3)
    subprocess.run([sys.executable, SCRIPT, tmp_path / "all.npz", tmp_path / "out.npz"], check=True)
    data = sources.from_npz(str(tmp_path / "out.npz"))
    np.testing.assert_array_equal(data.test.ids, [4, 9])
    np.testing.assert_array_equal(data.train.ids, np.setdiff1d(np.arange(12), [4, 9]))
    np.testing.assert_array_equal(data.test.images[..., 0], images[[4, 9]])
    np.testing.assert_array_equal(data.train.labels, data.train.ids % 3)
