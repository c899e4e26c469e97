"""Training views: what may be drawn, and that a view depends on seed, epoch and example alone."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sop_jax.data import augment
from sop_jax.data.augment import Augment, example_keys, normalise

AUGMENT = Augment(4, True, "autoaugment", 16, mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26))
PLAIN = Augment(0, False, "weak", 0, mean=(0.0,), std=(1.0,))  # changes nothing but the scale
IMAGES = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
KEY = jax.random.key(7)
WEAK, BOTH = ("weak",), ("weak", "strong")
views = jax.jit(augment.views, static_argnums=(0, 3))


def pixels(view) -> np.ndarray:
    """Back from a view of `PLAIN`'s scale to grey levels."""
    return np.rint(np.asarray(view) * 255).astype(int)


@pytest.mark.parametrize("names", [WEAK, BOTH, ("weak", "weak"), ("strong", "weak", "weak")])
def test_shape_and_type(names):
    result = views(AUGMENT, example_keys(KEY, 0, jnp.arange(12)), IMAGES, names)
    chex.assert_shape(result, (12, len(names), 32, 32, 3))
    chex.assert_type(result, jnp.float32)
    assert np.isfinite(result).all()


@pytest.mark.parametrize("names", [(), ("weak", "medium"), "weak"])
def test_views_are_weak_or_strong(names):
    with pytest.raises(ValueError, match="must be 'weak' or 'strong'"):
        views(AUGMENT, example_keys(KEY, 0, jnp.arange(12)), IMAGES, names)


def test_a_view_depends_on_its_place_and_not_on_the_other_views():
    keys = example_keys(KEY, 3, jnp.arange(12))
    both = views(AUGMENT, keys, IMAGES, BOTH)
    chex.assert_trees_all_equal(views(AUGMENT, keys, IMAGES, WEAK)[:, 0], both[:, 0])
    twice = views(AUGMENT, keys, IMAGES, ("weak", "weak", "strong"))
    chex.assert_trees_all_close(twice[:, 0], both[:, 0], atol=1e-6)
    # Each place folds its own number into the key: weak views of one image are not the same.
    for one, other in ((both[:, 0], both[:, 1]), (twice[:, 0], twice[:, 1])):
        assert (one != other).any(axis=(1, 2, 3)).sum() >= 11  # a crop may agree by chance
    assert (twice[:, 2] != both[:, 1]).any(axis=(1, 2, 3)).all()


def test_crops_and_flips_of_two_weak_views_are_drawn_apart():
    """Giving both views one key fold leaves them equal; here even their offsets must not agree."""
    count, side = 500, 6
    image = np.arange(1, 37, dtype=np.uint8).reshape(side, side, 1)
    images = np.broadcast_to(image, (count, side, side, 1))
    setting = dataclasses.replace(PLAIN, crop_padding=2)
    both = pixels(views(setting, example_keys(KEY, 0, jnp.arange(count)), images, ("weak", "weak")))
    same_offset = (both[:, 0, 2, 2, 0] == both[:, 1, 2, 2, 0]).mean()
    assert abs(same_offset - 1 / 25) < 0.03


def test_jit_equals_no_jit():
    keys = example_keys(KEY, 1, jnp.arange(12))
    plain = augment.views(AUGMENT, keys, IMAGES, BOTH)
    chex.assert_trees_all_close(views(AUGMENT, keys, IMAGES, BOTH), plain, atol=1e-6)


@settings(deadline=None, max_examples=10)
@given(st.permutations(range(12)), st.sampled_from([1, 5, 12]))
def test_a_view_does_not_depend_on_the_batch_around_it(order, size):
    rows = jnp.array(order[:size]) + 1000
    batch = views(AUGMENT, example_keys(KEY, 5, rows), IMAGES[np.array(order[:size])], BOTH)
    whole = views(AUGMENT, example_keys(KEY, 5, jnp.arange(12) + 1000), IMAGES, BOTH)
    chex.assert_trees_all_equal(batch, whole[np.array(order[:size])])


