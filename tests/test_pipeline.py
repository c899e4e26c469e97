"""An epoch's index array: every row once, the same order whatever the batch size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sop_jax.data import pipeline
from sop_jax.errors import UserError


@settings(deadline=None, max_examples=50)
@given(n=st.integers(1, 300), batch=st.integers(1, 64), epoch=st.integers(0, 5))
def test_every_row_once_and_padding_masked(n, batch, epoch):
    # rows need not be contiguous: validation rows are left out
    rows = np.arange(0, 2 * n, 2, dtype=np.int32)
    example, index = pipeline.epoch_plan(rows, batch, seed=3, epoch=epoch, padded_index=9999)
    assert example.shape == index.shape == (-(-n // batch), batch)
    real = index.ravel() != 9999
    np.testing.assert_array_equal(np.sort(index.ravel()[real]), rows)
    np.testing.assert_array_equal(example.ravel()[real], index.ravel()[real])
    assert real[:n].all()
    assert set(example.ravel()) <= set(rows)  # padding repeats real examples


def test_order_depends_on_seed_and_epoch_alone():
    rows = np.arange(100, dtype=np.int32)

    def order(batch, seed, epoch):
        example, index = pipeline.epoch_plan(rows, batch, seed, epoch, 256)
        return example.ravel()[index.ravel() != 256]

    np.testing.assert_array_equal(order(10, 0, 0), order(32, 0, 0))
    assert not np.array_equal(order(10, 0, 0), order(10, 0, 1))
    assert not np.array_equal(order(10, 0, 0), order(10, 1, 0))


TRAINED = np.array([2, 5, 7, 11], np.int32)


def test_a_methods_own_plan_becomes_table_indices_and_real_examples():
    positions = np.array([[-1, 3, 0], [2, 1, -1], [-1, -1, -1]])
    index = pipeline.own_plan(positions, TRAINED, (3, 3), padded_index=256)
    np.testing.assert_array_equal(index, [[256, 11, 2], [7, 5, 256], [256, 256, 256]])
    example = pipeline.examples_of(index, 256, fallback=2)
    np.testing.assert_array_equal(example, [[11, 11, 2], [7, 5, 7], [2, 2, 2]])
    assert index.dtype == example.dtype == np.int32


@pytest.mark.parametrize(
    "positions, words",
    [
        ([[0, 1]], "int64 [1, 2]; it must hold whole numbers [2, 2]"),
        ([[0.0, 1.0], [2.0, 3.0]], "is float64 [2, 2]"),
        ([[0, 4], [1, 2]], "positions 0 to 4; they must lie in -1 (padding) to 3"),
        ([[0, -2], [1, 2]], "positions -2 to 2"),
        ([[0, 1], [3, 3]], "position 3 twice in batch 1"),
    ],
)
def test_a_methods_own_plan_is_checked(positions, words):
    with pytest.raises(UserError) as error:
        pipeline.own_plan(np.array(positions), TRAINED, (2, 2), 256)
    assert words in str(error.value)
