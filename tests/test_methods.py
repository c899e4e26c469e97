"""One suite for every method: a new file in methods/ is covered at once.

A test that cannot hold for a method is named in its `Method.exceptions`, and is then expected to
fail. One step is compiled for a method; all tests share it.
"""

import functools
import inspect
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sop_jax import methods, models, optimizer, table
from sop_jax.compiler import options_for_one_run
from sop_jax.errors import UserError
from sop_jax.fields import Field
from sop_jax.methods import Problem
from sop_jax.methods.base import Batch
from sop_jax.state import init_state
from sop_jax.step import make_step

ALL = methods.names()
N, K, B, SHAPE, STEPS_PER_EPOCH = 40, 5, 8, (8, 8, 1), 5
PADDING = table.padded(N)
PROBLEM = Problem(K, N, "symmetric_exclusive", 0.25, STEPS_PER_EPOCH, 10)
LABELS = jnp.asarray(np.random.default_rng(0).integers(0, K, N), jnp.int32)
INDEX = jnp.array([3, 7, 1, 30, 22, 11, 5, 9], jnp.int32)
PADDED_INDEX = INDEX.at[5:7].set(PADDING)


@pytest.fixture(params=ALL)
def name(request):
    """A method's name; a test that the method excepts must fail."""
    exceptions = methods.find(request.param)(PROBLEM).exceptions
    reason = exceptions.get(request.function.__name__)
    if reason is not None:
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    return request.param


@functools.cache
def make(name, **fields):
    """(method, state before the first step, compiled step)."""
    if name in ("sop", "sop_plus"):
        fields = {"init_std": 0.3, **fields}  # large enough for a step to be seen
    method = methods.find(name)(PROBLEM, **fields)
    model = models.find("small_resnet", K, width=4)
    network = method.network_transform(optimizer.sgd(0.05, 0.9, 0.0), STEPS_PER_EPOCH)
    optimiser = optimizer.make_optimizer(network, method.row_learning_rates, B)

    def init(key):
        return init_state(key, method, model, optimiser, SHAPE, LABELS, K)

    step = make_step(method, model, optimiser, STEPS_PER_EPOCH)
    # these programs run a few dozen times at most: optimising them takes longer than that
    jit = functools.partial(jax.jit, compiler_options=options_for_one_run())
    return method, jit(init)(jax.random.key(0)), jit(step)


def batch_of(method, index, seed=0):
    images = jax.random.normal(jax.random.key(seed), (B, len(method.views), *SHAPE))
    return Batch(images, LABELS[index % N], index, (index < N).astype(jnp.float32))


def test_methods_are_discovered():
    expected = {"cdr", "ce", "coteaching", "elr", "focal", "gce"}
    assert expected | {"label_smoothing", "mixup", "mse", "sop", "sop_plus"} <= set(ALL)
    assert "base" not in ALL
    with pytest.raises(UserError, match="did you mean 'mixup'.*ce, "):
        methods.find("mixupp")


def test_every_exception_is_a_test_of_this_suite_with_a_reason():
    of_every_method = {
        test_name
        for test_name, test in vars(sys.modules[__name__]).items()
        if test_name.startswith("test_") and "name" in inspect.signature(test).parameters
    }
    for method_name in ALL:
        exceptions = methods.find(method_name)(PROBLEM).exceptions
        assert set(exceptions) <= of_every_method
        assert all(len(reason) > 20 for reason in exceptions.values())


def test_only_rows_of_the_batch_change(name):
    method, state, step = make(name)
    after, record = step(state, batch_of(method, PADDED_INDEX))
    assert np.isfinite(record["loss"])
    untouched = np.setdiff1d(np.arange(PADDING), PADDED_INDEX)
    for before_rows, after_rows in ((state.table, after.table), (state.tracker, after.tracker)):
        chex.assert_trees_all_equal(
            jax.tree.map(lambda leaf: leaf[untouched], after_rows),
            jax.tree.map(lambda leaf: leaf[untouched], before_rows),
        )
    for leaf in method.row_learning_rates:
        assert np.any(after.table[leaf] != state.table[leaf])


def test_the_state_keeps_its_structure(name):
    """Same shapes and dtypes in and out, or a scan over steps would fail."""
    method, state, step = make(name)
    after, _ = step(state, batch_of(method, INDEX))
    chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
    assert int(after.step) == 1 and set(after.sums.metrics) == set(method.metrics)


def test_labels_of_padded_entries_do_not_matter(name):
    method, state, step = make(name)
    batch = batch_of(method, PADDED_INDEX)
    real = batch.weight > 0
    other = batch._replace(label=jnp.where(real, batch.label, (batch.label + 1) % K))
    assert (other.label != batch.label).any()
    (one, record_one), (two, record_two) = step(state, batch), step(state, other)
    chex.assert_trees_all_equal(record_one, record_two)
    chex.assert_trees_all_equal((one.params, one.table), (two.params, two.table))