def test_key_depends_on_seed_epoch_and_row():
    base = jax.random.key_data(example_keys(KEY, 0, jnp.arange(5)))
    assert len(np.unique(base, axis=0)) == 5
    other_epoch = jax.random.key_data(example_keys(KEY, 1, jnp.arange(5)))
    other_seed = jax.random.key_data(example_keys(jax.random.key(8), 0, jnp.arange(5)))
    assert (base != other_epoch).any(axis=1).all()
    assert (base != other_seed).any(axis=1).all()
    chex.assert_trees_all_equal(
        base[3:], jax.random.key_data(example_keys(KEY, 0, jnp.array([3, 4])))
    )


def test_crop_reaches_every_offset_equally_often_and_pads_with_black():
    """Each pixel of the image carries its own number, so that a crop shows where it was taken."""
    count, padding, side = 4000, 2, 6
    image = np.arange(1, 37, dtype=np.uint8).reshape(side, side, 1)
    crops = views(
        dataclasses.replace(PLAIN, crop_padding=padding),
        example_keys(KEY, 0, jnp.arange(count)),
        np.broadcast_to(image, (count, side, side, 1)),
        WEAK,
    )
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    seen = np.zeros((5, 5), int)
    for crop in pixels(crops[:, 0]):
        # padded[top + 2, left + 2] is the crop's pixel (2, 2)
        top, left = divmod(int(crop[2, 2, 0]) - 1, side)
        np.testing.assert_array_equal(crop, padded[top : top + side, left : left + side])
        seen[top, left] += 1
    assert seen.sum() == count
    assert seen.min() > 0.6 * count / 25 and seen.max() < 1.4 * count / 25


def test_black_padding_is_normalised_as_black():
    padded = Augment(4, False, "weak", 0, mean=(0.5,), std=(0.25,))
    white = np.full((64, 8, 8, 1), 255, np.uint8)
    values = np.unique(views(padded, example_keys(KEY, 0, jnp.arange(64)), white, WEAK))
    assert {round(float(value), 5) for value in values} == {-2.0, 2.0}


def test_flip_happens_half_the_time_and_only_where_asked():
    count = 2000
    image = np.arange(16, dtype=np.uint8).reshape(4, 4, 1)
    images, keys = np.broadcast_to(image, (count, 4, 4, 1)), example_keys(KEY, 0, jnp.arange(count))
    flipped = pixels(views(dataclasses.replace(PLAIN, flip=True), keys, images, WEAK)[:, 0])
    is_flipped = (flipped == image[:, ::-1]).all(axis=(1, 2, 3))
    assert (is_flipped | (flipped == image).all(axis=(1, 2, 3))).all()
    assert abs(is_flipped.mean() - 0.5) < 0.05
    assert (pixels(views(PLAIN, keys, images, WEAK)[:, 0]) == image).all()


def test_alternating_flips_show_both_sides_in_two_epochs():
    count = 2000
    image = np.arange(16, dtype=np.uint8).reshape(4, 4, 1)
    images, rows = np.broadcast_to(image, (count, 4, 4, 1)), jnp.arange(count)
    setting = dataclasses.replace(PLAIN, flip=True, alternating_flip=True)
    weak, strong = [], []
    for epoch in range(4):
        mirror = augment.alternating_mirror(KEY, epoch, rows)
        both = views(setting, example_keys(KEY, epoch, rows), images, BOTH, mirror)
        weak.append((pixels(both[:, 0]) == image[:, ::-1]).all(axis=(1, 2, 3)))
        strong.append((pixels(both[:, 1]) == image[:, ::-1]).all(axis=(1, 2, 3)))
        np.testing.assert_array_equal(weak[-1], mirror)
    assert abs(weak[0].mean() - 0.5) < 0.05  # a row's first side is a fair coin
    for epoch in range(3):
        np.testing.assert_array_equal(weak[epoch], ~weak[epoch + 1])
        # the strong view's flips are drawn anew
        assert 0.4 < (strong[epoch] == strong[epoch + 1]).mean() < 0.6
    few = augment.alternating_mirror(KEY, 1, jnp.array([7, 3]))
    # a function of the run's key, the epoch's parity and the row
    np.testing.assert_array_equal(few, weak[1][[7, 3]])
    assert (augment.alternating_mirror(jax.random.key(8), 0, rows) != weak[0]).any()


