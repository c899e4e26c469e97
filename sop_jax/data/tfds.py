"""Examples from the folders that TFDS prepares, in `array_record` format, without TensorFlow."""

import os
import pathlib
import re

import numpy as np

from sop_jax.data.checks import check_labels, check_unique
from sop_jax.data.memory import require
from sop_jax.data.raw import RawData, Split, check_raw
from sop_jax.data.tfds_folder import check_folder, class_names
from sop_jax.errors import UserError

TFDS_SETS = ("cifar10", "cifar100", "cifar10_n", "cifar100_n", "mnist", "fashion_mnist")
_WITHOUT_ID = ("mnist", "fashion_mnist")
HUMAN_FEATURES = {  # features that are human label sets; they are -1 in the test split
    "cifar10_n": ("aggre_label", "worse_label", "random_label1", "random_label2", "random_label3"),
    "cifar100_n": ("noise_label",),
}
_OLDEST = {"cifar10_n": (1, 0, 4), "cifar100_n": (1, 0, 1)}  # older ones have columns mixed up


def from_tfds(name: str, data_dir: str | None) -> RawData:
    """Reads a set prepared by TFDS in `array_record` format.

    With `data_dir` the files are read as they lie there: no builder code is loaded, no code that
    the folder names is run and no socket opened. Without it the usual TFDS folder is looked into,
    and where the set is missing TFDS is asked to download it.

    Ids are the numbers in the `id` feature (b'train_01234' -> 1234). MNIST and Fashion-MNIST have
    none in TFDS, which keeps no record keys either: there the id is the record's position, which
    TFDS derives from the hash of the original index and which is therefore the same in every
    preparation of one version.

    Raises:
        UserError: TFDS is not installed; no such folder; one that is damaged, in another format, or
            names code of its own; features, ids or images that are not those of the set.
    """
    try:
        # where TFDS is broken, its bare import succeeds
        from tensorflow_datasets import builder_from_directory
    except ImportError as error:
        raise UserError(
            f"data.name={name!r} is read by TFDS ({error}): pip install tensorflow-datasets "
            "importlib_resources array_record, or use data.name='npz' or 'digits'"
        ) from error
    folder = _find_folder(name, data_dir)
    check_folder(folder)
    keys = ("image", "label") if name in _WITHOUT_ID else ("image", "label", "id")
    try:
        builder = builder_from_directory(folder)
        train, human = _read_split(builder, "train", keys, HUMAN_FEATURES.get(name, ()), folder)
        test, _ = _read_split(builder, "test", keys, (), folder)
        num_classes = builder.info.features["label"].num_classes
    except UserError:
        raise
    # TFDS, array_record and the image decoder raise what they like on damaged files
    except Exception as error:
        raise UserError(
            f"{folder}: cannot be read ({type(error).__name__}: {error}); it must hold the splits "
            f"train and test in array_record format: `tfds build {name} --file_format=array_record "
            "--overwrite`"
        ) from error
    names = class_names(folder, "label", num_classes, len(train.labels))
    return check_raw(RawData(name, train, test, train.labels, names, human), str(folder))


def _find_folder(name: str, data_dir: str | None) -> pathlib.Path:
    """The folder of the set's newest version; downloads it where no `data_dir` is given."""
    root = data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    root = pathlib.Path(root).expanduser()
    folder = _newest_version(root / name)
    if folder is None and data_dir is None:
        _download(name, root)
        folder = _newest_version(root / name)
    if folder is None:
        raise UserError(
            f"data.dir: no prepared {name!r} in {root} (the folder {_content(root)}); expected "
            f"{root / name}/VERSION/dataset_info.json: prepare it with `tfds build {name} "
            f"--file_format=array_record --data_dir={root}`"
        )
    if _version(folder) < _OLDEST.get(name, ()):
        oldest = ".".join(map(str, _OLDEST[name]))
        raise UserError(
            f"{folder}: {name} below {oldest} has its human-label columns mixed up; prepare it "
            f"again with a newer tensorflow-datasets (`tfds build {name} "
            "--file_format=array_record`)"
        )
    return folder


def _content(root: pathlib.Path) -> str:
    """What a folder that holds no prepared set is or holds, for a message."""
    if not root.is_dir():
        return "does not exist"
    found = sorted(path.name for path in root.iterdir())
    return f"holds {', '.join(found[:5])}" if found else "is empty"


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
        info.parent
        for info in folder.glob("*/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", info.parent.name)
    ]
    return max(versions, key=_version, default=None)


def _read_split(
    builder, split: str, keys: tuple[str, ...], human_keys: tuple[str, ...], folder: pathlib.Path
) -> tuple[Split, dict[str, np.ndarray]]:
    """Reads one TFDS split, in the order of ids; `human_keys` are features kept as label sets."""
    features = builder.info.features
    for key in (*keys, *human_keys):
        if key not in features:
            raise UserError(f"{folder}: feature {key!r} is missing; it has {', '.join(features)}")
    source = builder.as_data_source(split)
    n, shape = len(source), features["image"].shape
    num_bytes = n * int(np.prod([float(side) for side in shape]))
    require(num_bytes, f"{folder}, {split}: {n:,} images of shape {list(shape)}", "check the set")
    images = np.zeros((n, *shape), np.uint8)
    columns = {key: np.zeros(n, np.int64) for key in ("label", *human_keys)}
    ids = np.arange(n)
    for position in range(n):
        example = source[position]
        image = example["image"]
        if image.shape != images.shape[1:] or image.dtype != np.uint8:
            raise UserError(
                f"{folder}, {split}: image of record {position} is {image.dtype} "
                f"{list(image.shape)}, expected uint8 {list(images.shape[1:])}"
            )
        images[position] = image
        for key, column in columns.items():
            column[position] = example[key]
        if "id" in keys:
            ids[position] = _id_number(example["id"], split, folder)
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    check_unique(ids, f"{folder}, {split}")
    if n and (ids[0] != 0 or ids[-1] != n - 1):  # unique and sorted: anything else has a gap
        gap = int(np.flatnonzero(ids != np.arange(n))[0])
        raise UserError(
            f"{folder}, {split}: id {gap} is missing ({n} records, ids up to {ids[-1]}); prepare "
            "it again"
        )
    num_classes = features["label"].num_classes
    columns = {
        key: check_labels(column[order], num_classes, f"{folder}, {split}, {key}", ids)
        for key, column in columns.items()
    }
    return Split(images[order], columns.pop("label"), ids), columns


def _id_number(value: bytes | str, split: str, folder: pathlib.Path) -> int:
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    match = re.fullmatch(rf"{split}_(\d{{1,18}})", text)
    if not match:
        raise UserError(f"{folder}, {split}: id {text!r} does not have the form {split}_01234")
    return int(match[1])
