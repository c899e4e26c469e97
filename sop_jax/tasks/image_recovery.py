"""Robust recovery by double over-parameterisation: of an image with gross errors, or of a matrix.

`config.problem` says which (You, Zhu, Qu, Ma, NeurIPS 2020). The work is done in
theory/image_study.py and theory/matrix_study.py.
"""

import pathlib

import numpy as np
from ml_collections import ConfigDict, config_dict

from sop_jax.config import at_least, base, one_of, require
from sop_jax.study import describe, opened
from sop_jax.theory import image_fit, image_study, matrix_study

PROBLEMS = ("image", "matrix")
MOST_SCALES = 20


def default() -> ConfigDict:
    """Returns every field of the task.

    Those of `matrix` count for problem='matrix', the others for 'image'.
    """
    config = base("image_recovery")
    config.problem = "image"  # image or matrix
    # image file, or china or flower of scikit-learn; several, separated by commas
    config.image = "china"
    config.size = 64  # pixels a side that the image is cut and reduced to; a multiple of 2**scales
    config.corruption = 0.5  # share of the entries (pixel and channel) that become 0 or 1
    config.width = 32  # channels of the network (paper: 128)
    config.scales = 4  # times that the network halves the image (paper: 5)
    config.learning_rate = 1.0  # tau, of the network under double over-parameterisation (plain SGD)
    # rate of g and h over tau, stated for 512x512 pixels and rescaled to `size` (paper: 500)
    config.alpha = 12000.0
    config.plain_learning_rate = 0.01  # of the plain priors (Adam)
    config.iterations = 8000  # of each of the three fits
    config.iterations_per_part = 2000  # a killed run goes on after the last whole part

    config.matrix = ConfigDict()
    config.matrix.size = 50  # n
    config.matrix.rank = 3  # r of the low-rank part; the descent is not told
    config.matrix.corruption = 0.1  # share of the entries that get an error
    config.matrix.magnitude = 10.0  # of each error, either sign
    # rate of g and h over that of U; unset: sqrt(size)
    config.matrix.alpha = config_dict.placeholder(float)
    # tau; unset: .05 / max(||Y||, alpha ||Y||_inf)
    config.matrix.step = config_dict.placeholder(float)
    config.matrix.gamma = 1e-6  # start of U (times the identity), g and h
    config.matrix.compared_gammas = (1e-3, 1e-9)  # further starts, to show the limit
    config.matrix.iterations = 60000
    config.matrix.record_every = 100  # iterations; it divides them
    config.matrix.num_problems = 10  # drawn from seeds seed, seed+1, ...
    return config


def check(config: ConfigDict) -> None:
    """Raises UserError where fields are out of range or do not go together."""
    at_least(config, 0, "seed")
    one_of(config, "problem", PROBLEMS)
    if config.problem == "image":
        _check_image(config)
    else:
        _check_matrix(config)


def _check_image(config: ConfigDict) -> None:
    at_least(config, 1, "size", "width", "scales", "iterations", "iterations_per_part")
    for field in ("learning_rate", "alpha", "plain_learning_rate"):
        _require_positive(field, config[field], (config[field],))
    _require_rate("corruption", config.corruption)
    wanted = f"a network halves an image at most {MOST_SCALES} times"
    require(config.scales <= MOST_SCALES, "scales", config.scales, wanted)
    factor = 2**config.scales
    require(
        config.size % factor == 0 and config.size >= 2 * factor,
        "size",
        config.size,
        f"a network of {config.scales} scales halves the image as often and reflects it at its "
        f"borders, so the size must be a multiple of {factor} and at least {2 * factor}; or lower "
        "config.scales",
    )
    rate = image_study.settings(config).alpha * config.learning_rate
    limit = image_fit.largest_rate(config.size, config.size)
    require(
        rate < limit,
        "alpha",
        config.alpha,
        f"at {config.size}x{config.size} pixels g and h would learn at {rate:.4g}, and descent "
        f"diverges above 3HW/4 = {limit:.4g}; lower config.alpha below "
        f"{config.alpha * limit / rate:.4g}",
    )


def _check_matrix(config: ConfigDict) -> None:
    matrix = config.matrix
    counts = ("size", "rank", "iterations", "record_every", "num_problems")
    at_least(config, 1, *(f"matrix.{name}" for name in counts))
    at_least(config, 0, "matrix.magnitude")
    _require_positive("matrix.gamma", matrix.gamma, (matrix.gamma,))
    _require_positive("matrix.compared_gammas", matrix.compared_gammas, matrix.compared_gammas)
    for name in ("alpha", "step"):
        if matrix[name] is not None:
            _require_positive(f"matrix.{name}", matrix[name], (matrix[name],))
    wanted = f"a matrix of low rank has one below its size, config.matrix.size={matrix.size}"
    require(matrix.rank < matrix.size, "matrix.rank", matrix.rank, wanted)
    _require_rate("matrix.corruption", matrix.corruption)
    whole = matrix.iterations % matrix.record_every == 0
    wanted = f"it must divide config.matrix.iterations={matrix.iterations}"
    require(whole, "matrix.record_every", matrix.record_every, wanted)


def _require_positive(field: str, given: object, values: tuple[float, ...]) -> None:
    positive = all(0 < value < float("inf") for value in values)
    require(positive, field, given, "it must be a finite number above 0")


def _require_rate(field: str, value: float) -> None:
    require(0 <= value < 1, field, value, "a rate lies in [0, 1) (.5 for 50 %)")


def run(config: ConfigDict, workdir: pathlib.Path | None, dry_run: bool = False) -> None:
    """Recovers every image, or every matrix; writes arrays, figures and summary.json."""
    images = image_study.load(config) if config.problem == "image" else {}
    if dry_run:
        describe(config, _plan(config, images))
        return
    with opened(config, workdir) as folder:
        if folder is None:
            return
        if config.problem == "image":
            folder.finish(image_study.recover_all(config, folder, images))
        else:
            folder.finish(matrix_study.recover_all(config, folder))


def _plan(config: ConfigDict, images: dict[str, np.ndarray]) -> list[str]:
    """What `--dry_run` says would be computed."""
    if config.problem == "matrix":
        matrix = config.matrix
        gammas = (matrix.gamma, *matrix.compared_gammas)
        return [
            f"matrices: {matrix.num_problems} of {matrix.size}x{matrix.size}, alpha "
            f"{matrix_study.alpha_of(matrix):.4g}; {matrix.iterations} iterations from each gamma "
            f"of {gammas}"
        ]
    rate = image_study.settings(config).alpha * config.learning_rate
    growth = image_fit.growth(rate, config.size, config.size)
    return [
        f"images: {', '.join(images)}, reduced to {config.size}x{config.size}",
        f"fits of each: {', '.join(image_fit.FITS)}, {config.iterations} iterations",
        f"g and h: at residual 1 they grow {growth:.4f}-fold an iteration (1.0025 in the paper)",
    ]
