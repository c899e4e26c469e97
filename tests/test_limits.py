"""Sizes that follow from the data, and memory, are refused before anything is made."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sop_jax.config import default
from sop_jax.data.arrays import make_dataset
from sop_jax.errors import UserError
from sop_jax.experiment import build, resolve
from sop_jax.limits import check_memory, check_sizes, size
from sop_jax.mesh import make_mesh


def dataset(rows=20):
    images = np.zeros((rows, 6, 8, 1), np.uint8)
    return make_dataset(images, np.arange(rows) % 2, np.array([0, 1]))


def small(**fields):
    config = default()
    config.update(batch_size=16, epochs=2)
    config.augment.update(crop_padding=1, cutout=2)
    for name, value in fields.items():
        part, _, field = name.rpartition("__")
        (config[part] if part else config)[field] = value
    return config


def test_sizes_that_fit_the_data():
    check_sizes(small(batch_size=24), dataset(), ("weak",), 8)  # 20 rows on 8 devices
    check_sizes(small(augment__crop_padding=5, augment__cutout=6), dataset(), ("strong",), 8)
    check_sizes(small(augment__cutout=16), dataset(), ("weak",), 8)  # nothing is cut out
    check_sizes(small(epochs=(2**31 - 1) // 2), dataset(), ("weak",), 8)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_size": 32}, "config.batch_size=32 .*20 training rows, so it is at most 24"),
        ({"batch_size": 10**6}, "config.batch_size=1000000 .*at most 24"),
        ({"epochs": 2**30}, "config.epochs=1073741824 .*2 steps each, at most 1073741823"),
        ({"augment__crop_padding": 6}, "config.augment.crop_padding=6 .*6x8 pixels"),
        ({"augment__cutout": 7}, "config.augment.cutout=7 .*6x8 pixels"),
    ],
)
def test_sizes_beyond_the_data_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        check_sizes(small(**fields), dataset(), ("weak", "strong"), 8)


def test_size_counts_bytes_of_arrays_shapes_and_keys():
    tree = {"a": jnp.zeros((3, 5), jnp.bfloat16), "b": np.zeros(7, np.uint8)}
    assert size(tree) == 30 + 7
    assert size(jax.eval_shape(lambda: tree)) == 37
    assert size(jax.random.key(0)) == 8


def test_memory_is_refused_in_one_line_that_names_the_parts():
    mesh = make_mesh()
    check_memory({"rows": 1000}, mesh)
    with pytest.raises(UserError) as caught:
        check_memory({"rows": 10**15, "images": 10**6}, mesh)
    line = str(caught.value)
    assert "this needs about 8,000,000 GB" in line
    assert "rows 8,000,000 GB, images 0.008 GB" in line
    assert "the machine has" in line


def test_a_network_too_large_for_the_machine_is_refused_before_it_is_made():
    config = small(model__name="fast_net")
    config.model.width, config.model.whitening = 8192, False
    with pytest.raises(UserError, match="this needs about .* GB of memory .network and optimiser"):
        resolved, _ = resolve(config, dataset())
        build(resolved, dataset(), make_mesh())
