"""What a run may ask for: sizes that follow from its data, and the memory of its devices.

Both are checked before anything is allocated.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from sop_jax.config import require
from sop_jax.data.dataset import Dataset
from sop_jax.data.memory import machine_bytes
from sop_jax.data.pipeline import steps_per_epoch
from sop_jax.errors import UserError

LAST_STEP = 2**31 - 1  # the step is counted in an int32


def check_sizes(config: ConfigDict, dataset: Dataset, views: Sequence[str], devices: int) -> None:
    """Raises UserError naming the field that is too large for the data.

    Args:
      views: those of the method; cutout is cut out of strong ones alone.
      devices: how many a batch is split over.
    """
    rows = len(dataset.train_index)
    most = -(-rows // devices) * devices
    require(
        config.batch_size <= most,
        "batch_size",
        config.batch_size,
        f"there are {rows} training rows, so it is at most {most}",
    )
    steps = steps_per_epoch(rows, config.batch_size)
    require(
        config.epochs * steps <= LAST_STEP,
        "epochs",
        config.epochs,
        f"of {steps} steps each, at most {LAST_STEP // steps} can be counted",
    )
    height, width = dataset.train.images.shape[1:3]
    side = min(height, width)
    padding, cutout = config.augment.crop_padding, config.augment.cutout
    require(
        padding < side,
        "augment.crop_padding",
        padding,
        f"the images have {height}x{width} pixels, so it is less than {side}",
    )
    require(
        cutout <= side or "strong" not in views,
        "augment.cutout",
        cutout,
        f"the images have {height}x{width} pixels, so it is at most {side}",
    )


def size(tree: Any) -> int:
    """Bytes of the arrays of a tree, or of their shapes and dtypes (`jax.eval_shape`)."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.eval_shape(jax.random.key_data, leaf)
        total += leaf.size * leaf.dtype.itemsize
    return total


def check_memory(needed: Mapping[str, int], mesh: Mesh) -> None:
    """Raises UserError where the parts do not fit this process's devices together.

    Args:
      needed: bytes that each part takes on every device, by its name: {'rows': 10_000}. What a
        step takes besides, the activations above all, is not known before it is compiled.
    """
    device = mesh.local_devices[0]
    if device not in jax.local_devices():
        return  # of a topology that is not there: nothing will be allocated
    statistics = device.memory_stats() or {}
    if "bytes_limit" in statistics:
        available, where, copies = statistics["bytes_limit"], "a device has", 1
    else:  # CPU devices share the host's
        available, where = machine_bytes() or math.inf, "the machine has"
        copies = len(mesh.local_devices)
    total = copies * sum(needed.values())
    if total > available:
        parts = ", ".join(f"{name} {_gigabytes(copies * part)}" for name, part in needed.items())
        raise UserError(
            f"this needs about {_gigabytes(total)} of memory ({parts}), {where} "
            f"{_gigabytes(available)}; lower model.width or data.train_limit, switch "
            "track_predictions off, or use more devices"
        )


def _gigabytes(count: float) -> str:
    billions = count / 1e9
    return f"{billions:,.0f} GB" if billions >= 10 else f"{billions:.2g} GB"
