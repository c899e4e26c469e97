"""From arrays in memory to a `Dataset`: which images and labels are taken, which refused."""

import numpy as np
import pytest

from sop_jax.data.arrays import as_images, as_labels, encode, find_classes, make_dataset
from sop_jax.errors import UserError


def test_images_and_labels_of_several_kinds_become_a_data_set():
    grey = np.linspace(0, 1, 5 * 4 * 4).reshape(5, 4, 4)
    images = as_images(grey)
    assert images.shape == (5, 4, 4, 1) and images.dtype == np.uint8
    np.testing.assert_array_equal(images[..., 0], np.rint(grey * 255))
    labels = as_labels(["b", "a", "b", "c", "a"])
    classes = find_classes(labels)
    dataset = make_dataset(images, encode(labels, classes), classes)
    assert dataset.class_names == ("a", "b", "c")
    np.testing.assert_array_equal(dataset.train.labels, [1, 0, 1, 2, 0])
    np.testing.assert_allclose(dataset.mean, (images / 255).mean((0, 1, 2)), rtol=1e-6)
    assert dataset.noise.actual_rate is None and len(dataset.test.labels) == 0


@pytest.mark.parametrize(
    "shape, words",
    [
        ((5, 3, 8, 8), "looks like channels first"),
        ((5, 8, 8, 4), "4 channels"),
        ((5, 0, 0), "0x0 images"),
        ((0, 8, 8), "not empty"),
        ((5, 8), "must be [N, H, W]"),
    ],
)
def test_images_that_no_network_takes_are_refused(shape, words):
    with pytest.raises(UserError) as error:
        as_images(np.zeros(shape, np.uint8))
    assert words in str(error.value) and "\n" not in str(error.value)


def test_one_class_and_no_class_are_refused():
    with pytest.raises(UserError, match=r"labels holds 1 class \('a'\); it takes at least 2"):
        find_classes(as_labels(["a", "a"]))
    with pytest.raises(UserError, match="labels holds 0 classes"):
        find_classes(np.zeros(0, int))
