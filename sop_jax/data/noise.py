"""Label noise as pure functions of (labels, transition matrix, seed).

A noise model is a row-stochastic matrix T[true, given], float64 [K, K]; `corrupt` draws the given
labels from it. The one kind that no matrix describes, noise that depends on the image, has its own
function. Definitions follow the code published with SOP (Liu et al., ICML 2022), ELR, CDR and
Patrini et al. 2017; each docstring names its own.
"""

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from sop_jax.errors import UserError

# Fine class -> superclass of CIFAR-100, index = fine class.
CIFAR100_SUPERCLASS = (
    (
        4,
        1,
        14,
        8,
        0,
        6,
        7,
        7,
        18,
        3,
        3,
        14,
        9,
        18,
        7,
        11,
        3,
        9,
        7,
        11,
        6,
        11,
        5,
        10,
        7,
        6,
        13,
        15,
        3,
        15,
    )
    + (
        0,
        11,
        1,
        10,
        12,
        14,
        16,
        9,
        11,
        5,
        5,
        19,
        8,
        8,
        15,
        13,
        14,
        17,
        18,
        10,
        16,
        4,
        17,
        4,
        2,
        0,
        17,
        4,
        18,
        17,
    )
    + (
        10,
        3,
        2,
        12,
        12,
        16,
        12,
        1,
        9,
        19,
        2,
        10,
        0,
        1,
        16,
        12,
        9,
        13,
        15,
        13,
        16,
        19,
        2,
        4,
        6,
        19,
        5,
        5,
        8,
        19,
    )
    + (18, 1, 2, 15, 6, 0, 17, 8, 14, 13)
)


