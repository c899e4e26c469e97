"""Transition matrices of label noise: T[true, given], row-stochastic, float64 [K, K].

Definitions follow the code published with SOP (Liu et al., ICML 2022), ELR (Liu et al., NeurIPS
2020), CDR (Xia et al., ICLR 2021) and Patrini et al., CVPR 2017; each docstring names its own.
"""

from collections.abc import Mapping

import numpy as np

from sop_jax.data.memory import require
from sop_jax.errors import UserError

# Fine class -> superclass of CIFAR-100, index = fine class.
# fmt: off
CIFAR100_SUPERCLASS = (
    4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11,
    6, 11, 5, 10, 7, 6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5,
    5, 19, 8, 8, 15, 13, 14, 17, 18, 10, 16, 4, 17, 4, 2, 0, 17, 4, 18, 17,
    10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16, 12, 9, 13, 15, 13,
    16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13,
)
# fmt: on


def _block_cyclic() -> dict[int, int]:
    """CIFAR-100: next class of the block of five ids ('asymmetric' of Patrini, ELR and CDR)."""
    return {c: c // 5 * 5 + (c + 1) % 5 for c in range(100)}


def _block_swap() -> dict[int, int]:
    """CIFAR-100: two classes of each block of five ids change places (SOP's published code).

    The pairs come from RandomState(0), as there.
    """
    random = np.random.RandomState(0)
    flips = {}
    for start in range(0, 100, 5):
        first, second = (start + random.choice(5, size=2, replace=False)).tolist()
        flips |= {first: second, second: first}
    return flips


def _superclass_cyclic() -> dict[int, int]:
    """CIFAR-100: next fine class of the same superclass, by id (what papers describe)."""
    flips = {}
    for superclass in range(20):
        members = [c for c in range(100) if CIFAR100_SUPERCLASS[c] == superclass]
        flips |= dict(zip(members, members[1:] + members[:1], strict=True))
    return flips


_COPIES = 4  # matrices [K, K] at a time: the nominal one, counts, shares and the identity
_MNIST_FLIPS = {2: 7, 3: 8, 5: 6, 6: 5}
# name -> (K, {source class: target class}); sources flip with probability `rate`, others stay.
FLIPS = {
    "cifar10": (10, {9: 1, 2: 0, 3: 5, 5: 3, 4: 7}),
    "mnist": (10, _MNIST_FLIPS),
    "fashion_mnist": (10, {0: 6, 2: 4, 5: 7, 7: 5}),
    "cifar100": (100, _block_cyclic()),
    "block_cyclic": (100, _block_cyclic()),
    "block_swap": (100, _block_swap()),
    "superclass_cyclic": (100, _superclass_cyclic()),
}


def symmetric(rate: float, num_classes: int, *, inclusive: bool = False) -> np.ndarray:
    """Uniform noise, float64 [K, K].

    Exclusive (CDR, Co-teaching): `rate` of the labels move to a uniform other class. Inclusive (the
    published SOP, ELR and DivideMix): `rate` of the labels are redrawn over all K classes, so that
    rate * (K-1)/K of them end up wrong.

    Raises:
        UserError: a rate outside [0, 1], fewer than 2 classes, or more than memory holds.
    """
    rate, num_classes = check_rate(rate), check_num_classes(num_classes)
    wrong = rate * (num_classes - 1) / num_classes if inclusive else rate
    transition = np.full((num_classes, num_classes), wrong / (num_classes - 1))
    np.fill_diagonal(transition, 1 - wrong)
    return transition


def pairflip(rate: float, num_classes: int) -> np.ndarray:
    """Class c moves to c+1 mod K with probability `rate`; float64 [K, K] (Co-teaching, CDR).

    Raises:
        UserError: as `symmetric`.
    """
    num_classes = check_num_classes(num_classes)
    return _flip_matrix(rate, num_classes, {c: (c + 1) % num_classes for c in range(num_classes)})


def asymmetric(
    rate: float,
    dataset: str | int | Mapping[int, int] = "cifar10",
    *,
    num_classes: int | None = None,
) -> np.ndarray:
    """Each source class moves to its one target class with probability `rate`; float64 [K, K].

    Every class is drawn from the true labels. The published CIFAR-10 code (SOP's data loader, and
    CDR's) relabels in place, so that some cats come back, which is not copied.

    Args:
        rate: share of each source class that moves.
        dataset: a key of `FLIPS` ('cifar100' means block_cyclic), 10 or 100 for CIFAR-10 or
            CIFAR-100, or your own {source: target}, which needs `num_classes`.
        num_classes: K; where `dataset` is not a mapping it may stand in its place.

    Raises:
        UserError: no such map, a class of the map outside [0, K), or as `symmetric`.
    """
    if isinstance(dataset, Mapping):
        return _flip_matrix(rate, check_num_classes(num_classes), dataset)
    if num_classes is not None and dataset == "cifar10":
        dataset = num_classes
    dataset = {10: "cifar10", 100: "cifar100"}.get(dataset, dataset)
    if dataset not in FLIPS:
        raise UserError(
            f"noise.kind='asymmetric' has no published map for {dataset!r}; maps exist for "
            f"{', '.join(FLIPS)}; 'pairflip' and 'symmetric' work on any set"
        )
    return _flip_matrix(rate, *FLIPS[dataset])


def _flip_matrix(rate: float, num_classes: int, flips: Mapping[int, int]) -> np.ndarray:
    rate = check_rate(rate)
    transition = np.eye(num_classes)
    for source, target in flips.items():
        if not (0 <= source < num_classes and 0 <= target < num_classes):
            raise UserError(
                f"noise map {source} -> {target}: classes must lie in [0, {num_classes - 1}]"
            )
        transition[source, source] -= rate
        transition[source, target] += rate
    return transition


def check_rate(rate: float) -> float:
    """The rate; UserError where it is outside [0, 1]."""
    if not 0 <= rate <= 1:
        raise UserError(f"noise.rate must lie in [0, 1], got {rate}")
    return float(rate)


def check_num_classes(num_classes: int | None) -> int:
    """K; UserError where it is below 2, or a matrix [K, K] does not fit into memory."""
    if num_classes is None or num_classes < 2:
        raise UserError(f"label noise needs num_classes of at least 2, got {num_classes}")
    mend = "label noise knows every pair of classes; lower data.num_classes"
    require(_COPIES * 8 * num_classes**2, f"label noise of {num_classes:,} classes", mend)
    return int(num_classes)


def check_transition(transition: np.ndarray) -> np.ndarray:
    """The matrix as float64 [K, K]; UserError names the first row that is no distribution."""
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
