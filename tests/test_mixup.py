"""mixup: the pairs of a batch, and the loss of a mixed image."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sop_jax import methods
from sop_jax.methods.base import Batch, Clock
from sop_jax.methods.mixup import mixed_loss, partners

KEY = jax.random.key(3)


def batch_of(index, weight):
    size = len(index)
    images = jax.random.normal(jax.random.key(0), (size, 1, 2, 2, 1))
    return Batch(images, jnp.arange(size) % 4, jnp.asarray(index, jnp.int32), jnp.asarray(weight))


def test_the_loss_is_cross_entropy_to_the_mixed_label():
    logits = 2 * jax.random.normal(KEY, (3, 4))
    labels, others = jnp.array([0, 1, 2]), jnp.array([3, 1, 0])
    target = 0.3 * jax.nn.one_hot(labels, 4) + 0.7 * jax.nn.one_hot(others, 4)
    np.testing.assert_allclose(
        mixed_loss(logits, labels, others, 0.3),
        optax.softmax_cross_entropy(logits, target),
        rtol=1e-6,
    )
    # by hand: p = (3/4, 1/4), half of each label
    value = mixed_loss(jnp.array([[np.log(3), 0.0]]), jnp.array([0]), jnp.array([1]), 0.5)
    np.testing.assert_allclose(value, -(np.log(0.75) + np.log(0.25)) / 2, rtol=1e-6)


def test_every_real_example_is_the_partner_of_one_and_padding_of_padding():
    weight = np.array([1, 0, 1, 1, 0, 1, 1, 1], np.float32)
    batch = batch_of([5, 256, 9, 2, 256, 7, 0, 1], weight)
    for seed in range(20):
        found = np.asarray(partners(batch, jax.random.key(seed)))
        assert sorted(found) == list(range(8))
        np.testing.assert_array_equal(weight[found], weight)


def test_pairs_do_not_depend_on_the_order_of_the_batch():
    batch = batch_of([5, 3, 9, 2, 4, 7, 0, 1], np.ones(8, np.float32))
    order = np.random.default_rng(0).permutation(8)
    shuffled = jax.tree.map(lambda x: x[order], batch)
    plain = dict(zip(batch.index.tolist(), batch.index[partners(batch, KEY)].tolist(), strict=True))
    found = shuffled.index[partners(shuffled, KEY)].tolist()
    assert dict(zip(shuffled.index.tolist(), found, strict=True)) == plain


def test_all_permutations_are_equally_likely():
    batch = batch_of([5, 3, 9], np.ones(3, np.float32))
    keys = jax.random.split(KEY, 6000)
    found = np.asarray(jax.jit(jax.vmap(lambda key: partners(batch, key)))(keys))
    _, counts = np.unique(found, axis=0, return_counts=True)
    assert len(counts) == 6 and counts.min() > 900 and counts.max() < 1100


def test_padding_does_not_reach_the_loss():
    """Whatever stands in padded entries, value and gradient are the same."""
    mixup = methods.find("mixup")(num_classes=4)
    weight = np.array([1, 1, 1, 0, 0], np.float32)
    kernel = jax.random.normal(KEY, (4, 4))

    def value(kernel, fill):
        batch = batch_of([5, 3, 9, 256, 256], weight)
        padding = (1 - weight)[:, None, None, None, None]
        batch = batch._replace(image=batch.image * (1 - padding) + fill * padding)
        clock = Clock(jnp.int32(0), jnp.float32(0))
        loss, out = mixup.loss(
            lambda net, images: images.reshape(5, 4) @ kernel, batch, {}, (), clock, KEY
        )
        assert out.logits is None
        return loss

    (one, gradient), (two, other) = (jax.value_and_grad(value)(kernel, x) for x in (0.0, 50.0))
    np.testing.assert_allclose(one, two, rtol=1e-6)
    np.testing.assert_allclose(gradient, other, rtol=1e-5)