def test_order_within_the_batch_does_not_matter(name):
    method, state, step = make(name)
    batch = batch_of(method, INDEX)
    order = np.random.default_rng(1).permutation(B)
    shuffled = jax.tree.map(lambda x: x[order], batch)
    (one, record_one), (two, record_two) = step(state, batch), step(state, shuffled)
    np.testing.assert_allclose(record_one["loss"], record_two["loss"], rtol=1e-5)
    chex.assert_trees_all_close(one.table, two.table, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bound", [-1.0, 1.0])
def test_a_step_is_finite_at_the_bounds(name, bound):
    method, state, step = make(name)
    at_bound = state._replace(table=jax.tree.map(lambda x: jnp.full_like(x, bound), state.table))
    after, record = step(at_bound, batch_of(method, INDEX))
    chex.assert_tree_all_finite((record["loss"], after.params, after.table))
    for leaf in method.row_learning_rates:  # the default variant projects
        assert np.abs(after.table[leaf]).max() <= 1


def test_the_loss_falls(name):
    method, state, step = make(name)
    batch, losses = batch_of(method, INDEX), []
    for _ in range(25):
        state, record = step(state, batch)
        losses.append(float(record["loss"]))
    assert losses[-1] < 0.7 * losses[0]


def test_noise_estimate_has_the_sign_of_given_minus_clean(name):
    method, state, _ = make(name)
    rows = table.gather(state.table, jnp.arange(N))
    estimate = np.asarray(method.noise_estimate(rows, LABELS, K))
    given = np.eye(K, dtype=bool)[np.asarray(LABELS)]
    assert estimate.shape == (N, K)
    assert np.all(np.abs(estimate) <= 1)
    assert np.all(estimate[given] >= 0) and np.all(estimate[~given] <= 0)


def test_diagnostics_are_one_number_a_row(name):
    method, state, _ = make(name)
    found = method.diagnostics(table.gather(state.table, jnp.arange(N)), LABELS)
    for values in found.values():
        chex.assert_shape(values, (N,))
        chex.assert_tree_all_finite(values)


def test_every_field_has_a_type_a_meaning_and_a_default_that_it_allows(name):
    known = methods.fields(name)
    for field_name, field in known.items():
        assert isinstance(field, Field) and field.name == field_name
        assert field.type in (int, float, bool, str)
        assert 10 < len(field.meaning) < 100
        assert field.checked(f"method.{field_name}", field.default) == field.default


@pytest.mark.parametrize("problem", [PROBLEM, Problem(100), Problem(10, noise_kind="asymmetric")])
def test_the_method_knows_a_value_for_every_field_without_a_default(name, problem):
    """And no other field; given as fields, its values are allowed and change nothing."""
    method, known = methods.find(name)(problem), methods.fields(name)
    published = method.defaults(problem)
    assert set(published) == {field for field in known if known[field].default is None}
    given = methods.find(name)(problem, **published)
    assert given.row_learning_rates == method.row_learning_rates


def test_a_field_of_another_method_is_refused(name):
    fields = [field for other in ALL for field in methods.fields(other)]
    foreign = next(field for field in fields if field not in methods.fields(name))
    with pytest.raises(UserError, match=f"method.{foreign} is no field of method '{name}'"):
        methods.find(name)(PROBLEM, **{foreign: 1.0})


def test_v_can_be_stored_as_bfloat16():
    """A step moves v as in float32, up to its rounding, and u, which is always float32, as before.

    One view: what SOP+ adds does not reach v.
    """
    method, wide, step = make("sop")
    _, narrow, narrow_step = make("sop", v_dtype="bfloat16")
    assert narrow.table["v"].nbytes == wide.table["v"].nbytes / 2
    every = jnp.arange(N)
    rows = table.gather(wide.table, every)
    narrow = narrow._replace(table=table.scatter(narrow.table, every, rows))
    batch = batch_of(method, INDEX)
    wide, narrow = step(wide, batch)[0], narrow_step(narrow, batch)[0]
    assert narrow.table["u"].dtype == jnp.float32
    chex.assert_trees_all_close(table.values(narrow.table), wide.table, rtol=0.02, atol=2e-3)


def test_a_method_is_found_by_the_number_of_classes_alone():
    assert methods.find("sop")(num_classes=K).row_learning_rates == {"u": 10.0, "v": 10.0}
    assert methods.find("sop")(Problem(K)).row_learning_rates == {"u": 10.0, "v": 10.0}


def test_a_loss_cannot_see_the_truth():
    """Batch has no field for true labels."""
    assert Batch._fields == ("image", "label", "index", "weight")
