"""Examples from an `.npz` file of arrays."""

import numpy as np

from sop_jax.data.checks import (
    check_labels,
    check_length,
    check_num_classes,
    check_texts,
    check_unique,
)
from sop_jax.data.raw import RawData, Split, check_raw
from sop_jax.data.user_files import load_npz
from sop_jax.errors import UserError

_KEYS = ("train_images", "train_labels", "test_images", "test_labels")
_LARGEST_ID = 2**63 - 1  # ids are kept as int64


def from_npz(path: str | None, num_classes: int | None = None) -> RawData:
    """Reads arrays from an `.npz` file, never unpickling anything.

    Keys: train_images, test_images uint8 [N, H, W, C] or [N, H, W]; train_labels, test_labels
    integers [N]; optional train_ids, test_ids (integers or strings, else 0..N-1),
    train_true_labels, class_names [K], and human label sets human_<key> [N] of the training rows
    (human_clean_label, human_worse_label, ...).

    Args:
        path: the file (config field data.path).
        num_classes: K; None takes class_names, else the labels, none of which may then be skipped.

    Raises:
        UserError: a file that `user_files.load_npz` refuses, a missing key, arrays of wrong kinds,
            shapes or lengths, labels out of range, ids that occur twice.
    """
    if not path:
        raise UserError("data.name='npz' needs data.path, the .npz file")
    arrays = load_npz(path, "data.path")
    for key in _KEYS:
        if key not in arrays:
            found = ", ".join(arrays) or "no keys"
            raise UserError(f"{path}: key {key!r} is missing; it has {found}")
    optional = [k for k in arrays if k == "train_true_labels" or k.startswith("human_")]
    train, train_order = _split(path, arrays, "train")
    test, _ = _split(path, arrays, "test")
    other_labels = {}
    for key in optional:
        if arrays[key].shape != train.labels.shape:
            raise UserError(
                f"{path}, {key}: shape {list(arrays[key].shape)} for {len(train.labels)} training "
                "rows"
            )
        other_labels[key] = arrays[key][train_order]
    labels = {
        "train_labels": (train.labels, train.ids),
        "test_labels": (test.labels, test.ids),
        **{key: (values, train.ids) for key, values in other_labels.items()},
    }
    if "class_names" in arrays:
        names = _class_names(path, arrays["class_names"])
    else:
        if num_classes is None:
            num_classes = _num_classes(path, labels)
        else:
            check_num_classes(num_classes, len(train.labels), path)
        names = tuple(map(str, range(num_classes)))
    checked = {
        key: check_labels(values, len(names), f"{path}, {key}", ids)
        for key, (values, ids) in labels.items()
    }
    if "train_ids" in arrays and "test_ids" in arrays:
        both = np.intersect1d(train.ids, test.ids)
        if len(both):
            raise UserError(
                f"{path}: id {both[0]} is in train_ids and test_ids ({len(both)} such ids): splits "
                "overlap"
            )
    raw = RawData(
        name="npz",
        train=train._replace(labels=checked.pop("train_labels")),
        test=test._replace(labels=checked.pop("test_labels")),
        true_labels=checked.pop("train_true_labels", None),
        class_names=names,
        human={key.removeprefix("human_"): values for key, values in checked.items()},
    )
    return check_raw(raw, path)


def _split(path: str, arrays: dict[str, np.ndarray], split: str) -> tuple[Split, np.ndarray]:
    """One split in the order of its ids, with labels not yet checked, and that order."""
    images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4:
        raise UserError(
            f"{path}, {split}_images: expected uint8 [N,H,W,C] or [N,H,W], got {images.dtype} "
            f"{list(images.shape)}"
        )
    n = len(images)
    ids = arrays.get(f"{split}_ids", np.arange(n))
    for key, array in ((f"{split}_labels", labels), (f"{split}_ids", ids)):
        if array.shape != (n,):
            raise UserError(
                f"{path}, {key}: shape {list(array.shape)}, but {split}_images has {n} rows"
            )
    ids = _as_ids(ids, f"{path}, {split}_ids")
    order = np.argsort(ids, kind="stable")
    check_unique(ids[order], f"{path}, {split}_ids")
    return Split(images[order], labels[order], ids[order]), order


def _as_ids(ids: np.ndarray, where: str) -> np.ndarray:
    """Ids [N] as int64 or as the strings they are."""
    if ids.dtype.kind not in "iuU":
        raise UserError(f"{where}: expected whole numbers or strings, got {ids.dtype}")
    if ids.dtype.kind != "U":
        if ids.size and ids.max() > _LARGEST_ID:
            raise UserError(f"{where}: id {ids.max()} is too large; ids go up to {_LARGEST_ID}")
        return ids.astype(np.int64)
    check_texts(ids, where)
    lengths = np.char.str_len(ids)
    if len(ids) and lengths.min() == 0:
        raise UserError(f"{where}: the id of row {lengths.argmin()} is missing (an empty string)")
    if len(ids):
        check_length(str(ids[lengths.argmax()]), f"{where}, row {lengths.argmax()}")
    return ids


def _class_names(path: str, names: np.ndarray) -> tuple[str, ...]:
    where = f"{path}, class_names"
    if names.ndim != 1 or names.dtype.kind not in "iuU":
        raise UserError(
            f"{where}: expected strings or whole numbers of shape [K], got {names.dtype} "
            f"{list(names.shape)}"
        )
    if names.dtype.kind == "U":
        check_texts(names, where)
    return tuple(map(str, names.tolist()))


def _num_classes(path: str, labels: dict[str, tuple[np.ndarray, np.ndarray]]) -> int:
    """K where nobody says it: one more than the largest label, if every smaller one occurs.

    Args:
        path: the file, for messages.
        labels: key -> (labels [N], ids [N]).
    """
    whole = {key: pair for key, pair in labels.items() if pair[0].dtype.kind in "iu"}
    found = set()
    for values, _ in whole.values():
        found.update(np.unique(values).tolist())
    found = sorted(label for label in found if label >= 0)  # `check_labels` names negative ones
    if found == list(range(len(found))):
        return max(len(found), 2)
    smallest, largest = found[0], found[-1]
    advice = f"or set data.num_classes={largest + 1} (or class_names) if they are meant so"
    if smallest > 0:
        raise UserError(
            f"{path}: labels run from {smallest} to {largest}, but classes are counted from 0: "
            f"subtract {smallest} from all labels, {advice}"
        )
    missing = next(c for c, label in enumerate(found) if c != label)
    key = next(key for key, (values, _) in whole.items() if largest in values)
    values, ids = whole[key]
    raise UserError(
        f"{path}, {key}: label {largest} of row id {ids[values.argmax()]} would make {largest + 1} "
        f"classes, but class {missing} has no examples: mend the label, {advice}"
    )
