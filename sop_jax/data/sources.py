"""Where examples come from: scikit-learn digits, prepared TFDS folders, `.npz` arrays.

Every source returns a `RawData` whose rows are ordered by the set's own id, never by their position
on disk, and has checked that ids are unique, labels in range and images of one shape. Nothing here
knows about noise.
"""

import os
import pathlib
import re
import zipfile
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from sop_jax.data.noise import check_labels
from sop_jax.errors import UserError, suggestion


class Split(NamedTuple):
    """Examples in the order of their ids."""

    images: np.ndarray  # uint8 [N, H, W, C]
    labels: np.ndarray  # int32 [N]
    ids: np.ndarray  # int64 or str [N], unique


class RawData(NamedTuple):
    """A data set as it is stored, before any noise."""

    name: str
    train: Split
    test: Split
    true_labels: np.ndarray | None  # int32 [N] of the training rows, where the set knows them
    class_names: tuple[str, ...]  # length K
    # human label sets of the training rows by their file key, int32 [N]
    human: Mapping[str, np.ndarray]


TFDS_SETS = ("cifar10", "cifar100", "cifar10_n", "cifar100_n", "mnist", "fashion_mnist")
_TFDS_WITHOUT_ID = ("mnist", "fashion_mnist")
_TFDS_HUMAN = {  # features that are human label sets; they are -1 in the test split
    "cifar10_n": ("aggre_label", "worse_label", "random_label1", "random_label2", "random_label3"),
    "cifar100_n": ("noise_label",),
}
# versions below have columns mixed up
_TFDS_OLDEST = {"cifar10_n": (1, 0, 4), "cifar100_n": (1, 0, 1)}


def read(data) -> RawData:
    """Reads the set that the `data` part of the config names.

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
        f"data.name={data.name!r} is unknown{suggestion(data.name, names)}; choose from {', '.join(names)}"
    )


def digits() -> RawData:
    """scikit-learn's 1,797 digits, [N, 8, 8, 1]: 1,297 for training and 500 for testing, the same
    for every seed.
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

    def split(rows):
        rows = np.sort(rows)
        return Split(images[rows], bunch.target[rows].astype(np.int32), rows.astype(np.int64))

    train, test = split(order[:1297]), split(order[1297:])
    return RawData("digits", train, test, train.labels, tuple("0123456789"), {})


def from_tfds(name: str, data_dir: str | None) -> RawData:
    """Reads a set prepared by TFDS in `array_record` format, without TensorFlow.

    With `data_dir` the files are read as they lie there: no builder code is loaded and no socket
    opened. Without it the usual TFDS folder is looked into, and where the set is missing TFDS is
    asked to download it.

    Ids are the numbers in the `id` feature (b'train_01234' -> 1234). MNIST and Fashion-MNIST have
    none in TFDS, which
    keeps no record keys either: there the id is the record's position, which TFDS derives from the
    hash of the original index and which is therefore the same in every preparation of one version.
    """
    try:
        # where TFDS is broken, its bare import succeeds
        from tensorflow_datasets import builder_from_directory
    except ImportError as error:
        raise UserError(
            f"data.name={name!r} is read by TFDS ({error}): pip install tensorflow-datasets importlib_resources "
            "array_record, or use data.name='npz' or 'digits'"
        ) from error
    root = pathlib.Path(
        data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    ).expanduser()
    folder = _newest_version(root / name)
    if folder is None and data_dir is None:
        _download(name, root)
        folder = _newest_version(root / name)
    if folder is None:
        found = sorted(p.name for p in root.iterdir()) if root.is_dir() else None
        state = (
            "does not exist"
            if found is None
            else f"holds {', '.join(found[:5])}"
            if found
            else "is empty"
        )
        raise UserError(
            f"data.dir: no prepared {name!r} in {root} (the folder {state}); expected {root / name}/VERSION/"
            f"dataset_info.json: prepare it with `tfds build {name} --file_format=array_record --data_dir={root}`"
        )
    if _version(folder) < _TFDS_OLDEST.get(name, ()):
        raise UserError(
            f"{folder}: {name} below {'.'.join(map(str, _TFDS_OLDEST[name]))} has its human-label columns mixed up; "
            f"prepare it again with a newer tensorflow-datasets (`tfds build {name} --file_format=array_record`)"
        )
    try:
        builder = builder_from_directory(folder)
        keys = ("image", "label") if name in _TFDS_WITHOUT_ID else ("image", "label", "id")
        train, human = _read_split(builder, "train", keys, _TFDS_HUMAN.get(name, ()), folder)
        test, _ = _read_split(builder, "test", keys, (), folder)
        class_names = tuple(builder.info.features["label"].names)
    except UserError:
        raise
    # TFDS, array_record and the image decoder raise what they like on damaged files
    except Exception as error:
        raise UserError(
            f"{folder}: cannot be read ({type(error).__name__}: {error}); it must hold the splits train and test in "
            f"array_record format: `tfds build {name} --file_format=array_record --overwrite`"
        ) from error
    _check_splits(folder, train, test)
    return RawData(name, train, test, train.labels, class_names, human)