def test_cutout_zeroes_one_square_of_the_strong_view_only():
    count, side = 500, 6
    images, keys = (
        np.full((count, 16, 16, 1), 200, np.uint8),
        example_keys(KEY, 0, jnp.arange(count)),
    )
    both = views(dataclasses.replace(PLAIN, cutout=side), keys, images, BOTH)
    weak, holes = both[:, 0], np.asarray(both[:, 1, ..., 0] == 0)
    assert (weak != 0).all()
    centres = set()
    for hole in holes:
        rows, columns = np.flatnonzero(hole.any(axis=1)), np.flatnonzero(hole.any(axis=0))
        assert hole.sum() == len(rows) * len(columns)  # one rectangle
        assert 3 <= len(rows) <= side and 3 <= len(columns) <= side  # at least half of it inside
        centres.add((rows[0], rows[-1], columns[0], columns[-1]))
    assert max(hole.sum() for hole in holes) == side * side
    assert len(centres) > 150  # of 256
    assert (views(PLAIN, keys, images, BOTH) != 0).all()


def test_strong_view_takes_its_own_crop_and_the_policy():
    keys = example_keys(KEY, 0, jnp.arange(12))
    weak_kind = views(dataclasses.replace(AUGMENT, strong="weak", cutout=0), keys, IMAGES, BOTH)
    policy_kind = views(dataclasses.replace(AUGMENT, cutout=0), keys, IMAGES, BOTH)
    assert (weak_kind[:, 0] != weak_kind[:, 1]).any(axis=(1, 2, 3)).all()
    changed = (weak_kind[:, 1] != policy_kind[:, 1]).any(axis=(1, 2, 3))
    assert 0 < changed.sum() <= 12  # a sub-policy may be skipped altogether


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.floats(0, 1), st.floats(0.05, 2))
def test_normalise_can_be_undone(seed, mean, std):
    images = np.random.default_rng(seed).integers(0, 256, (2, 3, 5, 2), dtype=np.uint8)
    result = normalise(images, (mean, 0.5), (std, 0.3))
    chex.assert_type(result, jnp.float32)
    back = (np.asarray(result, np.float64) * [std, 0.3] + [mean, 0.5]) * 255
    np.testing.assert_allclose(back, images, atol=1e-2)


def test_normalise_wants_one_mean_a_channel():
    with pytest.raises(AssertionError):
        normalise(IMAGES, (0.5,), (0.25,))


def test_views_are_the_same_with_double_precision_switched_on():
    keys = example_keys(KEY, 2, jnp.arange(12))
    single = np.asarray(views(AUGMENT, keys, IMAGES, BOTH))
    with jax.enable_x64(True):
        double = views(AUGMENT, keys, IMAGES, BOTH)
    chex.assert_type(double, jnp.float32)
    chex.assert_trees_all_close(double, single, atol=1e-6)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("channels", [1, 3])
def test_nothing_is_promoted_or_moved_unasked(channels):
    chosen = dataclasses.replace(AUGMENT, mean=(0.5,) * channels, std=(0.25,) * channels)
    images = jax.device_put(IMAGES[..., :channels])
    epoch, index = jax.device_put(np.int32(3)), jax.device_put(np.arange(12))

    def batch(key, epoch, index, images):
        mirror = augment.alternating_mirror(key, epoch, index)
        keys = example_keys(key, epoch, index)
        return augment.views(chosen, keys, images, ("weak", "strong", "weak"), mirror)

    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        relaxed = jax.jit(batch)(KEY, epoch, index, images)
    with (
        jax.numpy_rank_promotion("raise"),
        jax.numpy_dtype_promotion("strict"),
        jax.transfer_guard("disallow"),
    ):
        strict = jax.jit(batch)(KEY, epoch, index, images)
    chex.assert_trees_all_equal(strict, relaxed)
