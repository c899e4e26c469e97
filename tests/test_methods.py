"""One suite for every method: a new file in methods/ is covered at once."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sop_jax import methods, models, optimizer, table
from sop_jax import step as steps
from sop_jax.config import default
from sop_jax.errors import UserError
from sop_jax.methods.base import Batch

ALL = methods.names()
N, K, B, SHAPE = 40, 5, 8, (8, 8, 1)


def from_defaults(name, **fields):
    config = default()
    config.method.update(
        name=name, learning_rate_u=10.0, learning_rate_v=10.0, init_std=0.3, **fields
    )
    return methods.from_config(config.method, K)


def make(name, labels, **fields):
    method = from_defaults(name, **fields)
    model = models.api.find("small_resnet", K, width=4)
    optimiser = optimizer.make_optimizer(
        optimizer.sgd(0.05, 0.9, 0.0), method.row_learning_rates, B
    )
    state = steps.init_state(jax.random.key(0), method, model, optimiser, SHAPE, labels, K)
    return method, state, jax.jit(steps.make_step(method, model.apply, optimiser, 5))


def batch_of(method, labels, index, seed=0):
    images = jax.random.normal(jax.random.key(seed), (len(index), method.num_views, *SHAPE))
    return Batch(images, labels[index % N], index, (index < N).astype(jnp.float32))


@pytest.fixture
def labels():
    return jnp.asarray(np.random.default_rng(0).integers(0, K, N), jnp.int32)


def test_methods_are_discovered():
    assert {"ce", "sop", "sop_plus"} <= set(ALL)
    assert "base" not in ALL
    with pytest.raises(UserError, match="ce, "):
        methods.find("nonesuch")


@pytest.mark.parametrize("name", ALL)
def test_only_rows_of_the_batch_change(name, labels):
    method, state, step = make(name, labels)
    index = jnp.array([3, 7, 1, 30, 22, table.padded(N), table.padded(N), 9], jnp.int32)
    after, metrics = step(state, batch_of(method, labels, index))
    assert np.isfinite(metrics["loss"])
    untouched = np.setdiff1d(np.arange(table.padded(N)), index)
    for kind in ("table", "tracker"):
        before_rows, after_rows = getattr(state, kind), getattr(after, kind)
        chex.assert_trees_all_equal_shapes_and_dtypes(before_rows, after_rows)
        for leaf, old in zip(
            jax.tree.leaves(after_rows), jax.tree.leaves(before_rows), strict=True
        ):
            np.testing.assert_array_equal(leaf[untouched], old[untouched])
    for row_name in method.row_learning_rates:
        assert np.any(after.table[row_name] != state.table[row_name])


@pytest.mark.parametrize("name", ALL)
def test_the_state_keeps_its_structure(name, labels):
    """Same shapes and dtypes in and out, or a scan over steps and a second compiled call would
    fail.
    """
    method, state, step = make(name, labels)
    after, _ = step(state, batch_of(method, labels, jnp.arange(B, dtype=jnp.int32)))
    chex.assert_trees_all_equal_shapes_and_dtypes(state, after)


@pytest.mark.parametrize("name", ["sop", "sop_plus"])
def test_v_can_be_stored_as_bfloat16(name, labels):
    """A step moves v as in float32, up to its rounding, and u, which is always float32, the
    same.
    """
    (_, wide, step), (_, narrow, narrow_step) = (
        make(name, labels),
        make(name, labels, v_dtype="bfloat16"),
    )
    assert narrow.table["v"].nbytes == wide.table["v"].nbytes / 2
    narrow = narrow._replace(
        table=table.scatter(narrow.table, jnp.arange(N), table.gather(wide.table, jnp.arange(N)))
    )
    batch = batch_of(methods.find(name)(num_classes=K), labels, jnp.arange(B, dtype=jnp.int32))
    wide, narrow = step(wide, batch)[0], narrow_step(narrow, batch)[0]
    assert narrow.table["u"].dtype == jnp.float32
    chex.assert_trees_all_close(table.values(narrow.table), wide.table, rtol=0.02, atol=2e-3)


@pytest.mark.parametrize("name", ALL)
def test_order_within_the_batch_does_not_matter(name, labels):
    method, state, step = make(name, labels)
    index = jnp.array([3, 7, 1, 30, 22, 11, 5, 9], jnp.int32)
    batch = batch_of(method, labels, index)
    shuffled = jax.tree.map(lambda x: x[np.random.default_rng(1).permutation(B)], batch)
    (one, loss_one), (two, loss_two) = step(state, batch), step(state, shuffled)
    np.testing.assert_allclose(loss_one["loss"], loss_two["loss"], rtol=1e-5)
    chex.assert_trees_all_close(one.table, two.table, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("bound", [-1.0, 1.0])
def test_gradients_are_finite_at_the_bounds(name, bound, labels):
    method, state, step = make(name, labels)
    at_bound = state._replace(table=jax.tree.map(lambda x: jnp.full_like(x, bound), state.table))
    after, metrics = step(at_bound, batch_of(method, labels, jnp.arange(B, dtype=jnp.int32)))
    assert np.isfinite(metrics["loss"])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((after.params, after.table)))
    for name in method.row_learning_rates:  # the default variant projects
        assert np.abs(after.table[name]).max() <= 1


@pytest.mark.parametrize("name", ALL)
def test_the_loss_falls(name, labels):
    method, state, step = make(name, labels)
    batch, losses = batch_of(method, labels, jnp.arange(B, dtype=jnp.int32)), []
    for _ in range(25):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("name", ALL)
def test_noise_estimate_has_the_sign_of_given_minus_clean(name, labels):
    method = from_defaults(name)
    rows = method.init_rows(jax.random.key(0), labels)
    estimate = np.asarray(method.noise_estimate(rows, labels, K))
    given = np.eye(K, dtype=bool)[np.asarray(labels)]
    assert estimate.shape == (N, K)
    assert np.all(estimate[given] >= 0) and np.all(estimate[~given] <= 0)


def test_a_loss_cannot_see_the_truth():
    """Batch has no field for true labels."""
    assert Batch._fields == ("image", "label", "index", "weight")
