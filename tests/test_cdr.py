"""CDR against numbers computed with the authors' code, and the ranking of weights by hand."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import assert_match

from sop_jax import methods
from sop_jax.methods import Problem
from sop_jax.methods.cdr import critical_gradients
from sop_jax.optimizer import sgd

NAMES = ("w1", "b1", "w2", "b2")


def loss_of(params, images, labels):
    hidden = jax.nn.relu(images @ params["w1"].T + params["b1"][None])
    logits = hidden @ params["w2"].T + params["b2"][None]
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


@pytest.mark.parametrize("tau", ["0.2", "0.4"])
def test_three_steps_match_the_published_code(golden, precision, tau):
    dtype, tolerance = precision
    g = golden(f"cdr_tau{tau}")
    cdr = methods.find("cdr")(num_classes=5, noise_rate=float(g["noise_rate"]))
    plain = sgd(float(g["lr"]), float(g["momentum"]), float(g["weight_decay"]))
    transform = cdr.network_transform(plain, 1)
    params = {name: jnp.asarray(g[name][0], dtype) for name in NAMES}
    state = transform.init(params)
    for step in range(3):
        loss, gradients = jax.value_and_grad(loss_of)(
            params, g["x"][step].astype(dtype), g["y"][step]
        )
        assert_match(loss, g["loss"][step], tolerance)
        kept, _ = critical_gradients(float(g["noise_rate"])).update(
            gradients, optax.EmptyState(), params
        )
        updates, state = transform.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        momentum = optax.tree.get(state, "trace")
        for name in NAMES:
            assert params[name].dtype == dtype
            assert_match(params[name], g[name][step + 1], tolerance)
            assert_match(momentum[name], g[f"mom_{name}"][step], tolerance)
        for name in ("w1", "w2"):
            critical = g[f"mask_{name}"][step] & (g[f"grad_{name}"][step] != 0)
            np.testing.assert_array_equal(kept[name] != 0, critical)


def test_kernels_are_ranked_together_and_the_rest_is_left_alone():
    """|w * g| is 6, 1 | 4, 2: the two largest are one of each kernel, and both are halved."""
    params = {"a": jnp.array([[2.0, 1.0]]), "b": jnp.array([[1.0, 2.0]]), "bias": jnp.ones(2)}
    gradients = {"a": jnp.array([[3.0, -1.0]]), "b": jnp.array([[-4.0, 1.0]]), "bias": jnp.ones(2)}
    kept, _ = critical_gradients(0.5).update(gradients, optax.EmptyState(), params)
    np.testing.assert_array_equal(kept["a"], [[1.5, 0.0]])
    np.testing.assert_array_equal(kept["b"], [[-2.0, 0.0]])
    np.testing.assert_array_equal(kept["bias"], [1.0, 1.0])


def test_two_networks_are_one_ranking():
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = ((3, 3, 2, 4), (7, 5))
    params = tuple({"w": jax.random.normal(k, s)} for k, s in zip(keys[:2], shapes, strict=True))
    gradients = tuple({"w": jax.random.normal(k, s)} for k, s in zip(keys[2:], shapes, strict=True))
    kept, _ = critical_gradients(0.25).update(gradients, optax.EmptyState(), params)
    scores = np.concatenate(
        [np.abs(np.ravel(p["w"] * g["w"])) for p, g in zip(params, gradients, strict=True)]
    )
    critical = np.zeros(scores.size, bool)
    critical[np.argsort(-scores)[: int(0.75 * scores.size)]] = True
    found = np.concatenate([np.ravel(k["w"]) for k in kept])
    np.testing.assert_array_equal(found != 0, critical)


def test_a_noise_rate_of_zero_changes_no_bit():
    params = {"w": jax.random.normal(jax.random.key(0), (7, 5)), "b": jnp.ones(5)}
    gradients = jax.tree.map(lambda x: jnp.sin(9 * x).at[0].set(0), params)
    plain, cdr = sgd(0.1, 0.9, 1e-3), methods.find("cdr")(num_classes=5, noise_rate=0.0)
    masked = cdr.network_transform(plain, 1)
    expected, _ = jax.jit(plain.update)(gradients, plain.init(params), params)
    found, _ = jax.jit(masked.update)(gradients, masked.init(params), params)
    chex.assert_trees_all_equal(found, expected)


def test_a_gradient_that_is_no_number_is_not_hidden():
    params = {"w": jnp.ones((2, 2))}
    gradients = {"w": jnp.array([[jnp.nan, 1.0], [2.0, 3.0]])}
    kept, _ = critical_gradients(0.5).update(gradients, optax.EmptyState(), params)
    assert np.isnan(kept["w"][0, 0])


def test_the_noise_rate_is_that_of_the_data_where_it_is_known():
    cdr = methods.find("cdr")(num_classes=5)
    assert cdr.defaults(Problem(5, noise_rate=0.4)) == {"noise_rate": 0.4}
    assert cdr.defaults(Problem(5)) == {"noise_rate": 0.2}
