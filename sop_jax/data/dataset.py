"""From a config to a data set ready for training.

Source, downsampling, limit, noise, validation split and statistics, in this order.
"""

from dataclasses import dataclass

import numpy as np
from ml_collections import ConfigDict

from sop_jax.data import sources
from sop_jax.data.checks import check_class_names, check_num_classes, check_several_classes
from sop_jax.data.human import human_labels, read_label_sets
from sop_jax.data.noise import (
    NoiseReport,
    asymmetric,
    corrupt,
    generator,
    instance_dependent,
    pairflip,
    report,
    symmetric,
)
from sop_jax.data.raw import RawData, Split
from sop_jax.errors import UserError

# Keeps the draw of validation rows apart from every other draw of the same seed.
_VALIDATION_STREAM = 0x5B117
_CIFAR10_STATISTICS = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
_CIFAR100_STATISTICS = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
_STATISTICS = {
    "cifar10": _CIFAR10_STATISTICS,
    "cifar10_n": _CIFAR10_STATISTICS,
    "cifar100": _CIFAR100_STATISTICS,
    "cifar100_n": _CIFAR100_STATISTICS,
}
_SMALLEST_STD = 1 / 255  # a channel that never changes is left at 0 instead of dividing by 0


@dataclass(frozen=True)
class Dataset:
    """A data set in memory. True training labels are not in it, so that no loss can see them."""

    name: str
    train: Split  # labels are the GIVEN (noisy) ones; rows in the order of ids
    test: Split  # true test labels
    # Both int32, ascending positions, disjoint and together all N:
    train_index: np.ndarray  # what is trained on
    validation_index: np.ndarray  # what is held out
    class_names: tuple[str, ...]  # length K
    mean: np.ndarray  # float32 [C], of pixels / 255
    std: np.ndarray  # float32 [C]
    noise: NoiseReport


def load(config: ConfigDict) -> tuple[Dataset, np.ndarray | None]:
    """Reads the set, corrupts its labels and splits it, all as functions of the config.

    Noise is drawn for all rows before the validation rows are split off, so the split does not
    change a label.

    Returns:
        The data set, and the true training labels int32 [N], or None where they are unknown: an
        `.npz` file without train_true_labels whose labels are used as they are. Where noise is
        injected, the file's train_true_labels, or else its train_labels, are what it starts from,
        and are the truth.

    Raises:
        UserError: something wrong with the files, or fields that mean nothing for this set.
    """
    datasets, true_labels = load_seeds([config])
    return datasets[0], true_labels


def load_seeds(configs: list[ConfigDict]) -> tuple[list[Dataset], np.ndarray | None]:
    """`load` for configs that differ in their seed alone: the data sets share images and truth."""
    config = configs[0]
    raw = sources.read(config.data)
    if config.data.num_classes is not None:
        raw = _with_num_classes(raw, config.data.num_classes)
    true_labels = raw.true_labels
    if true_labels is None and config.noise.kind != "none":
        true_labels = raw.train.labels  # what noise starts from is the truth
    label_set = None
    if config.noise.kind == "human":
        label_set = _human_labels(config, raw, true_labels)  # of all rows: before the limit
    elif config.data.labels:
        raise UserError(
            f"data.labels={config.data.labels!r} is a file of human labels, read only with "
            f"noise.kind='human', but noise.kind={config.noise.kind!r}: set that, or leave "
            "data.labels unset"
        )

    n = len(raw.train.labels)
    limit = n if config.data.train_limit is None else config.data.train_limit
    if not 0 < limit <= n:
        raise UserError(
            f"data.train_limit={limit}: {raw.name} has {n} training rows; lower or unset it"
        )
    images = _downsampled(raw.train.images[:limit], config.data.downsample)
    test = raw.test._replace(images=_downsampled(raw.test.images, config.data.downsample))
    train = Split(images, raw.train.labels[:limit], raw.train.ids[:limit])
    raw = raw._replace(train=train, test=test)
    true_labels = None if true_labels is None else true_labels[:limit]
    label_set = None if label_set is None else label_set[:limit]
    mean, std = _STATISTICS.get(config.data.name) or statistics(images)

    datasets = []
    for own in configs:
        labels, noise = _given_labels(own, raw, true_labels, label_set)
        train_index, validation_index = _split_rows(limit, own.data.validation_fraction, own.seed)
        check_several_classes(labels[train_index], f"{raw.name}, rows to train on")
        datasets.append(
            Dataset(
                name=raw.name,
                train=train._replace(labels=labels),
                test=test,
                train_index=train_index,
                validation_index=validation_index,
                class_names=raw.class_names,
                mean=np.asarray(mean, np.float32),
                std=np.asarray(std, np.float32),
                noise=noise,
            )
        )
    return datasets, true_labels


