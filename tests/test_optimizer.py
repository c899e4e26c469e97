"""SGD as torch does it, Muon, averages, and rows that move by rate * B / 128 with no memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sop_jax import optimizer
from sop_jax.config import default
from sop_jax.settings import complete


def configured(**fields):
    """A complete config with fields of config.optimizer set."""
    config = default()
    config.epochs = fields.pop("epochs", 10)
    for name, value in fields.items():
        config.optimizer[name] = value
    return complete(config)


def test_network_schedule_is_constant_within_an_epoch():
    config = configured(
        epochs=2,
        schedule="step",
        drop_epochs=(1,),
        momentum=0.0,
        weight_decay=0.0,
        learning_rate=1.0,
    )
    transform = optimizer.network_optimizer(config, steps_per_epoch=3)
    state, moves = transform.init(jnp.zeros(())), []
    for _ in range(6):
        update, state = transform.update(jnp.ones(()), state, jnp.zeros(()))
        moves.append(float(update))
    np.testing.assert_allclose(moves, [-1, -1, -1, -0.1, -0.1, -0.1], rtol=1e-6)


def test_sgd_is_torchs():
    """m <- mu m + (g + wd w); w <- w - lr m: coupled decay, no dampening."""
    transform = optimizer.sgd(0.1, 0.9, 0.5)
    w, state = jnp.array(2.0), transform.init(jnp.array(2.0))
    m, expected = 0.0, 2.0
    for gradient in (1.0, -0.5, 0.25):
        update, state = transform.update(jnp.array(gradient), state, w)
        w = w + update
        m = 0.9 * m + gradient + 0.5 * expected
        expected -= 0.1 * m
        np.testing.assert_allclose(w, expected, rtol=1e-6)


@pytest.mark.parametrize("batch_size", [16, 128, 512])
def test_rows_move_by_the_rate_scaled_by_the_batch_and_keep_no_memory(batch_size):
    network = optimizer.sgd(0.1, 0.9, 0.5)
    transform = optimizer.make_optimizer(network, {"u": 10.0, "v": 100.0}, batch_size)
    rows = {"u": jnp.ones((4, 1)), "v": jnp.ones((4, 3))}
    variables = {"network": {"w": jnp.ones(3)}, "rows": rows}
    state = transform.init(
        {"network": variables["network"], "rows": jax.tree.map(lambda x: x[:1], rows)}
    )
    gradients = jax.tree.map(jnp.ones_like, variables)
    # the same move twice: no momentum; and no decay, though the rows are not zero
    for _ in range(2):
        updates, state = transform.update(gradients, state, variables)
        np.testing.assert_allclose(updates["rows"]["u"], -10.0 * batch_size / 128)
        np.testing.assert_allclose(updates["rows"]["v"], -100.0 * batch_size / 128)
    # network momentum alone
    assert all(leaf.size == 3 or leaf.size == 1 for leaf in jax.tree.leaves(state))


def test_triangular_schedule_rises_and_falls_by_step():
    config = configured(
        epochs=2,
        schedule="triangular",
        warmup=0.5,
        momentum=0.0,
        weight_decay=0.0,
        learning_rate=1.0,
    )
    transform = optimizer.network_optimizer(config, steps_per_epoch=2)
    state, moves = transform.init(jnp.zeros(())), []
    for _ in range(4):
        update, state = transform.update(jnp.ones(()), state, jnp.zeros(()))
        moves.append(float(update))
    np.testing.assert_allclose(moves, [0, -0.5, -1, -0.5], rtol=1e-6)


def test_nesterov_looks_ahead():
    """torch: g + mu m instead of m."""
    transform = optimizer.sgd(0.1, 0.9, 0.0, nesterov=True)
    state, m = transform.init(jnp.array(2.0)), 0.0
    for gradient in (1.0, -0.5, 0.25):
        update, state = transform.update(jnp.array(gradient), state, jnp.array(2.0))
        m = 0.9 * m + gradient
        np.testing.assert_allclose(update, -0.1 * (gradient + 0.9 * m), rtol=1e-6)


@pytest.mark.usefixtures("promoting_libraries")
def test_muon_moves_kernels_orthogonally_and_leaves_the_rest_and_the_rows_to_gradient_descent():
    config = configured(
        name="muon",
        schedule="constant",
        muon_learning_rate=0.1,
        learning_rate=0.5,
        weight_decay=0.0,
    )
    transform = optimizer.make_optimizer(optimizer.network_optimizer(config, 1), {"u": 10.0}, 64)
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 4, 8))
    network = (
        {
            "conv": kernel * 8**0.5 / jnp.linalg.norm(kernel),
            "bias": jnp.zeros(8),
            "head": jnp.ones((8, 3)),
        },
    )
    variables = {"network": network, "rows": {"u": jnp.ones((4, 1))}}
    state = transform.init({"network": network, "rows": {"u": jnp.ones((1, 1))}})
    gradients = jax.tree.map(lambda x: jax.random.normal(jax.random.key(1), x.shape), variables)
    updates, _ = transform.update(gradients, state, variables)
    np.testing.assert_allclose(
        updates["rows"]["u"], -10.0 * 64 / 128 * gradients["rows"]["u"], rtol=1e-6
    )
    for name in ("bias", "head"):
        np.testing.assert_allclose(
            updates["network"][0][name], -0.5 * gradients["network"][0][name], rtol=1e-6
        )

    old = network[0]["conv"].reshape(36, 8)
    new = old + updates["network"][0]["conv"].reshape(36, 8)
    np.testing.assert_allclose(jnp.linalg.norm(new), 8**0.5, rtol=1e-6)
    u, _, v = np.linalg.svd(gradients["network"][0]["conv"].reshape(36, 8), full_matrices=False)
    # Before its norm was set back, the kernel was a multiple of `new`: old - 0.1 * (nearly u @ v).
    scale = np.linalg.norm(old - 0.1 * u @ v) / 8**0.5
    singular = np.linalg.svd((np.asarray(old) - scale * np.asarray(new)) / 0.1, compute_uv=False)
    # the band of Newton and Schulz's iteration
    assert singular.min() > 0.6 and singular.max() < 1.3


def test_average_by_hand():
    transform = optimizer.average_parameters(0.15)
    params, expected = {"w": jnp.array([4.0])}, 4.0
    state = transform.init(params)
    for t, update in enumerate([1.0, -2.0, 3.0]):
        updates, state = transform.update({"w": jnp.array([update])}, state, params)
        np.testing.assert_array_equal(updates["w"], [update])
        params = {"w": params["w"] + updates["w"]}
        kept = (0.1, 0.15, 0.15)[t]  # 1/10; then 2/11 and 3/12 are more than the decay
        expected = kept * expected + (1 - kept) * float(params["w"][0])
        np.testing.assert_allclose(state.average["w"], [expected], rtol=1e-6)


def test_a_plain_run_keeps_no_average():
    """Off, the optimiser's state is what it was, so older checkpoints still fit."""
    state = optimizer.network_optimizer(complete(default()), 1).init({"w": jnp.zeros((3, 3, 1, 1))})
    plain = optimizer.sgd(lambda count: 0.1, 0.9, 5e-4).init({"w": jnp.zeros((3, 3, 1, 1))})
    assert jax.tree.structure(state) == jax.tree.structure(plain)
