"""Sources: the digits, the choice of a source by name, what importing the package costs."""

import subprocess
import sys
import types

import numpy as np
import pytest

from sop_jax.data import sources
from sop_jax.errors import UserError


def test_digits_split_is_the_documented_one():
    raw = sources.digits()
    order = np.random.default_rng(0).permutation(1797)
    np.testing.assert_array_equal(raw.train.ids, np.sort(order[:1297]))
    np.testing.assert_array_equal(raw.test.ids, np.sort(order[1297:]))
    assert raw.train.images.shape == (1297, 8, 8, 1) and raw.train.images.dtype == np.uint8
    assert raw.train.labels.dtype == np.int32 and raw.train.ids.dtype == np.int64
    from sklearn.datasets import load_digits

    bunch = load_digits()
    row = 17
    original = raw.train.ids[row]
    expected = np.floor(bunch.images[original] * 255 / 16 + 0.5)
    np.testing.assert_allclose(raw.train.images[row, ..., 0], expected, atol=1)
    assert raw.train.images.max() == 255 and raw.train.labels[row] == bunch.target[original]
    np.testing.assert_array_equal(raw.true_labels, raw.train.labels)


def test_importing_the_package_needs_neither_tfds_nor_sklearn():
    slow = ("tensorflow_datasets", "sklearn")
    code = f"import sys, sop_jax.data; print([m for m in {slow} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_unknown_set_is_refused():
    data = types.SimpleNamespace(name="svhn", dir=None, path=None, num_classes=None)
    with pytest.raises(UserError, match=r"data\.name='svhn'.*digits, npz, cifar10"):
        sources.read(data)
