"""From arrays in memory, as people hold them, to a `Dataset`.

Images may be of several kinds, labels of any hashable kind.
"""

import contextlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from sop_jax.data.checks import check_image_shape
from sop_jax.data.dataset import Dataset, statistics
from sop_jax.data.noise import report
from sop_jax.data.raw import Split
from sop_jax.errors import UserError


def as_images(images: ArrayLike) -> np.ndarray:
    """uint8 [N, H, W, C], N > 0, C 1 or 3, from [N, H, W] or [N, H, W, C].

    They are uint8, or float in [0, 1], which are rounded to 256 levels.

    Raises:
        UserError: another shape or type, or floats outside [0, 1], NaN included.
    """
    images = np.asarray(images)
    if images.ndim not in (3, 4) or len(images) == 0:
        raise UserError(
            f"images has shape {images.shape}; it must be [N, H, W] or [N, H, W, C] and not empty"
        )
    if images.ndim == 3:
        images = images[..., None]
    check_image_shape(images.shape[1:], "images")
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating):
        raise UserError(
            f"images is of type {images.dtype}; it must be uint8, or float in [0, 1] "
            "(for 0..255 in another integer type: images.astype('uint8'))"
        )
    outside = ~((images >= 0) & (images <= 1))  # true for NaN
    if outside.any():
        first = tuple(np.argwhere(outside)[0].tolist())
        raise UserError(
            f"images[{first[0]}] holds {images[first]}, but floats must lie in [0, 1]; "
            "divide by the largest possible value, and drop or fill what is NaN"
        )
    return np.rint(images * 255).astype(np.uint8)


def as_labels(labels: Iterable) -> np.ndarray:
    """[N]; labels that NumPy would split or convert (tuples, mixed kinds) are kept as objects.

    Raises:
        UserError: not one hashable label an image, or a missing one (None, NaN).
    """
    if not hasattr(labels, "__array__"):
        values = list(labels)
        plain = len({type(value) for value in values}) == 1 and isinstance(
            values[0], str | int | float | np.generic
        )
        labels = np.array(values) if plain else np.fromiter(values, object, len(values))
    labels = np.asarray(labels)
    if labels.ndim != 1:
        raise UserError(
            f"labels has shape {labels.shape}; it must be [N], one label an image (no one-hot rows)"
        )
    for row, value in enumerate(labels.tolist()):
        if value is None or (isinstance(value, float) and value != value):
            raise UserError(f"labels[{row}] is {value}; drop the rows without a label")
        try:
            hash(value)
        except TypeError as error:
            raise UserError(
                f"labels[{row}] cannot be a label ({error}); use numbers, strings or tuples"
            ) from None
    return labels


def find_classes(labels: np.ndarray) -> np.ndarray:
    """The distinct labels [K], of the labels' type: sorted where they can be, else as they appear.

    Raises:
        UserError: fewer than 2 of them.
    """
    found = list(dict.fromkeys(labels.tolist()))
    if len(found) < 2:
        classes = f"1 class ({found[0]!r:.80})" if found else "0 classes"
        raise UserError(f"labels holds {classes}; it takes at least 2")
    with contextlib.suppress(TypeError):
        found = sorted(found)
    return np.fromiter(found, object, len(found)).astype(labels.dtype)


def encode(labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """int32 [N], position of each label in `classes`, -1 where it is none of them."""
    position = {label: code for code, label in enumerate(classes.tolist())}
    return np.array([position.get(label, -1) for label in labels.tolist()], np.int32)


def make_dataset(images: np.ndarray, labels: np.ndarray, classes: np.ndarray) -> Dataset:
    """A data set whose rows are all trained on; the truth is unknown and there is no test set.

    Args:
        images: uint8 [N, H, W, C], N > 0.
        labels: the given labels, int32 [N] in [0, K).
        classes: [K], as from `find_classes`.
    """
    n = len(images)
    mean, std = statistics(images)
    return Dataset(
        name="arrays",
        train=Split(images, labels, np.arange(n)),
        test=Split(images[:0], labels[:0], np.arange(0)),
        train_index=np.arange(n, dtype=np.int32),
        validation_index=np.arange(0, dtype=np.int32),
        class_names=tuple(map(str, classes.tolist())),
        mean=np.asarray(mean, np.float32),
        std=np.asarray(std, np.float32),
        noise=report("none", None, labels, None, len(classes)),
    )