def _download(name: str, root: pathlib.Path) -> None:
    from tensorflow_datasets import data_source

    try:
        data_source(name, data_dir=root, download=True)
    except Exception as error:
        raise UserError(
            f"data.name={name!r}: nothing prepared in {root}, and TFDS could not fetch it here "
            f"({type(error).__name__}: {error}); prepare it elsewhere with `tfds build {name} "
            "--file_format=array_record` (that needs TensorFlow) and give its folder as data.dir"
        ) from error


def _version(folder: pathlib.Path) -> tuple[int, ...]:
    return tuple(map(int, folder.name.split(".")))


def _newest_version(folder: pathlib.Path) -> pathlib.Path | None:
    versions = [
        f.parent
        for f in folder.glob("*/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", f.parent.name)
    ]
    return max(versions, key=_version, default=None)


def _read_split(
    builder, split: str, keys, human_keys, folder
) -> tuple[Split, dict[str, np.ndarray]]:
    """Reads one TFDS split into arrays, in the order of ids; `human_keys` are features kept as
    label sets.
    """
    features = builder.info.features
    missing = [k for k in (*keys, *human_keys) if k not in features]
    if missing:
        raise UserError(
            f"{folder}: feature {missing[0]!r} is missing; it has {', '.join(features)}"
        )
    source = builder.as_data_source(split)
    n = len(source)
    images = np.zeros((n, *features["image"].shape), np.uint8)
    columns = {key: np.zeros(n, np.int64) for key in ("label", *human_keys)}
    ids = np.arange(n)
    for position in range(n):
        example = source[position]
        image = example["image"]
        if image.shape != images.shape[1:] or image.dtype != np.uint8:
            raise UserError(
                f"{folder}, {split}: image of record {position} is {image.dtype} {list(image.shape)}, "
                f"expected uint8 {list(images.shape[1:])}"
            )
        images[position] = image
        for key, column in columns.items():
            column[position] = example[key]
        if "id" in keys:
            ids[position] = _id_number(example["id"], split, folder)
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    _check_unique(ids, f"{folder}, {split}")
    if n and (ids[0] != 0 or ids[-1] != n - 1):  # unique and sorted: anything else has a gap
        gap = int(np.flatnonzero(ids != np.arange(n))[0])
        raise UserError(
            f"{folder}, {split}: id {gap} is missing ({n} records, ids up to {ids[-1]}); prepare it again"
        )
    num_classes = features["label"].num_classes
    columns = {
        k: check_labels(v[order], num_classes, f"{folder}, {split}, {k}", ids)
        for k, v in columns.items()
    }
    return Split(images[order], columns.pop("label"), ids), columns


def _id_number(value: bytes | str, split: str, folder) -> int:
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    match = re.fullmatch(rf"{split}_(\d+)", text)
    if not match:
        raise UserError(f"{folder}, {split}: id {text!r} does not have the form {split}_01234")
    return int(match[1])


