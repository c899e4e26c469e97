"""Settings that follow the data: the batch size and the augmentation, where the config sets none.

Each rule is a pure function; on CIFAR's 45,000 or 50,000 images of 32x32 it gives the published
128, 4, flips, AutoAugment and 16.
"""

from collections.abc import Container

from ml_collections import ConfigDict

from sop_jax.config import group_of, require
from sop_jax.data.dataset import Dataset
from sop_jax.data.pipeline import steps_per_epoch
from sop_jax.mesh import nearest_batch_size

LARGEST_BATCH = 128  # the published one
SMALLEST_BATCH = 16  # batch-norm takes its statistics from the batch
LEAST_STEPS = 20  # an epoch: with fewer the network learns little before the rate has fallen


def batch_size(rows: int, devices: int) -> int:
    """The global batch size B for so many training rows, a multiple of the devices.

    It is the largest power of two from SMALLEST_BATCH to LARGEST_BATCH with LEAST_STEPS steps an
    epoch, then brought to the devices; never more than one batch of all rows.
    """
    size = LARGEST_BATCH
    while size > SMALLEST_BATCH and steps_per_epoch(rows, size) < LEAST_STEPS:
        size //= 2
    return min(nearest_batch_size(size, devices), devices * -(-rows // devices))


def crop_padding(height: int, width: int) -> int:
    """An eighth of the shorter side in pixels, at least 1; 0 where an image has no such margin."""
    side = min(height, width)
    return min(max(1, round(side / 8)), side - 1)


def flip(channels: int) -> bool:
    """Colour images are flipped; grey ones are digits, text, scans: mirrored they mean another."""
    return channels == 3


def strong(channels: int) -> str:
    """'autoaugment' for colour images, for whose colours its policy was found; 'weak' for grey."""
    return "autoaugment" if channels == 3 else "weak"


def cutout(height: int, width: int) -> int:
    """Half of the shorter side, in pixels."""
    return min(height, width) // 2


def fit(config: ConfigDict, dataset: Dataset, devices: int, idle: Container[str] = ()) -> list[str]:
    """Fills the fields `general.FITTED` of a config in place, those that are not set.

    Args:
      devices: how many a batch is split over.
      idle: fields that this run does not use; they are filled, and not mentioned.

    Returns:
      One note on what was chosen, or none.

    Raises:
      UserError: flips are to alternate, and the images are not flipped.
    """
    rows, (height, width, channels) = len(dataset.train_index), dataset.train.images.shape[1:]
    chosen = {
        "batch_size": batch_size(rows, devices),
        "augment.crop_padding": crop_padding(height, width),
        "augment.flip": flip(channels),
        "augment.strong": strong(channels),
        "augment.cutout": cutout(height, width),
    }
    told = []
    for field, value in chosen.items():
        group, name = group_of(config, field)
        if group[name] is None:
            group[name] = value
            told += [] if field in idle else [f"{field} = {value}"]
    kind = "colour" if channels == 3 else "grey"
    require(
        config.augment.flip or not config.augment.alternating_flip,
        "augment.alternating_flip",
        True,
        f"it says when to flip, and {kind} images are flipped only with augment.flip=true",
    )
    images = f"{rows:,} training rows of {height}x{width} {kind} pixels"
    return [f"{', '.join(told)} (chosen for {images})"] if told else []
