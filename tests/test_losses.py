"""Losses without state of their own: values worked out by hand, gradients in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sop_jax import methods
from sop_jax.errors import UserError
from sop_jax.methods.focal import focal_loss
from sop_jax.methods.label_smoothing import smoothed_cross_entropy
from sop_jax.methods.mse import rescaled_mse

LABELS = jnp.array([3, 0, 9, 5])
LOGITS = 3 * jax.random.normal(jax.random.key(0), (4, 10))
ZEROS = jnp.zeros((4, 10))
GIVEN = jax.nn.one_hot(LABELS, 10)


def test_values_at_equal_logits():
    # 1.678585
    np.testing.assert_allclose(focal_loss(ZEROS, LABELS, 3.0), 0.9**3 * np.log(10), rtol=1e-6)
    np.testing.assert_allclose(smoothed_cross_entropy(ZEROS, LABELS, 0.05), np.log(10), rtol=1e-6)
    np.testing.assert_allclose(rescaled_mse(ZEROS, LABELS, 15.0, 1.0), 22.5, rtol=1e-6)
    np.testing.assert_allclose(rescaled_mse(ZEROS, LABELS, 15.0, 4.0), 90, rtol=1e-6)


def test_values_by_hand_on_two_classes():
    """Logits (log 3, 0) give p = (3/4, 1/4)."""
    logits, first = jnp.array([[np.log(3), 0.0]]), jnp.array([0])
    np.testing.assert_allclose(focal_loss(logits, first, 2.0), -np.log(0.75) / 16, rtol=1e-5)
    expected = -(0.9 * np.log(0.75) + 0.1 * (np.log(0.75) + np.log(0.25)) / 2)
    np.testing.assert_allclose(smoothed_cross_entropy(logits, first, 0.1), expected, rtol=1e-5)
    np.testing.assert_allclose(
        rescaled_mse(jnp.array([[2.0, 3.0]]), first, 5.0, 2.0), (2 * 9 + 9) / 2, rtol=1e-6
    )


def test_limits_are_cross_entropy():
    plain = optax.softmax_cross_entropy_with_integer_labels(LOGITS, LABELS)
    np.testing.assert_allclose(focal_loss(LOGITS, LABELS, 0.0), plain, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        smoothed_cross_entropy(LOGITS, LABELS, 0.0), plain, rtol=1e-5, atol=1e-6
    )


def test_gradients_in_closed_form():
    probs = jax.nn.softmax(LOGITS)
    p = jnp.sum(GIVEN * probs, -1, keepdims=True)
    closed = ((1 - p) ** 3 - 3 * p * (1 - p) ** 2 * jnp.log(p)) * (probs - GIVEN)
    found = jax.grad(lambda z: jnp.sum(focal_loss(z, LABELS, 3.0)))(LOGITS)
    np.testing.assert_allclose(found, closed, rtol=1e-4, atol=1e-6)
    found = jax.grad(lambda z: jnp.sum(smoothed_cross_entropy(z, LABELS, 0.05)))(LOGITS)
    np.testing.assert_allclose(found, probs - 0.95 * GIVEN - 0.005, rtol=1e-4, atol=1e-6)
    found = jax.grad(lambda z: jnp.sum(rescaled_mse(z, LABELS, 15.0, 1.0)))(LOGITS)
    np.testing.assert_allclose(found, (LOGITS - 15 * GIVEN) / 5, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("gamma", [1.0, 3.0])
def test_focal_gradient_is_finite_where_the_network_is_certain(gamma):
    found = jax.grad(lambda z: jnp.sum(focal_loss(z, LABELS, gamma)))(200 * GIVEN)
    assert np.isfinite(found).all()
    assert np.isfinite(
        jax.grad(lambda z: jnp.sum(focal_loss(z, LABELS, gamma)))(-200 * GIVEN)
    ).all()


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("focal", "gamma", 0.5),
        ("focal", "gamma", -1.0),
        ("focal", "gamma", float("inf")),
        ("label_smoothing", "smoothing", 1.5),
        ("label_smoothing", "smoothing", -0.1),
        ("mse", "target_scale", -1.0),
        ("mse", "target_weight", float("nan")),
    ],
)
def test_fields_that_cannot_be_are_refused(name, field, value):
    with pytest.raises(UserError, match=f"method.{field}="):
        methods.find(name)(num_classes=10, **{field: value})
