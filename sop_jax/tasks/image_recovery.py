"""Robust recovery by double over-parameterisation: of an image with gross errors, or of a low-rank
matrix.

`config.problem` says which. Formulas: sop_jax/theory/image_fit.py and low_rank.py (You, Zhu, Qu,
Ma, NeurIPS 2020).
"""

import functools
import pathlib

import numpy as np
from ml_collections import ConfigDict, config_dict

from sop_jax import config as configs
from sop_jax import study
from sop_jax.errors import UserError
from sop_jax.theory import image_figures, image_fit, low_rank, photograph

PROBLEMS = ("image", "matrix")
GROWN = 2.0  # times the first loss: where a loss ends above that, descent has diverged
# an entry counts as found to be wrong if |g*g - h*h| is above; the summary has each
SUPPORT = (0.05, 0.1, 0.2)


def default() -> ConfigDict:
    """Returns every field of the task; those of `matrix` count for problem='matrix', the others for
    'image'.
    """
    config = configs.base("image_recovery")
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
    configs.at_least(config, 0, "seed")
    configs.one_of(config, "problem", PROBLEMS)
    if config.problem == "image":
        _check_image(config)
    else:
        _check_matrix(config.matrix, config)


def _check_image(config: ConfigDict) -> None:
    configs.at_least(config, 1, "size", "width", "scales", "iterations", "iterations_per_part")
    for field in ("learning_rate", "alpha", "plain_learning_rate"):
        configs.require(
            0 < config[field] < float("inf"),
            field,
            config[field],
            "it must be a finite number above 0",
        )
    configs.require(
        0 <= config.corruption < 1,
        "corruption",
        config.corruption,
        "a rate lies in [0, 1) (.5 for 50 %)",
    )
    factor = 2**config.scales
    configs.require(
        config.size % factor == 0 and config.size >= 2 * factor,
        "size",
        config.size,
        f"a network of {config.scales} scales halves the image as often and reflects it at its borders, "
        f"so the size must be a multiple of {factor} and at least {2 * factor}; or lower config.scales",
    )
    rate = _settings(config).alpha * config.learning_rate
    limit = image_fit.largest_rate(config.size, config.size)
    configs.require(
        rate < limit,
        "alpha",
        config.alpha,
        f"at {config.size}x{config.size} pixels g and h would learn at {rate:.4g}, and descent diverges "
        f"above 3HW/4 = {limit:.4g}; lower config.alpha below {config.alpha * limit / rate:.4g}",
    )


def _check_matrix(matrix: ConfigDict, config: ConfigDict) -> None:
    configs.at_least(
        config,
        1,
        "matrix.size",
        "matrix.rank",
        "matrix.iterations",
        "matrix.record_every",
        "matrix.num_problems",
    )
    configs.at_least(config, 0, "matrix.magnitude")
    starts = {"gamma": (matrix.gamma,), "compared_gammas": matrix.compared_gammas}
    rates = {name: () if matrix[name] is None else (matrix[name],) for name in ("alpha", "step")}
    for name, values in (starts | rates).items():
        configs.require(
            all(0 < value < float("inf") for value in values),
            f"matrix.{name}",
            matrix[name],
            "it must be a finite number above 0",
        )
    configs.require(
        matrix.rank < matrix.size,
        "matrix.rank",
        matrix.rank,
        f"a matrix of low rank has one below its size, config.matrix.size={matrix.size}",
    )
    configs.require(
        0 <= matrix.corruption < 1,
        "matrix.corruption",
        matrix.corruption,
        "a rate lies in [0, 1) (.1 for 10 %)",
    )
    configs.require(
        matrix.iterations % matrix.record_every == 0,
        "matrix.record_every",
        matrix.record_every,
        f"it must divide config.matrix.iterations={matrix.iterations}",
    )


def run(config: ConfigDict, workdir: pathlib.Path | None, dry_run: bool = False) -> None:
    """Recovers every image, or every matrix, of the config; writes arrays, figures and
    summary.json.
    """
    images = _load_images(config) if config.problem == "image" else {}
    if dry_run:
        study.describe(config, _plan(config, images))
        return
    with study.opened(config, workdir) as folder:
        if folder is None:
            return
        if config.problem == "matrix":
            folder.finish(_recover_matrices(config, folder))
            return
        for label, image in images.items():
            _require_unchanged(folder, label, image)
        results = {
            label: _recover_image(config, folder, label, image) for label, image in images.items()
        }
        # at the top: the first image's figures
        folder.finish({**next(iter(results.values())), "images": results})


