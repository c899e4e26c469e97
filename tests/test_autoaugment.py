"""Image operations against Pillow itself, on photographs and on digits; the policy's draws."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from sklearn.datasets import load_digits, load_sample_images

from sop_jax.data import autoaugment, image_ops
from sop_jax.errors import UserError

GEOMETRIC_COEFFICIENTS = {
    "ShearX": lambda v: (1, v, 0, 0, 1, 0),
    "ShearY": lambda v: (1, 0, 0, v, 1, 0),
    "TranslateX": lambda v: (1, 0, v, 0, 1, 0),
    "TranslateY": lambda v: (1, 0, 0, 0, 1, v),
}


@functools.cache
def photographs() -> np.ndarray:
    """520 tiles uint8 [520, 32, 32, 3] of scikit-learn's two photographs."""
    tiles = [
        p[:416, :640].reshape(13, 32, 20, 32, 3).swapaxes(1, 2) for p in load_sample_images().images
    ]
    return np.concatenate(tiles).reshape(-1, 32, 32, 3)


@functools.cache
def digits() -> np.ndarray:
    """300 digits uint8 [300, 8, 8, 1]."""
    return (load_digits().images[:300] * 15).astype(np.uint8)[..., None]


def pillow(name: str, value: float, image: np.ndarray) -> np.ndarray:
    source = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
    if name in GEOMETRIC_COEFFICIENTS:
        result = source.transform(
            source.size, Image.Transform.AFFINE, GEOMETRIC_COEFFICIENTS[name](value)
        )
    elif name == "Rotate":
        result = source.rotate(value)
    elif name in ("Contrast", "Brightness", "Color", "Sharpness"):
        result = getattr(ImageEnhance, name)(source).enhance(value)
    elif name in ("Posterize", "Solarize"):
        result = getattr(ImageOps, name.lower())(source, value)
    else:
        result = getattr(ImageOps, name.lower())(source)
    return np.asarray(result).reshape(image.shape)


def assert_like_pillow(name: str, value: float, images: np.ndarray):
    """The tolerance this project promises; on x86 all results are in fact equal."""
    ours = np.asarray(apply_op(name, value, images)).astype(int)
    theirs = np.stack([pillow(name, value, image) for image in images]).astype(int)
    differ = ours != theirs
    if name in image_ops.GEOMETRIC:
        assert differ.any(axis=-1).mean() <= 0.01, (name, value)
    else:
        assert np.abs(ours - theirs).max() <= 1, (name, value)
        assert differ.mean() <= 0.01, (name, value)


@jax.jit
def apply_encoded(op, images):
    return jax.vmap(functools.partial(image_ops.apply, op))(images)


def apply_op(name, value, images):
    """`image_ops.apply_op`, compiled once for all operations and values."""
    return apply_encoded(image_ops.encode(name, value, *images.shape[1:3]), images)


@pytest.mark.parametrize("name", image_ops.NAMES[1:])
def test_every_operation_matches_pillow(name):
    values = {autoaugment.level_value(name, level) for level in range(10)}
    if name in image_ops.GEOMETRIC:
        values |= {-value for value in values}
    for images in (photographs(), digits()):
        for value in sorted(values):
            assert_like_pillow(name, value, images)


@pytest.mark.parametrize(
    "name, value", [("Rotate", 12), ("Sharpness", 1.72), ("Equalize", 0), ("AutoContrast", 0)]
)
def test_images_need_not_be_square(name, value):
    assert_like_pillow(name, value, photographs()[:60, :20])


@pytest.mark.parametrize("low, high", [(0, 255), (7, 7), (3, 108), (100, 175), (0, 1), (254, 255)])
def test_autocontrast_of_every_level_of_a_range_is_exactly_pillows(low, high):
    image = np.resize(np.arange(low, high + 1), 32 * 32).astype(np.uint8).reshape(1, 32, 32, 1)
    np.testing.assert_array_equal(
        apply_op("AutoContrast", 0, image)[0], pillow("AutoContrast", 0, image[0])
    )


@pytest.mark.parametrize("level", range(10))
def test_brightness_of_every_grey_level_is_exactly_pillows(level):
    image = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    value = autoaugment.level_value("Brightness", level)
    np.testing.assert_array_equal(
        apply_op("Brightness", value, image)[0], pillow("Brightness", value, image[0])
    )


