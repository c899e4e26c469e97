"""Schedules by hand, SGD as torch does it, and rows that move by rate * B / 128 with no memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sop_jax import optimizer
from sop_jax.config import default


def rates(**fields):
    config = default()
    config.epochs = 10
    config.optimizer.update(fields)
    return [float(optimizer.learning_rate_at(config, e)) for e in range(10)]


def test_step_schedule_drops_at_the_start_of_the_epoch():
    got = rates(schedule="step", learning_rate=0.02, drop_epochs=(4, 8), drop_factor=0.1)
    np.testing.assert_allclose(got, [0.02] * 4 + [0.002] * 4 + [0.0002] * 2, rtol=1e-6)


def test_cosine_schedule_starts_at_the_rate_and_heads_for_the_final_one():
    got = rates(schedule="cosine", learning_rate=0.02, final_learning_rate=2e-4)
    np.testing.assert_allclose(got[0], 0.02, rtol=1e-6)
    np.testing.assert_allclose(got[5], 2e-4 + 0.0198 / 2, rtol=1e-6)
    np.testing.assert_allclose(got[9], 2e-4 + 0.0198 * (1 + np.cos(np.pi * 0.9)) / 2, rtol=1e-5)


def test_constant_schedule():
    assert rates(schedule="constant", learning_rate=0.5) == [0.5] * 10


def test_network_schedule_is_constant_within_an_epoch():
    config = default()
    config.epochs = 2
    config.optimizer.update(schedule="step", drop_epochs=(1,), momentum=0.0, weight_decay=0.0, learning_rate=1.0)
    transform = optimizer.network_optimizer(config, steps_per_epoch=3)
    state, moves = transform.init(jnp.zeros(())), []
    for _ in range(6):
        update, state = transform.update(jnp.ones(()), state, jnp.zeros(()))
        moves.append(float(update))
    np.testing.assert_allclose(moves, [-1, -1, -1, -0.1, -0.1, -0.1], rtol=1e-6)


def test_sgd_is_torchs():
    """m <- mu m + (g + wd w); w <- w - lr m: coupled decay, no dampening (methods.md, 0.4)."""
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
    state = transform.init({"network": variables["network"], "rows": jax.tree.map(lambda x: x[:1], rows)})
    gradients = jax.tree.map(jnp.ones_like, variables)
    for _ in range(2):  # the same move twice: no momentum; and no decay, though the rows are not zero
        updates, state = transform.update(gradients, state, variables)
        np.testing.assert_allclose(updates["rows"]["u"], -10.0 * batch_size / 128)
        np.testing.assert_allclose(updates["rows"]["v"], -100.0 * batch_size / 128)
    assert all(leaf.size == 3 or leaf.size == 1 for leaf in jax.tree.leaves(state))  # network momentum alone
