"""SOP and SOP+ against numbers of the authors' code, values worked out by hand and invariants."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_match
from hypothesis import given, settings
from hypothesis import strategies as st

from sop_jax import methods, table
from sop_jax.errors import UserError
from sop_jax.methods import Problem, sop

SIZES = ("tiny", "mid", "wide")


def one_hot(labels, dtype):
    return np.eye(10, dtype=dtype)[labels]


@pytest.mark.parametrize("size", SIZES)
def test_sop_official_matches_the_published_code(golden, precision, size):
    dtype, tolerance = precision
    g = golden(f"sop_{size}")
    u, v = (g[k].astype(dtype)[g["index"]] for k in "uv")
    targets = one_hot(g["labels"], dtype)
    official = functools.partial(sop.sop_loss, variant="official")
    loss, grads = jax.value_and_grad(official, argnums=(0, 2, 3))(
        g["logits"].astype(dtype), targets, u, v
    )
    assert loss.dtype == dtype
    assert_match(loss, g["loss"], tolerance)
    for actual, expected in zip(
        grads, (g["d_logits"], g["d_u"][g["index"]], g["d_v"][g["index"]]), strict=True
    ):
        assert_match(actual, expected, tolerance)


@pytest.mark.parametrize("size", SIZES)
def test_sop_plus_official_matches_the_published_code(golden, precision, size):
    dtype, tolerance = precision
    g = golden(f"sop_plus_{size}")
    weak, strong = np.split(g["logits"].astype(dtype), 2)
    u, v = (g[k].astype(dtype)[g["index"]] for k in "uv")

    def loss_fn(weak, strong, u, v):
        targets = one_hot(g["labels"], dtype)
        return sop.sop_plus_loss(weak, strong, targets, u, v, variant="official")

    loss, (d_weak, d_strong, d_u, d_v) = jax.value_and_grad(loss_fn, argnums=(0, 1, 2, 3))(
        weak, strong, u, v
    )
    assert_match(loss, g["loss"], tolerance)
    assert_match(np.concatenate([d_weak, d_strong]), g["d_logits"], tolerance)
    assert_match(d_u, g["d_u"][g["index"]], tolerance)
    assert_match(d_v, g["d_v"][g["index"]], tolerance)


def test_sop_paper_routes_gradients_as_algorithm_1(golden, precision):
    dtype, tolerance = precision
    g = golden("sop_splitgrad_mid")
    u, v = (g[k].astype(dtype)[g["index"]] for k in "uv")

    def loss_fn(logits, u, v):
        targets = one_hot(g["labels"], dtype)
        return sop.sop_loss(
            logits, targets, u, v, variant="paper", mse_weight=float(g["mse_weight"])
        )

    loss, (d_logits, d_u, d_v) = jax.value_and_grad(loss_fn, argnums=(0, 1, 2))(
        g["logits"].astype(dtype), u, v
    )
    assert_match(loss, g["loss"], tolerance)
    assert_match(d_logits, g["d_logits"], tolerance)
    assert_match(d_u, g["d_u"][g["index"]], tolerance)
    assert_match(d_v, g["d_v"][g["index"]], tolerance)
    assert_match(u - d_u, g["u_after_lr1_1"][g["index"]], tolerance)  # rows before projection
    assert_match(v - d_v, g["v_after_lr1_1"][g["index"]], tolerance)


def test_hand_computed_value():
    """z = 0, K = 2, u = v = 0: CE is ln 2; argmax is class 0, so MSE is 0 for label 0, 2 for 1."""
    logits, u, v = jnp.zeros((2, 2)), jnp.zeros((2, 1)), jnp.zeros((2, 2))
    for variant in sop.VARIANTS:
        loss = sop.sop_loss(logits, jnp.eye(2), u, v, variant=variant)
        np.testing.assert_allclose(loss, np.log(2) + 1.0, rtol=1e-6)


def test_growth_of_a_wrong_row_while_tiny():
    """v_j and u_y of a confidently contradicted label grow by 1 + 4 lr / B a visit.

    The squared error at j and at y is 1, so its gradients in v_j and u_y are -4 v_j and -4 u_y.
    """
    logits, targets = jnp.array([[0.0, 30.0, 0.0]]), jnp.eye(3)[:1]
    u, v = jnp.full((1, 1), 1e-8), jnp.full((1, 3), 1e-8)
    d_u, d_v = jax.grad(
        lambda u, v: sop.sop_loss(logits, targets, u, v, variant="official", batch_size=128),
        argnums=(0, 1),
    )(u, v)
    np.testing.assert_allclose((u - 10 * d_u) / u, 1.3125, rtol=1e-5)
    np.testing.assert_allclose(((v - 10 * d_v) / v)[0, 1], 1.3125, rtol=1e-5)


def test_agreeing_row_does_not_move_v():
    logits, targets = jnp.array([[30.0, 0.0, 0.0]]), jnp.eye(3)[:1]
    for variant in sop.VARIANTS:
        d_v = jax.grad(
            lambda v, k=variant: sop.sop_loss(logits, targets, jnp.full((1, 1), 0.1), v, variant=k)
        )(jnp.zeros((1, 3)))
        np.testing.assert_array_equal(d_v, 0)


def test_bounds_project_alive_and_clip_dead():
    """Beyond the bound an 'official' entry has no gradient; 'paper' has one, and `project`."""
    logits, targets = jnp.array([[0.0, 5.0, 1.0]]), jnp.eye(3)[:1]
    u, v = jnp.full((1, 1), 1.5), jnp.full((1, 3), 1.5)
    gradient = {
        k: jax.grad(
            lambda u, v, k=k: sop.sop_loss(logits, targets, u, v, variant=k), argnums=(0, 1)
        )(u, v)
        for k in sop.VARIANTS
    }
    np.testing.assert_array_equal(gradient["official"][0], 0)
    np.testing.assert_array_equal(gradient["official"][1], 0)
    assert np.all(gradient["paper"][1][0, 1:] > 0)
    assert np.abs(gradient["paper"][0]) > 0
    projected = sop.project({"u": -u, "v": v})
    np.testing.assert_array_equal(projected["u"], -1)
    np.testing.assert_array_equal(projected["v"], 1)


def test_an_entry_at_its_bound_has_its_whole_gradient():
    """As just below it; `jnp.clip` in the place of `_clamp` would halve it at exactly 1."""
    logits, targets = jnp.array([[5.0, 0.0, 1.0]]), jnp.eye(3)[:1]

    def gradients(bound):
        u, v = jnp.full((1, 1), bound), jnp.full((1, 3), bound)
        loss = functools.partial(sop.sop_loss, logits, targets, variant="official")
        return jax.grad(loss, argnums=(0, 1))(u, v)

    at, below = gradients(1.0), gradients(1.0 - 1e-6)
    assert np.abs(below[0]).min() > 0.1 and np.abs(below[1][0, 1:]).min() > 0.1
    chex.assert_trees_all_close(at, below, rtol=1e-4)


def test_float16_rows_are_widened():
    loss = sop.sop_loss(
        jnp.ones((1, 3), jnp.bfloat16), jnp.eye(3)[:1], jnp.ones((1, 1)), jnp.ones((1, 3))
    )
    assert loss.dtype == jnp.float32


def test_unknown_variant_and_wrong_shape_are_refused():
    with pytest.raises(UserError, match="paper, official"):
        sop.sop_loss(
            jnp.zeros((1, 3)), jnp.eye(3)[:1], jnp.zeros((1, 1)), jnp.zeros((1, 3)), variant="new"
        )
    with pytest.raises(AssertionError):
        sop.sop_loss(jnp.zeros((1, 3)), jnp.eye(3)[:1], jnp.zeros((1, 3)), jnp.zeros((1, 3)))


@functools.partial(jax.jit, static_argnames="variant")
def plus_and_gradients(z1, z2, u, v, y, weights, variant):
    """(loss, its gradients in the first four) of SOP+ at a nominal batch size of 8."""

    def loss(z1, z2, u, v):
        return sop.sop_plus_loss(z1, z2, y, u, v, variant=variant, weights=weights, batch_size=8)

    return jax.value_and_grad(loss, argnums=(0, 1, 2, 3))(z1, z2, u, v)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), pad=st.integers(1, 4))
def test_padding_changes_neither_value_nor_gradient(seed, pad):
    """Rows of weight 0 add nothing, whatever they hold, when the nominal batch size is given."""
    rng = np.random.default_rng(seed)
    size, classes = 5, 4
    full = size + pad
    z1, z2, v = rng.normal(size=(3, full, classes)).astype(np.float32)
    u = rng.normal(size=(full, 1)).astype(np.float32)
    y = np.eye(classes, dtype=np.float32)[rng.integers(0, classes, full)]
    weights = (np.arange(full) < size).astype(np.float32)
    for variant in sop.VARIANTS:
        value, gradients = plus_and_gradients(z1, z2, u, v, y, weights, variant)
        cut = [x[:size] for x in (z1, z2, u, v, y)]
        value_cut, gradients_cut = plus_and_gradients(*cut, None, variant)
        np.testing.assert_allclose(value, value_cut, rtol=1e-5)
        chex.assert_trees_all_close(
            [g[:size] for g in gradients], list(gradients_cut), rtol=1e-4, atol=1e-6
        )
        assert all(np.all(np.asarray(g[size:]) == 0) for g in gradients)


def test_noise_estimate_and_diagnostics():
    rows = {"u": jnp.array([[1.0], [0.5]]), "v": jnp.array([[0.0, 1.0, 0.0], [0.5, -1.2, 0.1]])}
    labels = jnp.array([0, 2])
    np.testing.assert_allclose(
        sop.noise_estimate(rows, labels, 3), [[1, -1, 0], [-0.25, -1, 0.25]], rtol=1e-6
    )
    found = sop.diagnostics(rows, labels)
    np.testing.assert_allclose(found["u_squared"], [1, 0.25], rtol=1e-6)
    np.testing.assert_allclose(found["v_squared"], [1, 1.44], rtol=1e-6)


def test_the_padded_table_is_refused_with_the_mend():
    labels = jnp.zeros(240, jnp.int32)
    stored = table.create(sop.init_rows(jax.random.key(0), 240, 3))
    for function in (functools.partial(sop.noise_estimate, num_classes=3), sop.diagnostics):
        with pytest.raises(UserError, match=r"256 entries for 240 labels.*table.gather"):
            function(stored, labels)
    assert sop.noise_estimate(table.gather(stored, jnp.arange(240)), labels, 3).shape == (240, 3)


def test_published_learning_rates():
    assert sop.published_learning_rates(10, False, "paper") == (10.0, 10.0)
    assert sop.published_learning_rates(10, True, "paper") == (10.0, 100.0)
    assert sop.published_learning_rates(100, False, "official") == (1.0, 10.0)
    assert sop.published_learning_rates(100, True, "paper") == (1.0, 100.0)
    assert sop.published_learning_rates(100, True, "official") == (0.1, 100.0)


@pytest.mark.parametrize("name", ["sop", "sop_plus"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("variant", "new"),
        ("v_dtype", "float16"),
        ("learning_rate_v", 1e308),  # float32 would overflow in the first steps
        ("learning_rate_u", -1.0),
        ("mse_weight", float("nan")),
    ],
)
def test_fields_that_cannot_be_are_refused(name, field, value):
    with pytest.raises(UserError, match=f"method.{field}="):
        methods.find(name)(num_classes=10, **{field: value})


def test_rates_not_given_are_the_published_ones_and_others_stay():
    problem = Problem(100, noise_kind="pairflip")
    method = methods.find("sop")(problem)
    assert method.row_learning_rates == {"u": 1.0, "v": 100.0}
    assert method.defaults(problem) == {"learning_rate_u": 1.0, "learning_rate_v": 100.0}
    official = methods.find("sop_plus")(problem, variant="official", learning_rate_v=3)
    assert official.row_learning_rates == {"u": 0.1, "v": 3.0}


@settings(deadline=None)
@given(st.integers(2, 1000), st.floats(1e-15, 1e-2))
def test_with_the_rate_of_the_length_v_is_at_1_after_its_share(epochs, std):
    """Counted out epoch by epoch; a run too short for that has the largest rate."""
    rate = sop.rate_of_length(epochs, std)
    assert 0 < rate <= sop.LARGEST_RATE
    v, needed = std, 0
    while v < 1 and needed < epochs:
        v, needed = v * (1 + 4 * rate / 128), needed + 1
    if rate < sop.LARGEST_RATE:
        assert v >= 1 and abs(needed - sop.SATURATION * epochs) < 1.1
    else:
        assert needed >= sop.SATURATION * epochs - 1


def test_the_rate_of_the_length_by_hand():
    rates = {60: 20.0, 61: 19.68, 107: 10.06, 108: 9.95, 2: 20.0, 36: 20.0, 1: 10.0}
    assert {epochs: sop.rate_of_length(epochs, 1e-8) for epochs in rates} == rates
    assert sop.rate_of_length(60, 0.0) == 20.0  # would never arrive
    assert sop.rate_of_length(60, 1.0) == 0.0  # is there already
    assert sop.default_learning_rates(Problem(10, epochs=60), "paper", 1.0) == (10.0, 10.0)


def test_unset_rates_are_raised_on_few_epochs():
    def rates(epochs, num_classes=10, kind="none", variant="paper"):
        problem = Problem(num_classes, noise_kind=kind, epochs=epochs)
        method = methods.find("sop_plus")(problem, variant=variant)
        assert tuple(method.defaults(problem).values()) == tuple(method.row_learning_rates.values())
        return tuple(method.row_learning_rates.values())

    for epochs in (120, 150, 300):  # as published
        for num_classes in (10, 100):
            for kind in ("symmetric", "asymmetric"):
                for variant in sop.VARIANTS:
                    published = sop.published_learning_rates(
                        num_classes, kind == "asymmetric", variant
                    )
                    assert rates(epochs, num_classes, kind, variant) == published
    assert rates(60) == (20.0, 20.0)
    assert rates(60, kind="pairflip") == (20.0, 100.0)
    # of 100 classes u's rate is a tenth of v's, and stays so: 1/p_y is larger there
    assert rates(60, 100) == pytest.approx((2.0, 20.0))
    assert rates(2) == (20.0, 20.0)


def grown(dtype, rate, num_rows=256, epochs=60):
    """|v| [epochs, num_rows] on the predicted class of contradicted examples.

    The first row starts from 1e-8 exactly.
    """
    targets = jnp.tile(jnp.eye(10)[0], (num_rows, 1))
    logits = jnp.tile(10 * jnp.eye(10)[1], (num_rows, 1))
    rows = sop.init_rows(jax.random.key(0), num_rows, 10, v_dtype=dtype)
    index = jnp.arange(num_rows)
    stored = table.create({**rows, "v": rows["v"].at[0].set(1e-8)})

    @jax.jit
    def epoch(stored):
        def loss(rows):
            return sop.sop_loss(logits, targets, rows["u"], rows["v"], batch_size=1)

        rows = table.gather(stored, index)
        moved = jax.tree.map(lambda x, g: x - rate / 128 * g, rows, jax.grad(loss)(rows))
        return table.scatter(stored, index, sop.project(moved))

    history = []
    for _ in range(epochs):
        stored = epoch(stored)
        history.append(np.abs(table.values(stored)["v"][:num_rows, 1]))
    return np.stack(history)


def test_a_bfloat16_v_grows_as_a_float32_one():
    """Rounded once an epoch: within 1 % from 1e-8 at rate 20; no start is 1/4 epoch off."""
    wide, narrow = grown("float32", 20.0), grown("bfloat16", 20.0)
    np.testing.assert_allclose(narrow[:, 0], wide[:, 0], rtol=0.01)
    np.testing.assert_array_equal(narrow[-1], 1)
    # the published rate; still growing at the end
    wide, narrow = grown("float32", 10.0), grown("bfloat16", 10.0)
    factor = 1 + 4 * 10 / 128
    assert np.abs(np.log(narrow / wide) / np.log(factor)).max() < 0.25


def test_v_of_the_real_loss_arrives_with_the_rate_of_the_length():
    history = grown("float32", sop.rate_of_length(60, 1e-8))[:, 0]  # starts from 1e-8 exactly
    arrived = 1 + np.argmax(history > 0.5)  # on the way from 1/2 to 1 the gradient fades
    assert abs(arrived - 0.63 * 60) <= 1 and history[-1] == 1