def _plan(config: ConfigDict, images: dict[str, np.ndarray]) -> list[str]:
    matrix = config.matrix
    if config.problem == "matrix":
        return [
            f"matrices: {matrix.num_problems} of {matrix.size}x{matrix.size}, alpha {_alpha(matrix):.4g}; "
            f"{matrix.iterations} iterations from each gamma of {(matrix.gamma, *matrix.compared_gammas)}"
        ]
    growth = image_fit.growth(
        _settings(config).alpha * config.learning_rate, config.size, config.size
    )
    return [
        f"images: {', '.join(images)}, reduced to {config.size}x{config.size}",
        f"fits of each: {', '.join(image_fit.FITS)}, {config.iterations} iterations",
        f"g and h: at residual 1 they grow {growth:.4f}-fold an iteration (1.0025 in the paper)",
    ]


def _settings(config: ConfigDict) -> image_fit.Settings:
    alpha = image_fit.rescaled_alpha(config.alpha, config.size, config.size)
    return image_fit.Settings(
        config.width, config.scales, config.learning_rate, alpha, config.plain_learning_rate
    )


def _load_images(config: ConfigDict) -> dict[str, np.ndarray]:
    """The images by label, which is the file's name without its ending."""
    images = {}
    for name in (part.strip() for part in config.image.split(",")):
        label = pathlib.Path(name).stem
        if label in images:
            raise UserError(
                f"config.image={config.image!r} has two images called {label!r}; rename one"
            )
        images[label] = photograph.load(name, config.size)
    return images


def _require_unchanged(folder: study.Study, label: str, image: np.ndarray) -> None:
    """Keeps the image that the run began with; UserError if a resumed run reads another one."""
    begun = folder.part(f"{label}_clean", lambda: {"image": image})["image"]
    if not np.array_equal(begun, image):
        raise UserError(
            f"the image {label!r} is not the one that {folder.workdir} began with; restore the file or "
            "name another --workdir"
        )


def _recover_image(config: ConfigDict, folder: study.Study, label: str, clean: np.ndarray) -> dict:
    """The three fits of one image and their figure; returns what the summary says of it."""
    corrupted = image_fit.corrupt(clean, config.corruption, config.seed)
    ends, curves = {}, {}
    for name in image_fit.FITS:
        ends[name], curves[name] = _fit(config, folder, label, name, clean, corrupted)
    recovered = {name: end["recovered"] for name, end in ends.items()}
    facts = _image_facts(clean, corrupted, curves, recovered, ends[image_fit.DOUBLE]["sparse"])
    title = f"{label}, {config.size}x{config.size} pixels, {config.corruption:.0%} of the entries corrupted"
    figure = image_figures.draw_recovery(
        title, clean, corrupted, recovered, curves, facts["psnr_input"]
    )
    folder.figure(f"{label}_recovery", figure)
    study.say(
        f"{label}: {facts['psnr_input']:.2f} dB before, {facts['psnr_final']:.2f} after (best "
        f"{facts['psnr_best']:.2f}); plain prior, l1: {facts['psnr_plain_final']:.2f} (best "
        f"{facts['psnr_plain_best']:.2f})"
    )
    return facts


