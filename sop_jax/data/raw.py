"""A data set before any noise: what every source returns, and what must hold of it."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from sop_jax.data.checks import check_class_names, check_image_shape
from sop_jax.errors import UserError


class Split(NamedTuple):
    """Examples in the order of their ids."""

    images: np.ndarray  # uint8 [N, H, W, C]
    labels: np.ndarray  # int32 [N], as given by the set
    ids: np.ndarray  # int64 or str [N], unique


class RawData(NamedTuple):
    """A data set as it is stored, before any noise."""

    name: str
    train: Split
    test: Split
    true_labels: np.ndarray | None  # int32 [N] of the training rows, where the set knows them
    class_names: tuple[str, ...]  # length K
    human: Mapping[str, np.ndarray]  # human label sets of the training rows by file key, int32 [N]


def check_raw(raw: RawData, where: str) -> RawData:
    """The set itself, once all that must hold of any set does.

    Raises:
        UserError: a split without examples, splits of different images, images of 0 pixels or of
            other channels than 1 or 3, class names that are too few, too long or not unique.
            `where` names the set.
    """
    for name, split in (("train", raw.train), ("test", raw.test)):
        if len(split.labels) == 0:
            raise UserError(f"{where}: the {name} split has no examples")
    train_shape, test_shape = raw.train.images.shape[1:], raw.test.images.shape[1:]
    check_image_shape(train_shape, f"{where}, training images")
    if train_shape != test_shape:
        raise UserError(
            f"{where}: training images are {list(train_shape)}, test images {list(test_shape)}"
        )
    check_class_names(raw.class_names, f"{where}, class names")
    return raw