def _block_cyclic() -> dict[int, int]:
    """CIFAR-100: next class within each block of five consecutive ids (Patrini, ELR, CDR call it
    'asymmetric').
    """
    return {c: c // 5 * 5 + (c + 1) % 5 for c in range(100)}


def _block_swap() -> dict[int, int]:
    """CIFAR-100: two classes of each block of five change places (SOP's code); the pairs come from
    RandomState(0).
    """
    random = np.random.RandomState(0)
    flips = {}
    for start in range(0, 100, 5):
        first, second = (start + random.choice(5, size=2, replace=False)).tolist()
        flips |= {first: second, second: first}
    return flips


def _superclass_cyclic() -> dict[int, int]:
    """CIFAR-100: next fine class of the same superclass, in the order of ids (what papers
    describe).
    """
    flips = {}
    for superclass in range(20):
        members = [c for c in range(100) if CIFAR100_SUPERCLASS[c] == superclass]
        flips |= dict(zip(members, members[1:] + members[:1], strict=True))
    return flips


_MNIST_FLIPS = {2: 7, 3: 8, 5: 6, 6: 5}
# name -> (K, {source class: target class}); sources flip with probability `rate`, other classes
# stay clean
FLIPS = {
    "cifar10": (10, {9: 1, 2: 0, 3: 5, 5: 3, 4: 7}),
    "mnist": (10, _MNIST_FLIPS),
    "fashion_mnist": (10, {0: 6, 2: 4, 5: 7, 7: 5}),
    "cifar100": (100, _block_cyclic()),
    "block_cyclic": (100, _block_cyclic()),
    "block_swap": (100, _block_swap()),
    "superclass_cyclic": (100, _superclass_cyclic()),
}


class NoiseReport(NamedTuple):
    """What was done to the labels.

    `transition` float64 [K, K] holds the realised shares T[true, given] (a class without examples
    has its identity row); it and `actual_rate` are None where the true labels are unknown. Human
    labels have no nominal rate. `sha256` is of the given labels as little-endian int32 bytes.
    """

    kind: str
    nominal_rate: float | None
    actual_rate: float | None
    transition: np.ndarray | None
    sha256: str

    def describe(self) -> str:
        """One line for the console."""
        nominal = "" if self.nominal_rate is None else f" at nominal rate {self.nominal_rate:g}"
        actual = "share unknown" if self.actual_rate is None else f"{self.actual_rate:.2%}"
        return (
            f"label noise: {self.kind}{nominal}; wrong labels: {actual}; sha256 {self.sha256[:16]}"
        )


def report(kind: str, nominal_rate: float | None, given, true, num_classes: int) -> NoiseReport:
    """Compares given labels [N] with true labels [N] (or None, where they are unknown)."""
    given = np.asarray(given, np.int32)
    sha256 = hashlib.sha256(given.astype("<i4").tobytes()).hexdigest()
    if true is None:
        return NoiseReport(kind, nominal_rate, None, None, sha256)
    counts = np.zeros((num_classes, num_classes))
    np.add.at(counts, (true, given), 1)
    totals = counts.sum(axis=1, keepdims=True)
    transition = np.where(totals > 0, counts / np.maximum(totals, 1), np.eye(num_classes))
    actual_rate = float(np.mean(given != true)) if len(given) else 0.0
    return NoiseReport(kind, nominal_rate, actual_rate, transition, sha256)


def symmetric(rate: float, num_classes: int, *, inclusive: bool = False) -> np.ndarray:
    """Uniform noise, float64 [K, K].

    Exclusive (CDR, Co-teaching): `rate` of the labels move to a uniform other class. Inclusive (the
    published SOP, ELR and DivideMix): `rate` of the labels are redrawn over all K classes, so that
    rate * (K-1)/K of them end up wrong.
    """
    rate, num_classes = _check_rate(rate), _check_num_classes(num_classes)
    wrong = rate * (num_classes - 1) / num_classes if inclusive else rate
    transition = np.full((num_classes, num_classes), wrong / (num_classes - 1))
    np.fill_diagonal(transition, 1 - wrong)
    return transition


def pairflip(rate: float, num_classes: int) -> np.ndarray:
    """Class c moves to c+1 mod K with probability `rate`; float64 [K, K] (Co-teaching, CDR)."""
    num_classes = _check_num_classes(num_classes)
    return _flip_matrix(rate, num_classes, {c: (c + 1) % num_classes for c in range(num_classes)})


def asymmetric(
    rate: float,
    dataset: str | int | Mapping[int, int] = "cifar10",
    *,
    num_classes: int | None = None,
):
    """Each source class moves to its one target class with probability `rate`; float64 [K, K].

    Every class is drawn from the clean labels: the published CIFAR-10 code relabels in place, so
    that some cats come back, which is not copied (SOP's released code, data loader; CDR's
    likewise).

    Args:
        rate: share of each source class that moves.
        dataset: a key of `FLIPS` ('cifar100' means block_cyclic), 10 or 100 for CIFAR-10 or
            CIFAR-100, or your own {source: target}, which needs `num_classes`.
        num_classes: K; where `dataset` is not a mapping it may stand in its place.

    Raises:
        UserError: no such map, or a class of the map outside [0, K).
    """
    if isinstance(dataset, Mapping):
        return _flip_matrix(rate, _check_num_classes(num_classes), dataset)
    if num_classes is not None and dataset == "cifar10":
        dataset = num_classes
    dataset = {10: "cifar10", 100: "cifar100"}.get(dataset, dataset)
    if dataset not in FLIPS:
        raise UserError(
            f"noise.kind='asymmetric' has no published map for {dataset!r}; maps exist for {', '.join(FLIPS)}; "
            "'pairflip' and 'symmetric' work on any set"
        )
    return _flip_matrix(rate, *FLIPS[dataset])


def corrupt(labels, transition, seed: int) -> tuple[np.ndarray, NoiseReport]:
    """Draws given labels from the rows of a transition matrix.

    Within each true class the draw is stratified: n evenly spaced quantiles with one random offset
    go through the row's cumulative sum, and a random permutation hands them to the n examples. Each
    example's label still has the distribution T[true], and every realised count is the expected one
    rounded up or down, so 40 % noise means 40 %, not 40 % give or take a draw. (Published codes
    draw independently; the count of wrong labels then varies by seed.)

    Args:
        labels: true labels, integers [N] in [0, K).
        transition: T[true, given], [K, K], rows sum to 1.
        seed: the only source of randomness; class c uses the stream (seed, c).

    Returns:
        Given labels int32 [N], and the report (its nominal rate is the one the matrix expects on
        these labels).

    Raises:
        UserError: a matrix that is not row-stochastic (the row is named), labels out of range, a
          negative seed.
    """
    transition = _check_transition(transition)
    num_classes = len(transition)
    labels = check_labels(labels, num_classes)
    given = labels.copy()
    for c in np.unique(labels):
        random = generator(seed, c)
        rows = np.flatnonzero(labels == c)
        # The diagonal goes first, so that the number of wrong labels of the class is off by less
        # than one, too.
        order = np.roll(np.arange(num_classes), -c)
        quantiles = np.minimum(
            (np.arange(len(rows)) + random.random()) / len(rows), np.nextafter(1, 0)
        )
        cumulative = np.cumsum(transition[c, order])
        cumulative /= cumulative[-1]
        drawn = order[np.searchsorted(cumulative, quantiles, side="right")]
        given[random.permutation(rows)] = drawn
    expected = float(np.mean(1 - np.diag(transition)[labels])) if len(labels) else 0.0
    return given, report("matrix", expected, given, labels, num_classes)


def instance_dependent(
    images, labels, rate: float, num_classes: int, seed: int, *, input_scale: float = 1.0
) -> tuple[np.ndarray, NoiseReport]:
    """Noise whose target depends on the image (Xia et al. 2020; the form of CDR's code, one
    projection per class).

    Example i moves with probability q_i ~ normal(rate, 0.1) truncated to [0, 1], to a class drawn
    from softmax(x_i W_y) without its own class y. On raw pixels 0..255, as published, that softmax
    is all but one-hot.

    Args:
        images: [N, ...], raw pixels; flattened to [N, d].
        labels: true labels, integers [N].
        rate: mean of q before truncation; 0 leaves the labels as they are.
        num_classes: K.
        seed: the only source of randomness.
        input_scale: pixels are multiplied by this (1/255 gives softer noise).

    Returns:
        Given labels int32 [N], and the report.
    """
    from scipy.special import ndtr, ndtri, softmax

    rate, num_classes = _check_rate(rate), _check_num_classes(num_classes)
    labels = check_labels(labels, num_classes)
    images = np.asarray(images).reshape(len(labels), -1)
    given = labels.copy()
    if rate == 0:
        return given, report("instance", rate, given, labels, num_classes)
    random = generator(seed)
    low, high = ndtr((0 - rate) / 0.1), ndtr((1 - rate) / 0.1)
    flip_rate = rate + 0.1 * ndtri(low + (high - low) * random.random(len(labels)))
    moves = random.random(len(labels)) < flip_rate
    # W is drawn for every class, so a class's noise does not depend on which are present
    for c in range(num_classes):
        projection = random.standard_normal((images.shape[1], num_classes))
        uniform = random.random(len(labels))
        rows = np.flatnonzero((labels == c) & moves)
        scores = (images[rows] * input_scale) @ projection
        scores[:, c] = -np.inf
        cumulative = np.cumsum(softmax(scores, axis=1), axis=1)
        given[rows] = np.sum(cumulative / cumulative[:, -1:] <= uniform[rows, None], axis=1)
    return given, report("instance", rate, given, labels, num_classes)


def generator(*seeds: int) -> np.random.Generator:
    """A random generator of its own for each tuple of non-negative integers."""
    if min(seeds) < 0:
        raise UserError(
            f"a seed is a whole number of 0 or more, not {min(seeds)}: set seed (or noise.seed)"
        )
    return np.random.default_rng([int(s) for s in seeds])


def check_labels(labels, num_classes: int, what: str = "labels", ids=None) -> np.ndarray:
    """Returns labels as int32 [N]; UserError names the first row (by its id, where given) outside
    [0, K).
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or (labels.size and labels.dtype.kind not in "iu"):
        raise UserError(
            f"{what}: expected whole numbers of shape [N], got {labels.dtype} {list(labels.shape)}"
        )
    bad = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(bad):
        row = bad[0] if ids is None else ids[bad[0]]
        raise UserError(
            f"{what}: label {labels[bad[0]]} of row id {row} is outside [0, {num_classes - 1}] "
            f"({len(bad)} such rows): mend the labels, or set data.num_classes to their number of classes"
        )
    return labels.astype(np.int32)


def _flip_matrix(rate: float, num_classes: int, flips: Mapping[int, int]) -> np.ndarray:
    rate = _check_rate(rate)
    transition = np.eye(num_classes)
    for source, target in flips.items():
        if not (0 <= source < num_classes and 0 <= target < num_classes):
            raise UserError(
                f"noise map {source} -> {target}: classes must lie in [0, {num_classes - 1}]"
            )
        transition[source, source] -= rate
        transition[source, target] += rate
    return transition


def _check_rate(rate: float) -> float:
    if not 0 <= rate <= 1:
        raise UserError(f"noise.rate must lie in [0, 1], got {rate}")
    return float(rate)


def _check_num_classes(num_classes: int | None) -> int:
    if num_classes is None or num_classes < 2:
        raise UserError(f"label noise needs num_classes of at least 2, got {num_classes}")
    return int(num_classes)


def _check_transition(transition) -> np.ndarray:
    transition = np.asarray(transition, np.float64)
    if transition.ndim != 2 or transition.shape[0] != transition.shape[1]:
        raise UserError(f"transition matrix must have shape [K, K], got {list(transition.shape)}")
    for c, row in enumerate(transition):
        if not (row >= 0).all():  # also catches nan
            raise UserError(
                f"transition matrix, row {c}: holds {row.min()}, but probabilities are 0 or more"
            )
        if abs(row.sum() - 1) > 1e-6:
            raise UserError(f"transition matrix, row {c}: sums to {row.sum():.6g} instead of 1")
    return transition