def _fit(
    config: ConfigDict,
    folder: study.Study,
    label: str,
    name: str,
    clean: np.ndarray,
    corrupted: np.ndarray,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Goes through one fit part by part: (arrays of its last part, PSNR of every iteration
    [iterations]).
    """
    fit = image_fit.make(name, _settings(config), clean, corrupted, config.seed)
    state, first_loss, errors = fit.start, np.inf, []
    for done in range(0, config.iterations, config.iterations_per_part):
        count = min(config.iterations_per_part, config.iterations - done)
        compute = functools.partial(_advance, fit, state, count, first_loss)
        arrays = folder.part(f"{label}_{name}_{done + count}", compute)
        state, first_loss = (
            image_fit.from_arrays(arrays, fit.start),
            min(first_loss, arrays["loss"][0]),
        )
        errors.append(arrays["error"])
    return arrays, image_fit.psnr(np.concatenate(errors))


def _advance(
    fit: image_fit.Fit, state: image_fit.State, count: int, first_loss: float
) -> dict[str, np.ndarray]:
    """One part of a fit: its curves, the images as they stand after it, and the state to go on
    from.

    Raises:
      UserError: the loss grew instead of falling.
    """
    state, progress = fit.advance(state, count)
    if not progress.loss[-1] <= GROWN * min(first_loss, progress.loss[0]):  # NaN too
        raise UserError(
            f"descent diverged: the loss ended at {progress.loss[-1]:.3g} after {int(state.iteration)} "
            f"iterations; {fit.limit}"
        )
    return progress._asdict() | fit.images(state) | image_fit.to_arrays(state)


def _image_facts(
    clean: np.ndarray, corrupted: np.ndarray, curves: dict, recovered: dict, sparse: np.ndarray
) -> dict:
    """PSNR in dB: of the corrupted image, and of each fit at its last and at its best iteration.

    `psnr_plain_final` and `psnr_plain_best` are of the stronger plain prior, l1. `psnr_recovered`
    is of the image on
    the input without noise, as the figure shows it. Support: the entries that differ from the clean
    image, of those that the model calls wrong (precision), and the other way about (recall).
    """
    facts = {"psnr_input": float(image_fit.psnr(np.mean((corrupted - clean) ** 2)))}
    keys = {
        image_fit.DOUBLE: "psnr",
        image_fit.PLAIN_L1: "psnr_plain_l1",
        image_fit.PLAIN_MSE: "psnr_plain_mse",
    }
    for name, key in keys.items():
        facts |= {
            f"{key}_final": float(curves[name][-1]),
            f"{key}_best": float(curves[name].max()),
            f"{key}_best_iteration": int(curves[name].argmax()) + 1,
            f"{key}_recovered": float(image_fit.psnr(np.mean((recovered[name] - clean) ** 2))),
        }
    facts |= {f"psnr_plain_{when}": facts[f"psnr_plain_l1_{when}"] for when in ("final", "best")}
    wrong = corrupted != clean
    facts["support"] = [
        {
            "threshold": threshold,
            "precision": float(np.mean(wrong[found])),
            "recall": float(np.mean(found[wrong])),
        }
        for threshold in SUPPORT
        if (found := np.abs(sparse) > threshold).any() and wrong.any()
    ]
    return facts


def _alpha(matrix: ConfigDict) -> float:
    return matrix.size**0.5 if matrix.alpha is None else matrix.alpha


def _recover_matrices(config: ConfigDict, folder: study.Study) -> dict:
    """Gradient descent from every gamma, robust PCA, and their figures; returns the summary."""
    matrix, alpha = config.matrix, _alpha(config.matrix)
    problems = [
        low_rank.make_problem(
            matrix.size, matrix.rank, matrix.corruption, matrix.magnitude, config.seed + number
        )
        for number in range(matrix.num_problems)
    ]
    convex = folder.part(
        "robust_pca",
        lambda: {
            "low_rank": np.stack(
                [low_rank.robust_pca(problem.observed, 1 / alpha)[0] for problem in problems]
            )
        },
    )
    gammas = tuple(dict.fromkeys((matrix.gamma, *matrix.compared_gammas)))
    descents = {
        gamma: folder.part(
            f"gamma_{gamma:g}",
            lambda gamma=gamma: low_rank.recover(
                problems, alpha, gamma, matrix.step, matrix.iterations, matrix.record_every
            )._asdict(),
        )
        for gamma in gammas
    }
    truth = np.stack([problem.low_rank for problem in problems])
    facts = [
        {"gamma": gamma} | low_rank.facts(descent, truth, convex["low_rank"], matrix.rank)
        for gamma, descent in descents.items()
    ]
    recorded = np.arange(1, matrix.iterations // matrix.record_every + 1) * matrix.record_every
    errors = {gamma: descent["errors"] for gamma, descent in descents.items()}
    folder.figure("matrix_error", image_figures.draw_errors(recorded, errors))
    spectra = np.stack([low_rank.spectrum(descent["low_rank"]) for descent in descents.values()])
    distances = np.array([each["distance_to_robust_pca"] for each in facts])
    folder.figure("matrix_limit", image_figures.draw_limit(gammas, distances, spectra, matrix.rank))
    for each in facts:
        study.say(
            f"gamma {each['gamma']:g}: relative error {max(each['relative_error']):.2e} at most, "
            f"{max(each['distance_to_robust_pca']):.2e} from robust PCA"
        )
    first = facts[0]
    convex_error = low_rank.distance(convex["low_rank"], truth)
    return {
        "relative_error": first["relative_error"],
        "relative_error_max": max(first["relative_error"]),
        "alpha": alpha,
        "robust_pca_relative_error": convex_error.tolist(),
        "by_gamma": facts,
    }
