"""The two forms of every look-up, equal in every bit: the TPU's branch is forced on a CPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_autoaugment import digits, photographs

from sop_jax.data import augment, autoaugment, image_ops, one_hot


@pytest.fixture
def in_both_forms(monkeypatch):
    """in_both_forms(function)(*arrays) -> its results in the plain form and in the TPU's."""

    def call(function, *arrays):
        found = []
        for force in (False, True):
            with monkeypatch.context() as patch:
                if force:
                    patch.setattr(one_hot, "on_tpu", lambda tpu, _, *arrays: tpu(*arrays))
                # a new function: jit would remember the other form
                found.append(np.asarray(jax.jit(lambda *args: function(*args))(*arrays)))
        return found

    return lambda function: functools.partial(call, function)


@pytest.mark.parametrize("images", [photographs(), digits()], ids=["photographs", "digits"])
def test_every_operation_is_the_same_in_both_forms(in_both_forms, images):
    """At three values and their negatives, on 500 photographs of 32x32 and 300 digits of 8x8."""
    ops = [
        image_ops.encode(name, sign * autoaugment.level_value(name, level), *images.shape[1:3])
        for name in image_ops.NAMES
        for level in (1, 4, 9)
        for sign in (1, -1)
    ]
    stacked = image_ops.Op(*(np.stack(leaves) for leaves in zip(*ops, strict=True)))

    def each(ops, images):
        return jax.lax.map(lambda op: jax.vmap(functools.partial(image_ops.apply, op))(images), ops)

    plain, products = in_both_forms(each)(stacked, images[:500])
    np.testing.assert_array_equal(products, plain)
    assert plain.shape == (len(ops), len(images[:500]), *images.shape[1:])


def test_views_are_the_same_in_both_forms(in_both_forms):
    images = photographs()[:500]
    how = augment.Augment(4, True, "autoaugment", 16, (0.5,) * 3, (0.25,) * 3)
    keys = augment.example_keys(jax.random.key(3), 1, jnp.arange(len(images)))
    views = functools.partial(augment.views, how, keys, names=("weak", "strong"))
    plain, products = in_both_forms(views)(images)
    np.testing.assert_array_equal(products, plain)


def test_histogram_counts_every_level(in_both_forms):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (3, 35), np.uint8)  # and a size that no power of two divides
    plain, products = in_both_forms(one_hot.histogram)(image)
    np.testing.assert_array_equal(plain, [np.bincount(row, minlength=256) for row in image])
    np.testing.assert_array_equal(products, plain)


@pytest.mark.parametrize(("height", "width"), [(5, 7), (32, 32), (200, 3)])
def test_pixels_outside_are_black_in_both_forms(in_both_forms, height, width):
    rng = np.random.default_rng(1)
    image = rng.integers(1, 256, (3, height * width), np.uint8)
    row = rng.integers(-9, height + 9, height * width).astype(np.int32)
    column = rng.integers(-9, width + 9, height * width).astype(np.int32)
    picked = functools.partial(one_hot.pick, width=width)
    plain, products = in_both_forms(picked)(image, row, column)
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    expected = image[:, np.where(inside, row * width + column, 0)] * inside
    np.testing.assert_array_equal(plain, expected)
    np.testing.assert_array_equal(products, plain)
