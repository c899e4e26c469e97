"""ELR against numbers computed with the authors' code, and against values worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_match

from sop_jax import methods
from sop_jax.errors import UserError
from sop_jax.methods import Problem
from sop_jax.methods.elr import elr_loss, moved_target


def test_three_epochs_match_the_published_code(golden, precision):
    """Losses, gradients and the whole table of targets after each of 12 batches."""
    dtype, tolerance = precision
    g = golden("elr")
    beta, weight = float(g["beta"]), float(g["lam"])
    table = np.zeros((len(g["labels"]), 10), dtype)

    @jax.jit
    def batch_loss(logits, labels, rows):
        target = moved_target(rows, logits, beta)
        return jnp.mean(elr_loss(logits, labels, target, weight)), target

    for epoch, batch in np.ndindex(3, 4):
        index = g["index"][epoch, batch]
        (loss, target), gradient = jax.value_and_grad(batch_loss, has_aux=True)(
            g["logits"][epoch, batch].astype(dtype), g["labels"][index], table[index]
        )
        table[index] = target
        assert loss.dtype == dtype
        assert_match(loss, g["loss"][epoch, batch], tolerance)
        assert_match(gradient, g["d_logits"][epoch, batch], tolerance)
        assert_match(table, g["target"][epoch, batch], tolerance)


def test_values_worked_out_by_hand():
    """Equal logits of two classes: p = 1/2 each, so t = beta t + (1 - beta)/2."""
    logits, start = jnp.zeros((1, 2)), jnp.array([[0.0, 0.8]])
    target = moved_target(start, logits, 0.75)
    np.testing.assert_allclose(target, [[0.125, 0.725]], rtol=1e-6)
    loss = elr_loss(logits, jnp.array([0]), target, 3.0)
    np.testing.assert_allclose(loss, np.log(2) + 3 * np.log(1 - 0.425), rtol=1e-5)


def test_no_gradient_goes_into_the_target():
    def loss(logits):
        return jnp.sum(moved_target(jnp.zeros((2, 3)), logits, 0.7))

    np.testing.assert_array_equal(jax.grad(loss)(jnp.ones((2, 3))), 0)


def test_the_noise_estimate_is_the_given_label_minus_the_target():
    rows = {"target": jnp.array([[0.1, 0.3, 0.0], [0.0, 0.0, 0.0]])}
    labels = jnp.array([0, 1])
    elr = methods.find("elr")(num_classes=3)
    np.testing.assert_allclose(
        elr.noise_estimate(rows, labels, 3), [[0.75, -0.75, 0], [0, 0, 0]], atol=1e-6
    )
    found = elr.diagnostics(rows, labels)["target_elsewhere"]
    np.testing.assert_allclose(found, [0.75, 2 / 3], rtol=1e-6)  # unseen: uniform
    with pytest.raises(UserError, match="2 entries for 1 labels"):
        elr.noise_estimate(rows, labels[:1], 3)


@pytest.mark.parametrize(
    ("num_classes", "noise_kind", "momentum", "weight"),
    [
        (10, "symmetric", 0.7, 3.0),
        (10, "human", 0.7, 3.0),
        (10, "asymmetric", 0.9, 1.0),
        (100, "symmetric", 0.9, 7.0),
        (100, "block_swap", 0.9, 7.0),
    ],
)
def test_published_settings(num_classes, noise_kind, momentum, weight):
    problem = Problem(num_classes, noise_kind=noise_kind)
    found = methods.find("elr")(problem).defaults(problem)
    assert found == {"momentum": momentum, "weight": weight}
