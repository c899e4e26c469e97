"""Co-teaching: which examples a network hands to the other, and what it learns from them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sop_jax import methods
from sop_jax.methods import Problem
from sop_jax.methods.base import Batch, Clock
from sop_jax.methods.coteaching import forget_share, small_losses

LABELS = jnp.array([0, 1, 2, 0, 1, 2])
LOGITS = tuple(3 * jax.random.normal(key, (6, 3)) for key in jax.random.split(jax.random.key(0)))


def loss_of(logits, weight, epoch=100, **fields):
    """(loss, LossOut) of two networks that answer with the given logits."""
    method = methods.find("coteaching")(num_classes=3, **fields)
    batch = Batch(jnp.zeros((6, 1, 1, 1, 1)), LABELS, jnp.arange(6), weight)
    clock = Clock(jnp.int32(epoch), jnp.float32(epoch))
    return method.loss(lambda net, images: logits[net], batch, {}, (), clock, jax.random.key(0))


def cross_entropy(net):
    return np.asarray(optax.softmax_cross_entropy_with_integer_labels(LOGITS[net], LABELS))


def test_the_small_losses_of_real_examples_are_kept():
    losses = jnp.array([3.0, 1.0, 0.0, 2.0, 5.0])
    weight = jnp.array([1.0, 1.0, 0.0, 1.0, 1.0])
    np.testing.assert_array_equal(small_losses(losses, weight, 0.5), [0, 1, 0, 1, 0])
    np.testing.assert_array_equal(small_losses(losses, weight, 0.0), weight)
    np.testing.assert_array_equal(small_losses(losses, weight, 1.0), 0)


@pytest.mark.parametrize(("forget", "size"), [(0.9, 10), (0.7, 10), (0.8, 5), (0.3, 100)])
def test_a_whole_number_of_kept_examples_is_not_rounded_down(forget, size):
    """(1 - 0.9) * 10 is just below 1 in floating point, and its floor 0."""
    kept = small_losses(jnp.arange(size, dtype=jnp.float32), jnp.ones(size), jnp.float32(forget))
    assert int(kept.sum()) == round((1 - forget) * size)


def test_the_forget_rate_rises_to_its_end_in_the_last_gradual_epoch():
    shares = [float(forget_share(jnp.int32(epoch), 0.4, 10)) for epoch in (0, 3, 9, 50)]
    np.testing.assert_allclose(shares, [0, 0.4 / 3, 0.4, 0.4], rtol=1e-6)
    np.testing.assert_allclose(forget_share(jnp.int32(0), 0.4, 1), 0)


def test_each_network_learns_from_what_the_other_finds_easy():
    first, second = cross_entropy(0), cross_entropy(1)
    easy = [np.argsort(losses)[:3] for losses in (first, second)]
    assert set(easy[0]) != set(easy[1])  # or the test could not tell the networks apart
    value, out = loss_of(LOGITS, jnp.ones(6), forget_rate=0.5)
    np.testing.assert_allclose(value, first[easy[1]].mean() + second[easy[0]].mean(), rtol=1e-5)
    np.testing.assert_allclose(out.metrics["kept_loss"], first[easy[1]].mean(), rtol=1e-5)
    dropped = np.setdiff1d(np.arange(6), easy[1])
    np.testing.assert_allclose(out.metrics["dropped_loss"], first[dropped].mean(), rtol=1e-5)
    np.testing.assert_allclose(out.metrics["forget_share"], 0.5)
    gradient = jax.grad(lambda z: loss_of((z, LOGITS[1]), jnp.ones(6), forget_rate=0.5)[0])(
        LOGITS[0]
    )
    assert set(np.flatnonzero(np.abs(gradient).sum(axis=1))) == set(easy[1])


def test_nothing_forgotten_is_cross_entropy_of_both_networks():
    """In the first epoch, or at rate 0; a padded entry counts for nothing."""
    weight = jnp.array([1.0, 1.0, 1.0, 1.0, 0.0, 0.0])
    expected = sum(cross_entropy(net)[:4].sum() for net in range(2)) / 6
    np.testing.assert_allclose(loss_of(LOGITS, weight, forget_rate=0.0)[0], expected, rtol=1e-5)
    np.testing.assert_allclose(loss_of(LOGITS, weight, epoch=0)[0], expected, rtol=1e-5)


def test_the_forget_rate_is_the_noise_rate_where_it_is_known():
    coteaching = methods.find("coteaching")(num_classes=3)
    assert coteaching.defaults(Problem(3, noise_rate=0.4)) == {"forget_rate": 0.4}
    assert coteaching.defaults(Problem(3)) == {"forget_rate": 0.2}
