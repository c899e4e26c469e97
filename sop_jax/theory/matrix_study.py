"""The matrices of the task `image_recovery`: descent from several starts beside robust PCA.

Formulas: low_rank.py (You, Zhu, Qu, Ma, NeurIPS 2020, section 2).
"""

import functools

import numpy as np
from ml_collections import ConfigDict

from sop_jax.study import Study, say
from sop_jax.theory import low_rank
from sop_jax.theory.image_figures import draw_errors, draw_limit


def alpha_of(matrix: ConfigDict) -> float:
    """The rate of g and h over that of U; unset: the square root of the size."""
    return matrix.size**0.5 if matrix.alpha is None else matrix.alpha


def recover_all(config: ConfigDict, folder: Study) -> dict:
    """Gradient descent from every gamma, robust PCA, and their figures; returns the summary."""
    matrix, alpha = config.matrix, alpha_of(config.matrix)
    problems = []
    for number in range(matrix.num_problems):
        size = matrix.size, matrix.rank, matrix.corruption, matrix.magnitude
        problems.append(low_rank.make_problem(*size, config.seed + number))
    truth = np.stack([problem.low_rank for problem in problems])
    convex = folder.part("robust_pca", functools.partial(_robust_pca, problems, alpha))["low_rank"]
    gammas = tuple(dict.fromkeys((matrix.gamma, *matrix.compared_gammas)))
    descents, facts = {}, []
    for gamma in gammas:
        compute = functools.partial(_descend, matrix, problems, gamma)
        descents[gamma] = folder.part(f"gamma_{gamma:g}", compute)
        own = low_rank.facts(descents[gamma], truth, convex, matrix.rank)
        facts.append({"gamma": gamma} | own)
        say(
            f"gamma {gamma:g}: relative error {max(own['relative_error']):.2e} at most, "
            f"{max(own['distance_to_robust_pca']):.2e} from robust PCA"
        )
    recorded = np.arange(1, matrix.iterations // matrix.record_every + 1) * matrix.record_every
    errors = {gamma: descent["errors"] for gamma, descent in descents.items()}
    folder.figure("matrix_error", draw_errors(recorded, errors))
    spectra = np.stack([low_rank.spectrum(descent["low_rank"]) for descent in descents.values()])
    distances = np.array([each["distance_to_robust_pca"] for each in facts])
    folder.figure("matrix_limit", draw_limit(gammas, distances, spectra, matrix.rank))
    return {
        "relative_error": facts[0]["relative_error"],
        "relative_error_max": max(facts[0]["relative_error"]),
        "alpha": alpha,
        "robust_pca_relative_error": low_rank.distance(convex, truth).tolist(),
        "by_gamma": facts,
    }


def _robust_pca(problems: list[low_rank.Problem], alpha: float) -> dict[str, np.ndarray]:
    found = [low_rank.robust_pca(problem.observed, 1 / alpha)[0] for problem in problems]
    return {"low_rank": np.stack(found)}


def _descend(
    matrix: ConfigDict, problems: list[low_rank.Problem], gamma: float
) -> dict[str, np.ndarray]:
    ended = low_rank.recover(
        problems, alpha_of(matrix), gamma, matrix.step, matrix.iterations, matrix.record_every
    )
    return ended._asdict()
