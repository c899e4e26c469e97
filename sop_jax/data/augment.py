"""Augmentation on the device: the weak view (crop, flip) and the strong view of SOP+ (AutoAugment,
crop, flip, cutout).

Every draw comes from the example's own key, fold_in(fold_in(key, epoch), row), so a view depends on
(seed, epoch, row)
and on nothing else: not on the example's place in the batch, the batch's size or the number of
devices. All work is per example along the batch axis, so it needs no communication where the batch
is sharded.
"""

from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp

from sop_jax.data import autoaugment

# folded into the run's key in an epoch's place, for what is drawn once for a row
_EVERY_EPOCH = 2**32 - 1


@dataclass(frozen=True)
class Augment:
    """What is done to a training image (fields as in config.augment; mean and std [C] of pixels /
    255).
    """

    crop_padding: int  # zero padding in pixels before the random crop, 0 for no crop
    flip: bool  # horizontal flip with probability 1/2
    strong: str  # second view: 'autoaugment' or 'weak' (crop and flip only)
    cutout: int  # side of the square zeroed in the second view, 0 for none
    mean: tuple[float, ...]
    std: tuple[float, ...]
    alternating_flip: bool = False  # weak view: flip as `alternating_mirror` says, not at random


def normalise(images: jax.Array, mean, std) -> jax.Array:
    """Pixels to network input, (x / 255 - mean) / std.

    Args:
        images: uint8 [B, H, W, C].
        mean, std: C numbers each, of pixels / 255.
    Returns:
        float32 [B, H, W, C].
    """
    mean, std = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)
    chex.assert_shape([mean, std], (images.shape[-1],))
    return (images.astype(jnp.float32) / 255 - mean) / std


def example_keys(key: jax.Array, epoch: jax.Array | int, rows: jax.Array) -> jax.Array:
    """Keys [B], one an example: fold_in(fold_in(key, epoch), row) of the run's typed key and the
    table rows [B].
    """
    epoch_key = jax.random.fold_in(key, epoch)
    return jax.vmap(lambda row: jax.random.fold_in(epoch_key, row))(rows)


def alternating_mirror(key: jax.Array, epoch: jax.Array | int, rows: jax.Array) -> jax.Array:
    """Bool [B], whether each row is mirrored: in even epochs by its own random bit, in odd ones the
    other way.

    So two epochs show both sides of every image, which flips drawn anew do for half of them (Jordan
    2024, section 3.6). `key` is the run's, as for `example_keys`, and `rows` the table rows [B].
    """
    bits = jax.vmap(jax.random.bernoulli)(example_keys(key, _EVERY_EPOCH, rows))
    return bits ^ (epoch % 2 == 1)


def views(
    augment: Augment,
    keys: jax.Array,
    images: jax.Array,
    names: tuple[str, ...],
    mirror: jax.Array | None = None,
) -> jax.Array:
    """The training views of a batch (SOP, ICML 2022, section 4 and appendix; its published code).

    Args:
        augment: what to do.
        keys: [B] typed, from `example_keys`. A view's place among `names` is folded into them, so
          no view's draws depend on the other views, and two views of one name differ.
        images: uint8 [B, H, W, C].
        names: 'weak' or 'strong' of each of the V views.
        mirror: bool [B], which images are mirrored in every weak view; None: drawn at random. The
          strong view's flip is always drawn.
    Returns:
        float32 [B, V, H, W, C].
    Raises:
        ValueError: an unknown name of a view, or none.
    """
    chex.assert_rank(images, 4)
    chex.assert_shape(keys, (images.shape[0],))
    if not names or set(names) - {"weak", "strong"}:
        raise ValueError(f"views are {names!r}: each of one or more must be 'weak' or 'strong'")
    made = []
    for place, name in enumerate(names):
        view_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, place)
        if name == "weak":
            made.append(_weak(augment, view_keys, images, mirror))
        else:
            made.append(_strong(augment, view_keys, images))
    return jnp.stack(made, axis=1)


def _weak(
    augment: Augment, keys: jax.Array, images: jax.Array, mirror: jax.Array | None = None
) -> jax.Array:
    return normalise(_crop_flip(augment, keys, images, mirror), augment.mean, augment.std)


def _strong(augment: Augment, keys: jax.Array, images: jax.Array) -> jax.Array:
    """AutoAugment on the original pixels first, cutout last: its zeros are the data's mean."""
    crop_keys, policy_keys, cutout_keys = jnp.moveaxis(
        jax.vmap(lambda key: jax.random.split(key, 3))(keys), 1, 0
    )
    if augment.strong == "autoaugment":
        images = autoaugment.autoaugment(policy_keys, images)
    images = _weak(augment, crop_keys, images)
    return _cutout(cutout_keys, images, augment.cutout) if augment.cutout else images


def _crop_flip(
    augment: Augment, keys: jax.Array, images: jax.Array, mirror: jax.Array | None
) -> jax.Array:
    """Pads with black (before normalising, as torchvision does), crops at a random offset to the
    old size and flips.
    """
    padding = augment.crop_padding

    def one(key, image, mirrored):
        draws = jax.random.uniform(key, (3,), jnp.float32)
        mirrored = draws[2] < 0.5 if mirrored is None else mirrored
        top, left = (draws[:2] * (2 * padding + 1)).astype(jnp.int32)
        padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
        image = jax.lax.dynamic_slice(padded, (top, left, jnp.int32(0)), image.shape)
        return jnp.where(mirrored, image[:, ::-1], image) if augment.flip else image

    return jax.vmap(one)(keys, images, mirror)


def _cutout(keys: jax.Array, images: jax.Array, side: int) -> jax.Array:
    """Zeroes a square about a random pixel: [y - side//2, y + side//2) and x likewise, cut off at
    the border.
    """
    height, width = images.shape[1:3]
    size, half = jnp.array([height, width]), side // 2

    def one(key, image):
        y, x = (jax.random.uniform(key, (2,), jnp.float32) * size).astype(jnp.int32)
        rows, columns = jnp.arange(height), jnp.arange(width)
        inside_y = (rows >= y - half) & (rows < y + half)
        inside_x = (columns >= x - half) & (columns < x + half)
        return jnp.where((inside_y[:, None] & inside_x)[..., None], 0.0, image)

    return jax.vmap(one)(keys, images)
