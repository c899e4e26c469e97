"""Which labels are wrong, from predictions: a model of how given labels come from true ones.

    P(given = j | x) = sum_k q(k | x) T[k, j],      q(. | x) = softmax(W log p(. | x) + b)

p is a prediction that the row's own label had no part in, q what it says of the true class, T the
transition from true to given labels. W is a multiple of the identity plus a full matrix kept small:
a network trained on wrong labels predicts those, p = q T, and only a matrix can undo that. All of
it is fitted to the given labels by penalised maximum likelihood, so that no true label enters.

Sources: noise adaptation (Goldberger and Ben-Reuven 2017) on held-out predictions; matrix scaling
(Guo et al. 2017).
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, logsumexp, softmax

FLOOR = -7.0  # of log p, below which a probability of few rows says nothing more
SPREAD_W = (
    30**-0.5
)  # standard deviation that an entry of W off the multiple of 1, and of b, may have
SPREAD_T = 4.0  # the same of a log odds in T around their common value
SHARP = 4.0  # W at the start: first believe the prediction, then the label
LEAST = np.finfo(np.float64).tiny  # of a probability, so that its logarithm is a number
STEPS = 300  # of L-BFGS; the likelihood is flat near its top
ROUNDS = 20  # of `own_posterior`
MOST_CLASSES = 100  # from which on W stays a multiple of the identity


class NoiseModel(NamedTuple):
    """A fitted model of K classes."""

    weight: np.ndarray  # W [K, K]
    bias: np.ndarray  # b [K]
    transition: np.ndarray  # T [K, K], P(given | true), rows sum to 1


def fit(log_probs: np.ndarray, label: np.ndarray) -> NoiseModel:
    """The model of largest penalised likelihood.

    The search starts where the predicted classes are taken for the true ones.

    Args:
      log_probs: float [n, K], of predictions that the row's own label had no part in.
      label: int [n], the given labels.
    """
    inputs, num_classes = _centred(log_probs), log_probs.shape[1]
    given, other = np.eye(num_classes)[label], ~np.eye(num_classes, dtype=bool)
    full = num_classes <= MOST_CLASSES

    def unpack(values):
        scale, common = values[:2]
        bias, odds, matrix = np.split(values[2:], [num_classes, num_classes**2])
        log_odds = np.zeros((num_classes, num_classes))
        log_odds[other] = odds
        matrix = matrix.reshape(num_classes, num_classes) if full else np.zeros(())
        return scale, common, bias, log_odds, matrix

    def objective(values):
        scale, common, bias, log_odds, matrix = unpack(values)
        clean = softmax(inputs @ _weight(scale, matrix, num_classes) + bias, axis=1)
        transition = softmax(np.where(other, common + log_odds, 0.0), axis=1)
        true = clean * transition[:, label].T
        likelihood = np.maximum(true.sum(axis=1, keepdims=True), LEAST)
        true /= likelihood
        of_logits = inputs.T @ (clean - true)
        pairs = true.T @ given
        of_transition = pairs.sum(axis=1, keepdims=True) * transition - pairs
        penalty = np.sum(matrix**2) + np.sum(bias**2)
        value = -np.log(likelihood).sum() + penalty / (2 * SPREAD_W**2)
        value += np.sum(log_odds**2) / (2 * SPREAD_T**2)
        gradient = [
            [np.trace(of_logits), of_transition[other].sum()],
            (clean - true).sum(axis=0) + bias / SPREAD_W**2,
            (of_transition + log_odds / SPREAD_T**2)[other],
        ]
        if full:
            gradient.append((of_logits + matrix / SPREAD_W**2).ravel())
        return value / len(label), np.concatenate(gradient) / len(label)

    predicted = np.eye(num_classes)[inputs.argmax(axis=1)]
    log_counts = np.log(predicted.T @ given + 0.5)
    odds = (log_counts - np.diag(log_counts)[:, None])[other]
    start = [[SHARP, odds.mean()], np.zeros(num_classes), odds - odds.mean()]
    start.append(np.zeros(num_classes**2 if full else 0))
    limits = {"maxiter": STEPS, "maxfun": 2 * STEPS, "ftol": 1e-9, "gtol": 1e-7}
    best = minimize(objective, np.concatenate(start), jac=True, method="L-BFGS-B", options=limits).x
    scale, common, bias, log_odds, matrix = unpack(best)
    # Where predictions and labels part the rows without an exception, `common` runs away.
    transition = np.maximum(softmax(np.where(other, common + log_odds, 0.0), axis=1), LEAST)
    return NoiseModel(_weight(scale, matrix, num_classes), bias, transition)


def log_posterior(model: NoiseModel, log_probs: np.ndarray, label: np.ndarray) -> np.ndarray:
    """log P(true class | prediction, given label), float [n, K], up to a constant of each row."""
    clean = _centred(log_probs) @ model.weight + model.bias
    return clean + np.log(model.transition[:, label].T)


def explained(model: NoiseModel, log_probs: np.ndarray, label: np.ndarray) -> float:
    """The share of the entropy of the given labels that the model explains, 0 at chance, at most 1.

    A prediction that says nothing explains nothing, and every label looks as wrong as the next.
    """
    clean = log_softmax(_centred(log_probs) @ model.weight + model.bias, axis=1)
    likelihood = logsumexp(clean + np.log(model.transition[:, label].T), axis=1)
    shares = np.bincount(label) / len(label)
    entropy = -np.sum(shares * np.log(np.maximum(shares, 1e-12)))
    return float(1 + likelihood.mean() / max(entropy, 1e-12))


class OwnModel(NamedTuple):
    """How a network's predictions of its own training rows are read, see `fit_own`."""

    scale: float
    bias: np.ndarray  # [K]
    pull: float  # by how much a row's own label has raised its own log odds


