"""The table: padding, gather, scatter, and the rows that must not be touched."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sop_jax import table
from sop_jax.errors import UserError
from sop_jax.mesh import by_rows, make_mesh, put


def test_padded_size_does_not_depend_on_devices():
    assert [table.padded(n) for n in (1, 256, 257, 50_000)] == [256, 256, 512, 50_176]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), batch=st.integers(1, 20), real=st.integers(0, 20))
def test_scatter_writes_the_real_rows_and_no_other(seed, batch, real):
    real = min(real, batch)
    rng = np.random.default_rng(seed)
    rows = {
        "u": rng.normal(size=(300, 1)).astype(np.float32),
        "n": rng.integers(0, 9, (300, 4)).astype(np.int32),
    }
    stored = table.create(rows)
    size = table.padded(300)
    index = np.full(batch, size, np.int32)
    index[:real] = rng.permutation(300)[:real]
    new = jax.tree.map(lambda x: x + 1, table.gather(stored, jnp.asarray(index)))
    after = table.scatter(stored, jnp.asarray(index), new)
    for name, leaf in rows.items():
        expected = np.zeros((size, leaf.shape[1]), leaf.dtype)
        expected[:300] = leaf
        expected[index[:real]] += 1
        np.testing.assert_array_equal(after[name], expected)
        assert after[name].dtype == leaf.dtype


def test_padded_entries_read_zeros():
    stored = table.create({"u": np.ones((256, 2), np.float32)})
    got = table.gather(stored, jnp.array([3, 256]))["u"]
    np.testing.assert_array_equal(got, [[1, 1], [0, 0]])


def test_bfloat16_leaves_take_two_bytes_and_are_computed_with_as_float32():
    rows = (1e-8 * np.random.default_rng(0).normal(size=(300, 3))).astype(jnp.bfloat16)
    stored = table.create({"v": rows, "u": np.ones((300, 1), np.float32)})
    assert stored["v"].nbytes == 2 * 512 * 3 and stored["u"].dtype == jnp.float32
    index = jnp.array([3, 299, 512])
    got = table.gather(stored, index)["v"]
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(
        got, np.stack([rows[3], rows[299], 0 * rows[0]]).astype(np.float32)
    )
    new = {"v": got * 1.3, "u": jnp.ones((3, 1))}
    after = table.values(table.scatter(stored, index, new))["v"]
    np.testing.assert_array_equal(
        after[jnp.array([3, 299])], new["v"][:2].astype(jnp.bfloat16).astype(jnp.float32)
    )
    np.testing.assert_array_equal(after[4:299], rows[4:299].astype(np.float32))


def test_uint16_rows_are_refused():
    """uint16 stands for bfloat16: a row 7 would be read back as 6.4e-40."""
    rows = {"v": jnp.zeros((3, 2)), "count": jnp.full((3, 1), 7, jnp.uint16)}
    with pytest.raises(UserError, match=r"rows\['count'\] is of dtype uint16"):
        table.create(rows)
    stored = table.create({"count": rows["count"].astype(jnp.uint32)})
    np.testing.assert_array_equal(table.values(stored)["count"][:3], 7)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_update_makes_nothing_of_the_tables_size(dtype):
    stored = jax.eval_shape(table.create, {"v": jax.ShapeDtypeStruct((100_000, 10), dtype)})

    def update(stored, index):
        return table.scatter(
            stored, index, jax.tree.map(lambda x: 2 * x, table.gather(stored, index))
        )

    index = jax.ShapeDtypeStruct((64,), jnp.int32)
    memory = jax.jit(update, donate_argnums=0).lower(stored, index).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 100_000
    assert memory.alias_size_in_bytes == table.padded(100_000) * 10 * jnp.dtype(dtype).itemsize


def test_sharded_equals_single_device():
    mesh = make_mesh()
    rows = np.random.default_rng(0).normal(size=(512, 3)).astype(np.float32)
    index = np.array([0, 100, 511, 512, 7, 8, 9, 300], np.int32)
    sharded = {"v": put(rows, by_rows(mesh))}
    place = put(index, by_rows(mesh))
    got = jax.jit(table.gather)(sharded, place)
    np.testing.assert_array_equal(got["v"], table.gather({"v": jnp.asarray(rows)}, index)["v"])
    after = jax.jit(table.scatter)(sharded, place, {"v": got["v"] * 2})["v"]
    np.testing.assert_array_equal(
        after, table.scatter({"v": jnp.asarray(rows)}, index, {"v": got["v"] * 2})["v"]
    )
    assert {s.data.shape for s in after.addressable_shards} == {(64, 3)}