def test_apply_op_is_apply_on_a_batch():
    images = photographs()[:4]
    result = jax.jit(functools.partial(image_ops.apply_op, "Color", 0.64))(images)
    chex.assert_shape(result, (4, 32, 32, 3))
    chex.assert_type(result, jnp.uint8)
    chex.assert_trees_all_equal(result, apply_op("Color", 0.64, images))
    assert (result != images).any()


def test_unknown_operation_and_channels_are_named():
    with pytest.raises(ValueError, match="'Blur'"):
        image_ops.encode("Blur", 0, 32, 32)
    with pytest.raises(UserError, match="got 4"):
        image_ops.apply_op("Invert", 0, np.zeros((1, 8, 8, 4), np.uint8))


def test_policy_is_the_published_one():
    assert len(autoaugment.POLICY) == 25
    assert autoaugment.POLICY[13] == (("Brightness", 0.9, 6), ("Color", 0.2, 6))
    names = {name for sub_policy in autoaugment.POLICY for name, _, _ in sub_policy}
    assert names <= set(image_ops.NAMES)
    assert [autoaugment.level_value("Posterize", level) for level in range(10)] == [
        4,
        4,
        4,
        3,
        3,
        2,
        2,
        2,
        1,
        1,
    ]
    assert [autoaugment.level_value("Solarize", level) for level in (0, 2, 5, 9)] == [
        256,
        205,
        128,
        26,
    ]
    assert autoaugment.level_value("Rotate", 2) == 6
    assert autoaugment.level_value("TranslateY", 9) == 9


def test_draws_follow_the_policys_probabilities():
    count = 50_000
    sub_policies, variants = map(
        np.asarray, autoaugment.draw(jax.random.split(jax.random.key(0), count))
    )
    frequencies = np.bincount(sub_policies, minlength=25) / count
    np.testing.assert_allclose(frequencies, 1 / 25, atol=0.005)
    for number, sub_policy in enumerate(autoaugment.POLICY):
        chosen = variants[sub_policies == number]
        applied = (chosen != autoaugment.SKIPPED).mean(axis=0)
        np.testing.assert_allclose(
            applied, [probability for _, probability, _ in sub_policy], atol=0.06
        )
    mirrored = (variants == autoaugment.MIRRORED).sum() / (variants != autoaugment.SKIPPED).sum()
    assert abs(mirrored - 0.5) < 0.01


@pytest.mark.parametrize(
    "images", [photographs()[200:328], digits()[:128]], ids=["photographs", "digits"]
)
def test_autoaugment_does_what_was_drawn(images):
    keys = jax.random.split(jax.random.key(1), len(images))
    result = np.asarray(jax.jit(autoaugment.autoaugment)(keys, images))
    for image, got, sub_policy, variant in zip(
        images, result, *map(np.asarray, autoaugment.draw(keys)), strict=True
    ):
        for (name, _, level), choice in zip(autoaugment.POLICY[sub_policy], variant, strict=True):
            value = autoaugment.level_value(name, level)
            if choice == autoaugment.MIRRORED and name in image_ops.GEOMETRIC:
                value = -value
            if choice != autoaugment.SKIPPED:
                image = pillow(name, value, image)
        assert (np.abs(got.astype(int) - image) > 2).mean() <= 0.01


@pytest.mark.parametrize("place", range(25))
def test_one_warp_for_both_operations_is_the_one_after_the_other(place):
    """Whatever is drawn of a sub-policy: the second warp is looked up together with the first."""
    images = photographs()[:40]
    table = autoaugment._encoded_policy(32, 32)
    for first in range(3):
        for second in range(3):
            ops = [
                image_ops.Op(*(leaf[place, slot, variant] for leaf in table))
                for slot, variant in ((0, first), (1, second))
            ]
            expected = images
            for op in ops:
                expected = apply_encoded(op, expected)
            np.testing.assert_array_equal(both(ops, images), expected)


@jax.jit
def both(ops, images):
    return jax.vmap(functools.partial(autoaugment.apply_both, ops))(images)