def _given_labels(
    config: ConfigDict,
    raw: RawData,
    true_labels: np.ndarray | None,
    label_set: np.ndarray | None,
) -> tuple[np.ndarray, NoiseReport]:
    """The given labels int32 [N] of one seed: the set's own, `label_set`, or noise on the true."""
    kind, rate, num_classes = config.noise.kind, config.noise.rate, len(raw.class_names)
    seed = config.seed if config.noise.seed is None else config.noise.seed
    if kind == "none":
        return raw.train.labels, report(kind, 0.0, raw.train.labels, true_labels, num_classes)
    if kind == "human":
        return label_set, report(kind, None, label_set, true_labels, num_classes)
    if kind == "instance":
        return instance_dependent(raw.train.images, true_labels, rate, num_classes, seed)
    labels, drawn = corrupt(true_labels, _transition(config, num_classes), seed)
    return labels, drawn._replace(kind=kind, nominal_rate=float(rate))


def _with_num_classes(raw: RawData, num_classes: int) -> RawData:
    """Applies data.num_classes: classes that the set does not have are named by their number."""
    names = raw.class_names
    if num_classes == len(names):
        return raw
    check_num_classes(num_classes, len(raw.train.labels), raw.name)
    largest = max(int(labels.max()) for labels in (raw.train.labels, raw.test.labels))
    if largest >= num_classes:
        raise UserError(
            f"data.num_classes={num_classes}, but the labels of {raw.name} go up to {largest}, "
            f"which takes {largest + 1} classes: set data.num_classes={largest + 1} or leave it "
            "unset"
        )
    extended = names[:num_classes] + tuple(map(str, range(len(names), num_classes)))
    check_class_names(extended, f"{raw.name} with data.num_classes={num_classes}")
    return raw._replace(class_names=extended)


def _human_labels(config: ConfigDict, raw: RawData, true_labels: np.ndarray) -> np.ndarray:
    """The chosen human label set, int32 [N] over all training rows."""
    path, name = config.data.labels, config.noise.labels
    # 'labels' names a file here, a set there: easily swapped
    if name and name.endswith((".npz", ".pt", ".npy")):
        path, name = name, path
    label_sets, where = raw.human, f"data.name={raw.name!r}"
    if path:
        label_sets, where = read_label_sets(path), path
        if "clean_label" not in label_sets:
            raise UserError(
                f"{path}: has no clean_label, without which the order of its rows cannot be "
                "checked; add it"
            )
    num_classes = len(raw.class_names)
    return human_labels(label_sets, name, true_labels, raw.train.ids, num_classes, where)


def _transition(config: ConfigDict, num_classes: int) -> np.ndarray:
    """The matrix [K, K] of a noise kind on this set."""
    kind, rate, name = config.noise.kind, config.noise.rate, config.data.name.removesuffix("_n")
    if kind in ("symmetric", "symmetric_exclusive"):
        return symmetric(rate, num_classes, inclusive=kind == "symmetric")
    if kind == "pairflip":
        return pairflip(rate, num_classes)
    if kind != "asymmetric" and name != "cifar100":
        raise UserError(
            f"noise.kind={kind!r} is defined on CIFAR-100 only; 'pairflip' and 'symmetric' work on "
            "any set"
        )
    transition = asymmetric(rate, name if kind == "asymmetric" else kind)
    if len(transition) != num_classes:
        raise UserError(
            f"noise.kind={kind!r} is defined for the {len(transition)} classes of {name}, "
            f"but data.num_classes={num_classes}"
        )
    return transition


def _downsampled(images: np.ndarray, factor: int) -> np.ndarray:
    """Averages blocks of factor x factor pixels, rounding half up.

    uint8 [N, H, W, C] -> uint8 [N, H/factor, W/factor, C].
    """
    if factor == 1:
        return images
    n, height, width, channels = images.shape
    if factor < 1 or height % factor or width % factor:
        raise UserError(f"data.downsample={factor} does not divide images of {height}x{width}")
    blocks = images.reshape(n, height // factor, factor, width // factor, factor, channels)
    sums = blocks.sum(axis=(2, 4), dtype=np.uint32)
    return ((sums + factor**2 // 2) // factor**2).astype(np.uint8)


def _split_rows(n: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows held out, int32, ascending; round(fraction * n) are held out."""
    held_out = round(fraction * n)
    if not 0 <= held_out < n:
        raise UserError(
            f"data.validation_fraction={fraction} leaves no training rows of {n}; it must lie in "
            "[0, 1)"
        )
    if fraction and not held_out:
        raise UserError(
            f"data.validation_fraction={fraction} holds out none of {n} rows; raise it, or set it "
            "to 0"
        )
    order = generator(seed, _VALIDATION_STREAM).permutation(n).astype(np.int32)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation [C] of pixels / 255 of uint8 images [N, H, W, C], N > 0.

    They come from histograms, so no float copy of the images is made.
    """
    values = np.arange(256) / 255
    channels = np.moveaxis(images, -1, 0)
    counts = np.stack([np.bincount(channel.ravel(), minlength=256) for channel in channels])
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ values
    std = np.sqrt(np.sum(shares * (values - mean[:, None]) ** 2, axis=1))
    return mean, np.maximum(std, _SMALLEST_STD)
