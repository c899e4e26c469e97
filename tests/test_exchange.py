"""Rows of a batch over eight devices: equal in every bit to the plain look-up and write."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sop_jax import table
from sop_jax.exchange import Exchange
from sop_jax.mesh import by_rows, make_mesh, put

MESH = make_mesh()
LEAVES = {
    "u": (np.float32, (1,)),
    "v": (jnp.bfloat16, (5,)),
    "count": (np.int32, (2,)),
    "byte": (np.uint8, (3, 2)),
    "seen": (np.bool_, (1,)),
}


def made(rng, num_rows):
    """Rows of every kind that a table may hold; among the numbers are -0.0 and denormals."""
    rows = {}
    for name, (dtype, shape) in LEAVES.items():
        numbers = rng.normal(size=(num_rows, *shape)) * rng.choice([0.0, 1e-40, 1.0, 100.0])
        rows[name] = jnp.asarray(np.abs(numbers) if name == "byte" else numbers).astype(dtype)
    return rows


@jax.jit
def through_exchange(stored, index, addend):
    rows = Exchange(MESH).gather(stored, index)
    new = jax.tree.map(lambda a, b: (a + b).astype(a.dtype), rows, addend)
    return rows, Exchange(MESH).scatter(stored, index, new)


@jax.jit
def plainly(stored, index, addend):
    rows = table.gather(stored, index)
    new = jax.tree.map(lambda a, b: (a + b).astype(a.dtype), rows, addend)
    return rows, table.scatter(stored, index, new)


# 256 rows are 32 a device, fewer than the batch; 2048 are 256 a device, more than it
@pytest.mark.parametrize(("num_rows", "batch"), [(250, 64), (2048, 64), (250, 8)])
@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10_000), padding=st.integers(0, 64))
def test_the_same_bits_as_on_one_device(num_rows, batch, seed, padding):
    rng = np.random.default_rng(seed)
    stored = table.create(made(rng, num_rows))
    size = table.padded(num_rows)
    index = rng.permutation(num_rows)[:batch].astype(np.int32)
    index[batch - min(padding, batch) :] = size
    addend = jax.tree.map(lambda leaf: leaf[:batch], table.values(stored))
    expected = plainly(stored, index, addend)
    spread = jax.tree.map(lambda leaf: put(leaf, by_rows(MESH)), (stored, index, addend))
    for got, wanted in zip(through_exchange(*spread), expected, strict=True):
        for name in LEAVES:
            assert got[name].dtype == wanted[name].dtype
            assert np.asarray(got[name]).tobytes() == np.asarray(wanted[name]).tobytes(), name


def test_double_precision_travels_whole():
    with jax.enable_x64():
        stored = {"u": np.random.default_rng(0).normal(size=(256, 3))}
        index = np.arange(0, 256, 4, dtype=np.int32)
        spread = put(stored["u"], by_rows(MESH)), put(index, by_rows(MESH))
        got = jax.jit(lambda u, i: Exchange(MESH).gather({"u": u}, i))(*spread)["u"]
    assert got.dtype == np.float64
    np.testing.assert_array_equal(got, stored["u"][index])


@pytest.mark.parametrize(("num_rows", "batch"), [(512, 256), (1_000_000, 64)])
def test_nothing_as_long_as_the_table_travels_or_is_made(num_rows, batch):
    size = table.padded(num_rows)
    split = by_rows(MESH)
    stored = {
        "u": jax.ShapeDtypeStruct((size, 1), jnp.float32, sharding=split),
        "v": jax.ShapeDtypeStruct((size, 10), jnp.float32, sharding=split),
    }
    index = jax.ShapeDtypeStruct((batch,), jnp.int32, sharding=split)

    def update(stored, index):
        rows = Exchange(MESH).gather(stored, index)
        return Exchange(MESH).scatter(stored, index, jax.tree.map(lambda x: 2 * x, rows))

    compiled = jax.jit(update, donate_argnums=0, out_shardings=split).lower(stored, index).compile()
    travels = [
        line
        for line in compiled.as_text().splitlines()
        if any(f" {kind}" in line for kind in ("all-gather(", "all-reduce(", "reduce-scatter("))
    ]
    assert travels and not any(f"[{size}" in line for line in travels)
    assert compiled.memory_analysis().temp_size_in_bytes < 8 * batch * 12 * 4 + 4 * batch * batch


def test_a_method_without_rows_exchanges_nothing():
    nothing = {"rows": {}, "tracker": {}}
    index = jnp.arange(8)
    assert Exchange(MESH).gather(nothing, index) == nothing
    assert Exchange(MESH).scatter(nothing, index, nothing) == nothing
