"""From a config to a data set ready for training: source, downsampling, limit, noise, validation
split, statistics.
"""

from dataclasses import dataclass

import numpy as np

from sop_jax.data import human, noise, sources
from sop_jax.data.noise import NoiseReport
from sop_jax.data.sources import RawData, Split
from sop_jax.errors import UserError

# keeps the draw of validation rows apart from every other draw of the same seed
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
    train_rows: np.ndarray  # int32, ascending: rows that are trained on
    # int32, ascending: rows held out; disjoint from train_rows, together all N
    validation_rows: np.ndarray
    class_names: tuple[str, ...]  # length K
    mean: np.ndarray  # float32 [C], of pixels / 255
    std: np.ndarray  # float32 [C]
    noise: NoiseReport


def load(config) -> tuple[Dataset, np.ndarray | None]:
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
    datasets, true = load_seeds([config])
    return datasets[0], true


def load_seeds(configs: list) -> tuple[list[Dataset], np.ndarray | None]:
    """`load` for configs that differ in their seed alone: the data sets, which share their images,
    and the truth.
    """
    config = configs[0]
    raw = _with_num_classes(sources.read(config.data), config.data.num_classes)
    clean = raw.train.labels if raw.true_labels is None else raw.true_labels
    true = raw.true_labels if config.noise.kind == "none" else clean
    # before the limit: a file of labels covers the whole set
    label_set = _human_labels(raw, clean, config)

    limit = len(clean) if config.data.train_limit is None else config.data.train_limit
    if not 0 < limit <= len(clean):
        raise UserError(
            f"data.train_limit={limit}: {raw.name} has {len(clean)} training rows; lower or unset it"
        )
    images = _downsampled(raw.train.images[:limit], config.data.downsample)
    test = raw.test._replace(images=_downsampled(raw.test.images, config.data.downsample))
    raw = raw._replace(
        train=Split(images, raw.train.labels[:limit], raw.train.ids[:limit]), test=test
    )
    clean, true = clean[:limit], None if true is None else true[:limit]
    mean, std = (
        np.asarray(s, np.float32) for s in _STATISTICS.get(config.data.name) or statistics(images)
    )

    datasets = []
    for own in configs:
        given, report = _given_labels(own, raw, clean, true, label_set)
        train_rows, validation_rows = _split_rows(limit, own.data.validation_fraction, own.seed)
        datasets.append(
            Dataset(
                name=raw.name,
                train=raw.train._replace(labels=given),
                test=raw.test,
                train_rows=train_rows,
                validation_rows=validation_rows,
                class_names=raw.class_names,
                mean=mean,
                std=std,
                noise=report,
            )
        )
    return datasets, true


def _given_labels(
    config, raw: RawData, clean: np.ndarray, true: np.ndarray | None, label_set: np.ndarray | None
) -> tuple[np.ndarray, NoiseReport]:
    """The noisy labels int32 [N] of one seed; `clean` are those that injected noise starts from."""
    num_classes = len(raw.class_names)
    seed = config.seed if config.noise.seed is None else config.noise.seed
    if config.noise.kind == "none":
        return raw.train.labels, noise.report("none", 0.0, raw.train.labels, true, num_classes)
    if config.noise.kind == "human":
        given = label_set[: len(clean)]
        return given, noise.report("human", None, given, true, num_classes)
    if config.noise.kind == "instance":
        return noise.instance_dependent(
            raw.train.images, clean, config.noise.rate, num_classes, seed
        )
    given, report = noise.corrupt(clean, _transition(config, num_classes), seed)
    return given, report._replace(kind=config.noise.kind, nominal_rate=float(config.noise.rate))


def _with_num_classes(raw: RawData, num_classes: int | None) -> RawData:
    """Applies data.num_classes: more classes than the set has are named by their number, fewer are
    refused.
    """
    names = raw.class_names
    if num_classes is None or num_classes == len(names):
        return raw
    largest = max(int(labels.max()) for labels in (raw.train.labels, raw.test.labels))
    if largest >= num_classes:
        raise UserError(
            f"data.num_classes={num_classes}, but the labels of {raw.name} go up to {largest}, which takes "
            f"{largest + 1} classes: set data.num_classes={largest + 1} or leave it unset"
        )
    extended = names[:num_classes] + tuple(str(c) for c in range(len(names), num_classes))
    return raw._replace(class_names=extended)


