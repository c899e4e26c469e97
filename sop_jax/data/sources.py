"""Where examples come from: scikit-learn digits, prepared TFDS folders, `.npz` arrays.

Every source returns a `RawData` whose rows are ordered by the set's own id, never by their position
on disk, and has checked that ids are unique, labels in range and images of one shape. Nothing here
knows about noise.
"""

import numpy as np
from ml_collections import ConfigDict

from sop_jax.data.npz import from_npz
from sop_jax.data.raw import RawData, Split, check_raw
from sop_jax.data.tfds import TFDS_SETS, from_tfds
from sop_jax.errors import UserError, suggestion

__all__ = ["RawData", "Split", "digits", "from_npz", "from_tfds", "read"]


def read(data: ConfigDict) -> RawData:
    """Reads the set that `config.data` names.

    Raises:
        UserError: unknown set, or one that is missing, damaged or inconsistent.
    """
    if data.name == "digits":
        return digits()
    if data.name in TFDS_SETS:
        return from_tfds(data.name, data.dir)
    if data.name == "npz":
        return from_npz(data.path, data.num_classes)
    names = ("digits", "npz", *TFDS_SETS)
    raise UserError(
        f"data.name={data.name!r} is unknown{suggestion(data.name, names)}; choose from "
        f"{', '.join(names)}"
    )


def digits() -> RawData:
    """scikit-learn's 1,797 digits, [N, 8, 8, 1]: 1,297 for training, 500 for testing, for any seed.

    Raises:
        UserError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError(
            f"data.name='digits' needs scikit-learn ({error}): pip install scikit-learn"
        ) from error
    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    order = np.random.default_rng(0).permutation(len(images))

    def split(ids: np.ndarray) -> Split:
        ids = np.sort(ids)
        return Split(images[ids], bunch.target[ids].astype(np.int32), ids.astype(np.int64))

    train, test = split(order[:1297]), split(order[1297:])
    raw = RawData("digits", train, test, train.labels, tuple("0123456789"), {})
    return check_raw(raw, "digits")