def fit_own(
    log_probs: np.ndarray, label: np.ndarray, transition: np.ndarray, rate: float
) -> OwnModel:
    """Reads predictions of rows that the network was trained on, of which it knows the labels.

    The posterior is softmax(scale * log p + bias - pull * given + log T[:, given]). Scale and bias
    are those of the posterior itself (expectation-maximisation with T held), and the pull is such
    that a share `rate` of the labels is wrong under it: training has drawn each prediction towards
    its own label, and how far, only rows held out can tell.

    Args:
      log_probs: float [n, K]. label: int [n]. transition: T [K, K]. rate: in (0, 1).
    """
    log_probs = log_softmax(log_probs, axis=1)
    num_classes = log_probs.shape[1]
    given = np.eye(num_classes)[label]
    from_label = np.log(transition[:, label].T)
    scale, bias, pull = 1.0, np.zeros(num_classes), 0.0
    for _ in range(ROUNDS):
        logits = scale * log_probs + bias + from_label
        pull = pull_for(odds_of_given(logits, label), rate)
        true = softmax(logits - pull * given, axis=1)

        def objective(values, true=true, pull=pull):
            predicted = log_softmax(values[0] * log_probs + values[1:] - pull * given, axis=1)
            gap = np.exp(predicted) - true
            # weak pulls towards 0: where the classes are separated, the scale has no end
            value = -np.sum(true * predicted) / len(label) + 1e-4 * np.sum(values[1:] ** 2)
            of_scale = np.sum(gap * log_probs) / len(label) + 1e-3 * values[0]
            of_bias = gap.sum(axis=0) / len(label) + 2e-4 * values[1:]
            return value + 5e-4 * values[0] ** 2, np.concatenate([[of_scale], of_bias])

        start = np.concatenate([[scale], bias])
        values = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 8}).x
        scale, bias = float(values[0]), values[1:]
    logits = scale * log_probs + bias + from_label
    return OwnModel(scale, bias, pull_for(odds_of_given(logits, label), rate))


def log_posterior_of_own(
    model: OwnModel, log_probs: np.ndarray, label: np.ndarray, transition: np.ndarray
) -> np.ndarray:
    """log P(true class | training prediction, given label), [n, K], up to a constant a row."""
    logits = model.scale * log_softmax(log_probs, axis=1) + model.bias
    logits = logits + np.log(transition[:, label].T)
    logits[np.arange(len(label)), label] -= model.pull
    return logits


def odds_of_given(logits: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Log odds [n] of the given label against all others together."""
    own = logits[np.arange(len(label)), label]
    others = logits.copy()
    others[np.arange(len(label)), label] = -np.inf
    return own - logsumexp(others, axis=1)


def pull_for(log_odds: np.ndarray, rate: float) -> float:
    """The d at which the mean of sigmoid(d - log_odds), the share that is wrong, is `rate`."""
    low, high = log_odds.min() - 40.0, log_odds.max() + 40.0
    for _ in range(60):
        middle = (low + high) / 2
        if np.mean(expit(middle - log_odds)) < rate:
            low = middle
        else:
            high = middle
    return float(high)


def _centred(log_probs: np.ndarray) -> np.ndarray:
    """Log-probabilities, floored, with mean 0 over the classes."""
    floored = np.maximum(log_softmax(np.asarray(log_probs, np.float64), axis=1), FLOOR)
    return floored - floored.mean(axis=1, keepdims=True)


def _weight(scale: float, matrix: np.ndarray, num_classes: int) -> np.ndarray:
    return scale * np.eye(num_classes) + matrix
