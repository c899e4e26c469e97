"""Settings chosen from the data: the rules, what is filled in, and that published configs keep
theirs.
"""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_config import FILES, changed

from sop_jax import fitting
from sop_jax.command_line import load_file
from sop_jax.config import default, flatten, group_of
from sop_jax.data.dataset import Dataset
from sop_jax.data.noise import report
from sop_jax.data.pipeline import steps_per_epoch
from sop_jax.data.raw import Split
from sop_jax.errors import UserError
from sop_jax.experiment import resolve
from sop_jax.general import FIELDS, FITTED
from sop_jax.limits import check_sizes
from sop_jax.settings import complete

CIFAR, DIGITS = (50_000, 32, 32, 3), (1297, 8, 8, 1)  # training rows as published


def made_up(rows, *shape, num_classes=10, held_out=0):
    """A data set of which only sizes are real: its images take no memory."""
    labels = np.arange(rows, dtype=np.int32) % num_classes
    images = np.broadcast_to(np.uint8(0), (rows, *shape))
    return Dataset(
        name="made up",
        train=Split(images, labels, np.arange(rows)),
        test=Split(images[:0], labels[:0], np.arange(0)),
        train_index=np.arange(rows - held_out, dtype=np.int32),
        validation_index=np.arange(rows - held_out, rows, dtype=np.int32),
        class_names=tuple(map(str, range(num_classes))),
        mean=np.zeros(shape[-1], np.float32),
        std=np.ones(shape[-1], np.float32),
        noise=report("none", None, labels, None, num_classes),
    )


def fitted(config):
    """The values of the fields FITTED, in their order."""
    flat = flatten(config)
    return tuple(flat[field] for field in FITTED)


@pytest.mark.parametrize(
    ("rows", "devices", "size"),
    [
        (1797, 1, 64),  # 29 steps
        (1297, 1, 64),  # 41; 64 would give 21
        (5000, 1, 128),
        (2432, 1, 64),
        (3072, 1, 128),  # 128 would give 24
        (3073, 1, 128),
        (300, 1, 16),
        (20, 1, 16),
        (5, 1, 5),  # all of them
        (5000, 8, 128),
        (5000, 6, 126),
        (20, 8, 16),
        (5, 8, 8),
        (50_000, 256, 256),
    ],
)
def test_batch_sizes_by_hand(rows, devices, size):
    assert fitting.batch_size(rows, devices) == size


