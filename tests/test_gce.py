"""GCE against values worked out by hand, its two limits and its closed-form gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sop_jax.methods.gce import gce_loss

LABELS = jnp.array([3, 0, 9, 5])
LOGITS = 3 * jax.random.normal(jax.random.key(0), (4, 10))


def test_values_worked_out_by_hand():
    # equal logits: p = 1/10
    np.testing.assert_allclose(
        gce_loss(jnp.zeros((4, 10)), LABELS, 0.7), (1 - 0.1**0.7) / 0.7, rtol=1e-6
    )
    # p = (3/4, 1/4), q = 1/2
    logits = jnp.array([[np.log(3), 0.0]])
    np.testing.assert_allclose(
        gce_loss(logits, jnp.array([0]), 0.5), 2 * (1 - np.sqrt(0.75)), rtol=1e-6
    )


def test_the_limits_are_cross_entropy_and_the_absolute_error():
    plain = optax.softmax_cross_entropy_with_integer_labels(LOGITS, LABELS)
    np.testing.assert_allclose(gce_loss(LOGITS, LABELS, 1e-6), plain, rtol=1e-4)
    p = jnp.take_along_axis(jax.nn.softmax(LOGITS), LABELS[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(gce_loss(LOGITS, LABELS, 1.0), 1 - p, rtol=1e-5, atol=1e-6)


def test_the_gradient_in_closed_form():
    """p_y^q times that of cross-entropy (paper, section 3.2)."""
    probs, given = jax.nn.softmax(LOGITS), jax.nn.one_hot(LABELS, 10)
    p = jnp.sum(given * probs, axis=-1, keepdims=True)
    found = jax.grad(lambda z: jnp.sum(gce_loss(z, LABELS, 0.7)))(LOGITS)
    np.testing.assert_allclose(found, p**0.7 * (probs - given), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", [200.0, -200.0])
def test_the_gradient_is_finite_where_the_network_is_certain(scale):
    logits = scale * jax.nn.one_hot(LABELS, 10)
    found = jax.grad(lambda z: jnp.sum(gce_loss(z, LABELS, 0.7)))(logits)
    assert np.isfinite(found).all()
