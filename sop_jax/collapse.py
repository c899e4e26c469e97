"""Neural collapse: how far last-layer features and classifier are from a simplex ETF.

Features H [N, d] are the inputs of the last linear layer, logits = W h + b. In a collapsed network
the features of a class sit at their mean (NC1), the rows of W form a simplex ETF (NC2), and W is in
line with the centred means (NC3). Metrics of Zhu et al., NeurIPS 2021 (arXiv 2105.02375, section 5)
and Papyan, Han, Donoho, PNAS 2020; on the host in float64.
"""

import numpy as np

from sop_jax.models.etf import simplex_etf

_RCOND = 1e-6  # S_B has rank K-1 at most; what rounding leaves of the other directions is cut off


def class_means(features: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Means h_k of each class, float64 [K, d], of features [N, d] with labels int [N].

    The mean of a class without examples is NaN.
    """
    sums = np.zeros((num_classes, features.shape[1]))
    np.add.at(sums, labels, features.astype(np.float64))
    counts = np.bincount(labels, minlength=num_classes)[:, None]
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def nearest_mean(features: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Class of the mean nearest to each of the features [N, d]: int [N]; means [K, d].

    Means that are NaN are passed by.
    """
    # |h - h_k|^2 but for |h|^2, which is the same for all classes
    squared = np.sum(means**2, axis=1) - 2 * features.astype(np.float64) @ means.T
    return np.argmin(np.where(np.isnan(squared), np.inf, squared), axis=1)


def nc1(features: np.ndarray, labels: np.ndarray, num_classes: int) -> float:
    """trace(S_W pinv(S_B)) / K: variability within the classes against that between them.

    NaN if a class has no examples.

    S_W = (1/N) sum_i (h_i - h_{y_i})(h_i - h_{y_i})' and S_B = (1/K) sum_k (h_k - h_G)(h_k - h_G)',
    where h_G is the mean of the h_k.
    """
    means = class_means(features, labels, num_classes)
    if np.isnan(means).any():
        return np.nan
    within = features.astype(np.float64) - means[labels]
    between = _centred(means)
    scatter_within = within.T @ within / len(features)
    scatter_between = between.T @ between / num_classes
    inverse = np.linalg.pinv(scatter_between, rcond=_RCOND, hermitian=True)
    return float(np.trace(scatter_within @ inverse) / num_classes)


def nc2(weight: np.ndarray) -> float:
    """How far the rows of W [K, d] are from an ETF: || WW'/||WW'|| - E/||E|| ||, E = I - 11'/K.

    The norms are Frobenius norms.
    """
    return _distance_to_etf(weight.astype(np.float64) @ weight.astype(np.float64).T)


def nc3(weight: np.ndarray, means: np.ndarray) -> float:
    """How far the classifier is from the class means: `nc2` with W M' for WW', M centred [K, d]."""
    return _distance_to_etf(weight.astype(np.float64) @ _centred(means).T)


def self_duality(weight: np.ndarray, means: np.ndarray) -> float:
    """|| W/||W|| - M/||M|| ||^2, M the centred class means [K, d] (Papyan et al. 2020)."""
    return float(np.sum((_unit(weight.astype(np.float64)) - _unit(_centred(means))) ** 2))


def metrics(
    features: np.ndarray, labels: np.ndarray, weight: np.ndarray, bias: np.ndarray
) -> dict[str, float]:
    """All metrics of one network.

    Args:
      features: H [N, d].
      labels: int [N], those trained on, with examples of every class.
      weight, bias: W [K, d] and b [K] of the last layer.

    Returns:
      nc1, nc2, nc3, self_duality as the functions of these names, and nc4, the share of examples on
      which the network and the nearest class mean disagree.
    """
    means = class_means(features, labels, len(weight))
    predicted = np.argmax(features @ weight.T + bias, axis=1)
    return {
        "nc1": nc1(features, labels, len(weight)),
        "nc2": nc2(weight),
        "nc3": nc3(weight, means),
        "self_duality": self_duality(weight, means),
        "nc4": float(np.mean(predicted != nearest_mean(features, means))),
    }


def _centred(means: np.ndarray) -> np.ndarray:
    return means - means.mean(axis=0)


def _unit(matrix: np.ndarray) -> np.ndarray:
    return matrix / np.linalg.norm(matrix)


def _distance_to_etf(gram: np.ndarray) -> float:
    return float(np.linalg.norm(_unit(gram) - _unit(simplex_etf(len(gram)))))
