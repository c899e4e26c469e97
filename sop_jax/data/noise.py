"""Label noise as pure functions of (labels, transition matrix, seed).

A noise model is a row-stochastic matrix T[true, given], float64 [K, K], made by `symmetric`,
`pairflip` or `asymmetric` (see `transitions.py`); `corrupt` draws the given labels from it. The one
kind that no matrix describes, noise that depends on the image, has its own function.
"""

import hashlib
from typing import NamedTuple

import numpy as np

from sop_jax.data.checks import check_labels
from sop_jax.data.transitions import (
    asymmetric,
    check_num_classes,
    check_rate,
    check_transition,
    pairflip,
    symmetric,
)
from sop_jax.errors import UserError

__all__ = [
    "NoiseReport",
    "asymmetric",
    "corrupt",
    "generator",
    "instance_dependent",
    "pairflip",
    "report",
    "symmetric",
]


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


def report(
    kind: str,
    nominal_rate: float | None,
    labels: np.ndarray,
    true_labels: np.ndarray | None,
    num_classes: int,
) -> NoiseReport:
    """Compares given labels [N] with true labels [N] (or None, where they are unknown)."""
    labels = np.asarray(labels, np.int32)
    sha256 = hashlib.sha256(labels.astype("<i4").tobytes()).hexdigest()
    if true_labels is None:
        return NoiseReport(kind, nominal_rate, None, None, sha256)
    check_num_classes(num_classes)
    counts = np.zeros((num_classes, num_classes))
    np.add.at(counts, (true_labels, labels), 1)
    totals = counts.sum(axis=1, keepdims=True)
    transition = np.where(totals > 0, counts / np.maximum(totals, 1), np.eye(num_classes))
    actual_rate = float(np.mean(labels != true_labels)) if len(labels) else 0.0
    return NoiseReport(kind, nominal_rate, actual_rate, transition, sha256)


def corrupt(
    labels: np.ndarray, transition: np.ndarray, seed: int
) -> tuple[np.ndarray, NoiseReport]:
    """Draws given labels from the rows of a transition matrix.

    Within each true class the draw is stratified: n evenly spaced quantiles with one random offset
    go through the row's cumulative sum, and a random permutation hands them to the n examples. Each
    example's label still has the distribution T[true], and every realised count is the expected one
    rounded up or down, so 40 % noise means 40 %, not 40 % give or take a draw. (Published codes
    draw independently; the count of wrong labels then varies by seed.)

    Args:
        labels: the labels that noise starts from, which are the true ones: integers [N] in [0, K).
        transition: T[true, given], [K, K], rows sum to 1.
        seed: the only source of randomness; class c uses the stream (seed, c).

    Returns:
        Given labels int32 [N], and the report (its nominal rate is the one the matrix expects on
        these labels).

    Raises:
        UserError: a matrix that is not row-stochastic (the row is named), labels out of range, a
            negative seed.
    """
    transition = check_transition(transition)
    num_classes = len(transition)
    true_labels = check_labels(labels, num_classes)
    drawn_labels = true_labels.copy()
    for c in np.unique(true_labels):
        random = generator(seed, c)
        index = np.flatnonzero(true_labels == c)
        # The diagonal goes first, so that the number of wrong labels of the class is off by less
        # than one, too.
        order = np.roll(np.arange(num_classes), -c)
        quantiles = np.minimum(
            (np.arange(len(index)) + random.random()) / len(index), np.nextafter(1, 0)
        )
        cumulative = np.cumsum(transition[c, order])
        cumulative /= cumulative[-1]
        drawn = order[np.searchsorted(cumulative, quantiles, side="right")]
        drawn_labels[random.permutation(index)] = drawn
    expected = float(np.mean(1 - np.diag(transition)[true_labels])) if len(true_labels) else 0.0
    return drawn_labels, report("matrix", expected, drawn_labels, true_labels, num_classes)


def instance_dependent(
    images: np.ndarray,
    labels: np.ndarray,
    rate: float,
    num_classes: int,
    seed: int,
    *,
    input_scale: float = 1.0,
) -> tuple[np.ndarray, NoiseReport]:
    """Noise whose target depends on the image (Xia et al., NeurIPS 2020, algorithm 2).

    In the form of CDR's code, one projection W_c per class: example i moves with probability
    q_i ~ normal(rate, 0.1) truncated to [0, 1], to a class drawn from softmax(x_i W_y) without its
    own class y. On raw pixels 0..255, as published, that softmax is all but one-hot.

    Args:
        images: [N, ...], raw pixels; flattened to [N, d].
        labels: the labels that noise starts from, which are the true ones: integers [N].
        rate: mean of q before truncation; 0 leaves the labels as they are.
        num_classes: K.
        seed: the only source of randomness.
        input_scale: pixels are multiplied by this (1/255 gives softer noise).

    Returns:
        Given labels int32 [N], and the report.

    Raises:
        UserError: a rate outside [0, 1], labels out of range, a negative seed.
    """
    from scipy.special import ndtr, ndtri, softmax

    rate, num_classes = check_rate(rate), check_num_classes(num_classes)
    true_labels = check_labels(labels, num_classes)
    images = np.asarray(images).reshape(len(true_labels), -1)
    drawn_labels = true_labels.copy()
    if rate == 0:
        return drawn_labels, report("instance", rate, drawn_labels, true_labels, num_classes)
    random = generator(seed)
    low, high = ndtr((0 - rate) / 0.1), ndtr((1 - rate) / 0.1)
    flip_rate = rate + 0.1 * ndtri(low + (high - low) * random.random(len(true_labels)))
    moves = random.random(len(true_labels)) < flip_rate
    # W is drawn for every class, so a class's noise does not depend on which are present.
    for c in range(num_classes):
        projection = random.standard_normal((images.shape[1], num_classes))
        uniform = random.random(len(true_labels))
        index = np.flatnonzero((true_labels == c) & moves)
        scores = (images[index] * input_scale) @ projection
        scores[:, c] = -np.inf
        cumulative = np.cumsum(softmax(scores, axis=1), axis=1)
        chosen = np.sum(cumulative / cumulative[:, -1:] <= uniform[index, None], axis=1)
        drawn_labels[index] = chosen
    return drawn_labels, report("instance", rate, drawn_labels, true_labels, num_classes)


def generator(*seeds: int) -> np.random.Generator:
    """A random generator of its own for each tuple of integers; UserError where one is negative."""
    if min(seeds) < 0:
        raise UserError(
            f"a seed is a whole number of 0 or more, not {min(seeds)}: set seed (or noise.seed)"
        )
    return np.random.default_rng([int(s) for s in seeds])