def from_npz(path: str | None, num_classes: int | None = None) -> RawData:
    """Reads arrays from an `.npz` file, never unpickling anything.

    Keys: train_images, test_images uint8 [N, H, W, C] or [N, H, W]; train_labels, test_labels
    integers [N]; optional train_ids, test_ids (integers or strings, else 0..N-1),
    train_true_labels, class_names [K], and human label sets human_<key> [N] of the training rows
    (human_clean_label, human_worse_label, ...).

    Args:
        path: the file (config field data.path).
        num_classes: K; None takes class_names, else one more than the largest label.
    """
    if not path:
        raise UserError("data.name='npz' needs data.path, the .npz file")
    arrays = load_npz(path)
    missing = [
        k for k in ("train_images", "train_labels", "test_images", "test_labels") if k not in arrays
    ]
    if missing:
        raise UserError(
            f"{path}: key {missing[0]!r} is missing; it has {', '.join(arrays) or 'no keys'}"
        )
    optional = [k for k in arrays if k == "train_true_labels" or k.startswith("human_")]
    names = arrays.get("class_names")
    if names is not None and names.ndim != 1:
        raise UserError(f"{path}, class_names: expected shape [K], got {list(names.shape)}")
    if names is None:
        every = [arrays[k] for k in ("train_labels", "test_labels", *optional)]
        largest = max((int(a.max()) for a in every if a.size and a.dtype.kind in "iu"), default=0)
        names = np.arange(max(num_classes or largest + 1, 2))
    train, train_order = _npz_split(path, arrays, "train", len(names))
    test, _ = _npz_split(path, arrays, "test", len(names))
    extra = {}
    for key in optional:
        where = f"{path}, {key}"
        if arrays[key].shape != train.labels.shape:
            raise UserError(
                f"{where}: shape {list(arrays[key].shape)} for {len(train.labels)} training rows"
            )
        extra[key] = check_labels(arrays[key][train_order], len(names), where, train.ids)
    if "train_ids" in arrays and "test_ids" in arrays:
        both = np.intersect1d(train.ids, test.ids)
        if len(both):
            raise UserError(
                f"{path}: id {both[0]} is in train_ids and test_ids ({len(both)} such ids): splits overlap"
            )
    true_labels = extra.pop("train_true_labels", None)
    human = {key.removeprefix("human_"): labels for key, labels in extra.items()}
    _check_splits(path, train, test)
    return RawData("npz", train, test, true_labels, tuple(str(n) for n in names), human)


def load_npz(path: str) -> dict[str, np.ndarray]:
    """All arrays of an `.npz` file; pickled objects, damaged files and anything else become a
    UserError.
    """
    if not zipfile.is_zipfile(path):
        cut = "not an .npz file, or cut short (no zip archive); save it again with numpy.savez"
        raise UserError(f"{path}: {cut if os.path.isfile(path) else 'no such file'}")
    key = None
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {}
            for key in file.files:
                arrays[key] = file[key]
            return arrays
    except Exception as error:  # zipfile, zlib and numpy raise many kinds on damaged input
        where = f"{path}, {key}" if key else path
        if "allow_pickle" in str(error) or "pickled" in str(error):
            raise UserError(
                f"{where}: holds pickled objects, which are refused; save plain number arrays"
            ) from error
        raise UserError(
            f"{where}: not a readable .npz file ({type(error).__name__}: {error})"
        ) from error


def _npz_split(path: str, arrays: dict, split: str, num_classes: int) -> tuple[Split, np.ndarray]:
    """One split in the order of its ids, and that order."""
    images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
    where = f"{path}, {split}_images"
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4:
        raise UserError(
            f"{where}: expected uint8 [N,H,W,C] or [N,H,W], got {images.dtype} {list(images.shape)}"
        )
    n = len(images)
    ids = arrays.get(f"{split}_ids", np.arange(n))
    if ids.dtype.kind not in "iuU":
        raise UserError(f"{path}, {split}_ids: expected whole numbers or strings, got {ids.dtype}")
    for key, array in ((f"{split}_labels", labels), (f"{split}_ids", ids)):
        if array.shape != (n,):
            raise UserError(
                f"{path}, {key}: shape {list(array.shape)}, but {split}_images has {n} rows"
            )
    order = np.argsort(ids, kind="stable")
    ids = ids[order] if ids.dtype.kind == "U" else ids[order].astype(np.int64)
    _check_unique(ids, f"{path}, {split}_ids")
    if ids.dtype.kind == "U" and n and ids[0] == "":
        raise UserError(
            f"{path}, {split}_ids: the id of row {order[0]} is missing (an empty string)"
        )
    return Split(
        images[order], check_labels(labels[order], num_classes, f"{path}, {split}_labels", ids), ids
    ), order


def _check_unique(sorted_ids: np.ndarray, where: str) -> None:
    twice = np.flatnonzero(sorted_ids[1:] == sorted_ids[:-1])
    if len(twice):
        raise UserError(
            f"{where}: id {sorted_ids[twice[0]]} occurs more than once ({len(twice)} duplicates in all)"
        )


def _check_splits(where, train: Split, test: Split) -> None:
    """What must hold for the two splits of any set."""
    for name, split in (("train", train), ("test", test)):
        if len(split.labels) == 0:
            raise UserError(f"{where}: the {name} split has no examples")
    if train.images.shape[1:] != test.images.shape[1:]:
        raise UserError(
            f"{where}: training images are {list(train.images.shape[1:])}, "
            f"test images {list(test.images.shape[1:])}"
        )