@settings(deadline=None)
@given(st.integers(1, 10**6), st.integers(1, 300))
def test_a_chosen_batch_fits_devices_rows_and_steps(rows, devices):
    size = fitting.batch_size(rows, devices)
    assert size % devices == 0 and 0 < size <= devices * -(-rows // devices)
    alone = fitting.batch_size(rows, 1)
    assert alone <= 128 and (alone <= 16 or steps_per_epoch(rows, alone) >= 20)
    if 16 <= alone < 128 and rows >= 32:
        assert steps_per_epoch(rows, 2 * alone) < 20


def test_augmentation_by_hand():
    crops = {8: 1, 16: 2, 28: 4, 32: 4, 64: 8, 224: 28, 4: 1, 2: 1, 1: 0}
    assert {side: fitting.crop_padding(side, side) for side in crops} == crops
    assert fitting.crop_padding(64, 16) == fitting.crop_padding(16, 64) == 2
    assert (fitting.flip(3), fitting.flip(1)) == (True, False)
    assert (fitting.strong(3), fitting.strong(1)) == ("autoaugment", "weak")
    assert (fitting.cutout(32, 32), fitting.cutout(8, 28), fitting.cutout(1, 1)) == (16, 4, 0)


def test_the_fitted_fields_are_those_whose_default_follows_from_the_data():
    unset = {field.name: field for field in FIELDS if field.default is None}
    assert set(FITTED) <= set(unset)
    assert all("unset: " in unset[name].meaning for name in FITTED)
    config = complete(default())
    fitting.fit(config, made_up(*DIGITS), devices=1)
    assert fitted(config) == (64, 1, False, "weak", 4)


@pytest.mark.parametrize("shape", [DIGITS, CIFAR, (7, 1, 1, 1), (9, 2, 30, 3)])
def test_what_is_chosen_is_never_refused(shape):
    config = complete(changed(method__name="sop_plus"))
    data = made_up(*shape, num_classes=2)
    config, _ = resolve(config, data)
    check_sizes(config, data, ("weak", "strong"), len(jax.devices()))


def test_what_is_set_stays_and_the_rest_is_told_in_one_note():
    config = changed(method__name="sop_plus", batch_size=24, augment__flip=True)
    resolved, notes = resolve(config, made_up(*DIGITS))
    assert fitted(resolved) == (24, 1, True, "weak", 4)
    assert notes[0] == (
        "augment.crop_padding = 1, augment.strong = weak, augment.cutout = 4 "
        "(chosen for 1,297 training rows of 8x8 grey pixels)"
    )
    assert fitted(config) == (24, None, True, None, None)  # a copy was filled


def test_a_view_that_the_method_does_not_have_is_filled_and_not_told():
    resolved, notes = resolve(changed(method__name="ce"), made_up(*CIFAR, held_out=5000))
    assert fitted(resolved) == (128, 4, True, "autoaugment", 16)
    assert notes == [
        "batch_size = 128, augment.crop_padding = 4, augment.flip = True "
        "(chosen for 45,000 training rows of 32x32 colour pixels)"
    ]
    assert resolve(resolved, made_up(*CIFAR))[1] == []


def test_flips_that_alternate_need_images_that_are_flipped():
    config = changed(augment__alternating_flip=True)
    assert resolve(config, made_up(*CIFAR))[0].augment.flip
    with pytest.raises(UserError, match="alternating_flip=True .*grey images .*augment.flip=true"):
        resolve(config, made_up(*DIGITS))
    config.augment.flip = True
    assert resolve(config, made_up(*DIGITS))[0].augment.alternating_flip


# What each config file trained with when every field had a fixed default. The strong view of the
# configs without one is left out.
BEFORE = {
    "cifar": (128, 4, True, "autoaugment", 16),
    "cifar10n_small": (128, 2, False),
    "cifar10n_fast": (1024, 4, True, "autoaugment", 16),
    "digits": (64, 1, False),
    "digits_sop_plus": (64, 1, False, "weak", 2),
}
RATES_BEFORE = {  # of u and v
    "cifar10_sop": (10.0, 10.0),
    "cifar10_sop_plus": (10.0, 10.0),
    "cifar10n_sop": (10.0, 10.0),
    "cifar10n_sop_plus": (10.0, 10.0),
    "cifar100_sop": (1.0, 10.0),
    "cifar100_sop_plus": (1.0, 10.0),
    "cifar100n_sop": (1.0, 10.0),
    "cifar100n_sop_plus": (1.0, 10.0),
    "cifar10n_small_sop": (10.0, 25.0),
    "cifar10n_fast": (2.5, 50.0),
    "digits_sop": (20.0, 20.0),
    "digits_sop_plus": (20.0, 20.0),
}


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.stem != "own_data"], ids=lambda path: path.stem
)
def test_config_files_train_as_before(path):
    config = load_file(str(path))
    rows, height, width, channels = DIGITS if config.data.name == "digits" else CIFAR
    rows, factor = config.data.train_limit or rows, config.data.downsample
    num_classes = 100 if "cifar100" in config.data.name else 10
    held_out = round(config.data.validation_fraction * rows)
    shape = height // factor, width // factor, channels
    data = made_up(rows, *shape, num_classes=num_classes, held_out=held_out)
    resolved, _ = resolve(config, data)
    names = [name for name in BEFORE if path.stem.startswith(name)]
    before = BEFORE[max(names, key=len)]
    assert fitted(resolved)[: len(before)] == before
    rates = [resolved.method[name] for name in resolved.method if name.startswith("learning_rate")]
    assert tuple(rates) == RATES_BEFORE.get(path.stem, ())


def test_config_files_set_nothing_that_follows_from_their_data():
    for path in FILES:
        config = load_file(str(path))
        rows, *shape = DIGITS if config.data.name == "digits" else CIFAR
        factor = config.data.downsample
        shape = shape[0] // factor, shape[1] // factor, shape[2]
        free = default()
        fitting.fit(free, made_up(config.data.train_limit or rows, *shape), devices=1)
        for field in FITTED:
            (group, name), (chosen, _) = group_of(config, field), group_of(free, field)
            assert group[name] is None or group[name] != chosen[name], f"{path.stem}: {field}"