def _human_labels(raw: RawData, clean: np.ndarray, config) -> np.ndarray | None:
    """The chosen human label set, int32 [N] over all training rows, or None for another kind of
    noise.
    """
    if config.noise.kind != "human":
        if config.data.labels:
            raise UserError(
                f"data.labels={config.data.labels!r} is a file of human labels, read only with noise.kind='human', "
                f"but noise.kind={config.noise.kind!r}: set that, or leave data.labels unset"
            )
        return None
    path, name = config.data.labels, config.noise.labels
    # 'labels' names a file here, a set there: easily swapped
    if name and name.endswith((".npz", ".pt", ".npy")):
        path, name = name, path
    label_sets, where = (
        (human.read_label_sets(path), path) if path else (raw.human, f"data.name={raw.name!r}")
    )
    if path and "clean_label" not in label_sets:
        raise UserError(
            f"{path}: has no clean_label, without which the order of its rows cannot be checked; add it"
        )
    return human.human_labels(label_sets, name, clean, raw.train.ids, len(raw.class_names), where)


def _transition(config, num_classes: int) -> np.ndarray:
    """The matrix [K, K] of a noise kind on this set."""
    kind, rate, name = config.noise.kind, config.noise.rate, config.data.name.removesuffix("_n")
    if kind in ("symmetric", "symmetric_exclusive"):
        return noise.symmetric(rate, num_classes, inclusive=kind == "symmetric")
    if kind == "pairflip":
        return noise.pairflip(rate, num_classes)
    if kind != "asymmetric" and name != "cifar100":
        raise UserError(
            f"noise.kind={kind!r} is defined on CIFAR-100 only; 'pairflip' and 'symmetric' work on any set"
        )
    transition = noise.asymmetric(rate, name if kind == "asymmetric" else kind)
    if len(transition) != num_classes:
        raise UserError(
            f"noise.kind={kind!r} is defined for the {len(transition)} classes of {name}, "
            f"but data.num_classes={num_classes}"
        )
    return transition


def _downsampled(images: np.ndarray, factor: int) -> np.ndarray:
    """Averages blocks of factor x factor pixels, rounding half up; uint8 [N, H, W, C] -> [N,
    H/factor, W/factor, C].
    """
    if factor == 1:
        return images
    n, height, width, channels = images.shape
    if factor < 1 or height % factor or width % factor:
        raise UserError(f"data.downsample={factor} does not divide images of {height}x{width}")
    blocks = images.reshape(n, height // factor, factor, width // factor, factor, channels)
    return ((blocks.sum(axis=(2, 4), dtype=np.uint32) + factor**2 // 2) // factor**2).astype(
        np.uint8
    )


def _split_rows(n: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows held out, int32, ascending; round(fraction * n) are held out."""
    held_out = round(fraction * n)
    if not 0 <= held_out < n:
        raise UserError(
            f"data.validation_fraction={fraction} leaves no training rows of {n}; it must lie in [0, 1)"
        )
    if fraction and not held_out:
        raise UserError(
            f"data.validation_fraction={fraction} holds out none of {n} rows; raise it, or set it to 0"
        )
    order = noise.generator(seed, _VALIDATION_STREAM).permutation(n).astype(np.int32)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation [C] of pixels / 255, from histograms (no float copy of the
    images).
    """
    values = np.arange(256) / 255
    counts = np.stack(
        [np.bincount(images[..., c].ravel(), minlength=256) for c in range(images.shape[-1])]
    )
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ values
    std = np.sqrt(np.sum(shares * (values - mean[:, None]) ** 2, axis=1))
    return mean, np.maximum(std, _SMALLEST_STD)
