"""The linear model of the SOP paper's section 3: figures 2, 3 and 4, and Proposition 3.2.

The summary has for figure 2 the medians on the curve, for figure 3 the mean errors, for figure 4
the counts.
"""

import functools
import pathlib

import numpy as np
from ml_collections import ConfigDict, config_dict

from sop_jax.config import at_least, base, check_fields, one_of, require
from sop_jax.study import Study, describe, opened
from sop_jax.theory import linear_experiments, linear_figures
from sop_jax.theory.convex_program import import_cvxpy
from sop_jax.theory.sparse_linear import penalty_of

FIGURES = ("figure2", "figure3", "figure4")


def default() -> ConfigDict:
    """Returns the task's fields; those of one figure alone say so."""
    config = base("linear_recovery")
    config.figure = "figure2"  # figure2, figure3 or figure4
    config.num_rows = 20  # N, observations
    config.num_parameters = 40  # p
    config.rank = 3  # r of J; in figure 3 of the panel in which the sparsity varies
    # k, entries of s* that are not 0; in figure 3 of the panel in which the rank varies
    config.sparsity = 3
    config.ranks = (5, 10, 20, 30, 40, 50, 60, 70, 80)  # figures 3 and 4
    config.sparsities = (5, 10, 20, 30, 40, 50, 60, 70)  # figures 3 and 4
    config.trials = 100  # random instances; in figures 3 and 4 of each pair of rank and sparsity
    # figure 2: logs of the start values of u and v; the first has the heat maps, the others the
    # alphas that belong to the same lambdas
    config.log_gammas = (-8.0, -16.0)
    config.alpha_min = 4.0  # figure 2: smallest ratio of learning rates of the first gamma
    config.alpha_max = 4000.0  # figure 2: largest
    config.num_alphas = 13  # figure 2: how many, evenly on a log scale
    config.lambda_min = 1e-4  # figures 2 and 3: smallest weight of ||s||_1
    config.lambda_max = 1.0  # figures 2 and 3: largest
    config.num_lambdas = 33  # figures 2 and 3: how many, evenly on a log scale
    config.penalty = 0.1  # figure 4: the one lambda
    # figures 3 and 4: relative error below which an instance counts as recovered
    config.success = 1e-3
    # figure 2: constant tau; unset: chosen from the residual
    config.step_size = config_dict.placeholder(float)
    config.max_iterations = 4_000_000  # figure 2: cap on the steps of one descent
    # figure 2: random problems (N=5, p=8, r=2, k=2) whose critical points are sought
    config.landscape_problems = 20
    config.landscape_starts = 50  # figure 2: random starts on each of them
    # figure 2: instances on which the solver is compared with CVXPY (extra `theory`)
    config.cvxpy_instances = 0
    return config


def check(config: ConfigDict) -> None:
    """Raises UserError naming the first field that cannot be right."""
    check_fields(config, default())
    one_of(config, "figure", FIGURES)
    at_least(config, 0, "seed", "landscape_problems", "cvxpy_instances")
    at_least(config, 1, "num_rows", "num_parameters", "rank", "sparsity", "trials")
    at_least(config, 1, "max_iterations", "landscape_starts")
    at_least(config, 2, "num_alphas", "num_lambdas")
    at_least(config, 1e-12, "alpha_min", "lambda_min", "penalty", "success", "step_size")
    at_least(config, config.alpha_min, "alpha_max")
    at_least(config, config.lambda_min, "lambda_max")
    gammas = config.log_gammas
    small = all(isinstance(value, float | int) and -300 < value < 0 for value in gammas)
    wanted = "it lists different logarithms of start values below 1, such as (-8.0,)"
    require(len(set(gammas)) == len(gammas) > 0 and small, "log_gammas", gammas, wanted)
    rows, parameters = config.num_rows, config.num_parameters
    most = min(rows, parameters)
    shape = f"J is config.num_rows={rows} x config.num_parameters={parameters}"
    _check_sizes(config, "rank", "ranks", most, f"{shape}, so its rank is at most {most}")
    reason = f"s* has config.num_rows={rows} entries, so no more can be not 0"
    _check_sizes(config, "sparsity", "sparsities", rows, reason)
    if config.cvxpy_instances:
        import_cvxpy()


def _check_sizes(config: ConfigDict, one: str, several: str, most: int, reason: str) -> None:
    """A rank or sparsity, and the list of them, as far as the figure reads it."""
    if config.figure != "figure4":
        require(config[one] <= most, one, config[one], reason)
    if config.figure != "figure2":
        values = config[several]
        whole = len(values) > 0 and all(type(value) is int and value >= 1 for value in values)
        require(whole, several, values, "it lists whole numbers of at least 1, such as (5,10)")
        require(max(values) <= most, several, values, reason)


def run(config: ConfigDict, workdir: pathlib.Path | None, dry_run: bool = False) -> None:
    """Computes the figure's parts, draws it and writes summary.json."""
    if dry_run:
        describe(config, [_plan(config)])
        return
    make = {"figure2": _figure2, "figure3": _figure3, "figure4": _figure4}[config.figure]
    with opened(config, workdir) as folder:
        if folder is not None:
            make(config, folder)


def _plan(config: ConfigDict) -> str:
    """What `--dry_run` says would be computed."""
    trials, lambdas = config.trials, config.num_lambdas
    ranks, sparsities = len(config.ranks), len(config.sparsities)
    if config.figure == "figure2":
        return (
            f"descents: {trials} instances x {config.num_alphas} alphas x "
            f"{len(config.log_gammas)} gammas, programs: {trials} x {lambdas} lambdas"
        )
    if config.figure == "figure3":
        return (
            f"programs: {sparsities + ranks} pairs of rank and sparsity x {trials} instances x "
            f"{lambdas} lambdas"
        )
    return f"programs: {ranks} ranks x {sparsities} sparsities x {trials} instances"


# Figure 2


def _figure2(config: ConfigDict, folder: Study) -> None:
    alphas = np.geomspace(config.alpha_min, config.alpha_max, config.num_alphas)
    lambdas = np.geomspace(config.lambda_min, config.lambda_max, config.num_lambdas)
    first_log_gamma = float(config.log_gammas[0])
    on_curve = penalty_of(alphas, first_log_gamma)
    curves = {}
    for number, log_gamma in enumerate(map(float, config.log_gammas)):
        compute = functools.partial(linear_experiments.on_curve, config, on_curve, log_gamma)
        curves[log_gamma] = folder.part(f"curve{number}", compute)
    first = curves[first_log_gamma]
    compute = functools.partial(linear_experiments.over_lambda, config, lambdas, first)
    grid = folder.part("grid", compute)
    points = reference = None
    if config.landscape_problems:
        compute = functools.partial(linear_experiments.critical_points, config)
        points = folder.part("landscape", compute)
    if config.cvxpy_instances:
        compute = functools.partial(linear_experiments.against_cvxpy, config)
        reference = folder.part("cvxpy", compute)

    maps = {"theta": grid["theta"][0], "s": grid["s"][0]}
    names = {log_gamma: f"exp({log_gamma:g})" for log_gamma in curves}
    figure = linear_figures.draw_heat_maps(alphas, lambdas, maps, on_curve, names[first_log_gamma])
    folder.figure("figure2", figure)
    by_gamma = {names[g]: {"theta": curve["theta"], "s": curve["s"]} for g, curve in curves.items()}
    folder.figure("figure2_curve", linear_figures.draw_curve(on_curve, by_gamma))
    medians = {g: _medians(on_curve, g, curve) for g, curve in curves.items()}
    minima = {key: _minimum(first[key], grid[key], on_curve, lambdas) for key in maps}
    residuals = [each["kkt"].max() for each in (grid, *curves.values())]
    folder.finish(
        {
            "figure2": medians.pop(first_log_gamma),
            "log_gamma": first_log_gamma,
            "other_gammas": [{"log_gamma": g, "curve": rows} for g, rows in medians.items()],
            "instances": config.trials,
            "descent": [_descent_facts(g, curve) for g, curve in curves.items()],
            "largest_difference": {key: float(value.max()) for key, value in maps.items()},
            "minimum_over_lambda": minima,
            "kkt_residual": float(max(residuals)),
            "landscape": None if points is None else _landscape_facts(config, points),
            "cvxpy": None if reference is None else _cvxpy_facts(config, reference),
        }
    )


def _medians(penalties: np.ndarray, log_gamma: float, curve: dict[str, np.ndarray]) -> list[dict]:
    """The medians over instances at every lambda of the curve."""
    theta, s = (np.median(curve[key], axis=0) for key in ("theta", "s"))
    rows = []
    for number, penalty in enumerate(penalties):
        rows.append(
            {
                "alpha": float(penalty_of(penalty, log_gamma)),
                "lambda": float(penalty),
                "theta_difference": float(theta[number]),
                "s_difference": float(s[number]),
            }
        )
    return rows


def _cvxpy_facts(config: ConfigDict, reference: dict[str, np.ndarray]) -> dict:
    largest = {key: float(value.max()) for key, value in reference.items()}
    return largest | {"instances": config.cvxpy_instances}


def _descent_facts(log_gamma: float, curve: dict[str, np.ndarray]) -> dict:
    return {
        "log_gamma": log_gamma,
        "descents": curve["converged"].size,
        "stopped_by_cap": int(np.sum(~curve["converged"])),
        "iterations_median": float(np.median(curve["iterations"])),
        "iterations_largest": int(curve["iterations"].max()),
        "largest_difference_from_limit": {
            key: float(curve[f"limit_{key}"].max()) for key in ("theta", "s")
        },
        "limit_residual": float(curve["limit_residual"].max()),
    }


def _minimum(
    differences: np.ndarray, grid: np.ndarray, penalties: np.ndarray, lambdas: np.ndarray
) -> dict:
    """Whether the least difference over lambda lies on the curve.

    `above_*`: how far the difference on the curve [T, A] lies above the least of the grid [T, A,
    M], at most over alpha (and for `any_instance` over instances). The counts of (instance, alpha):
    on the curve up to a tie of .01; else by how many steps of the grid the least lies beside it.
    """
    above = differences - grid.min(axis=-1)
    nearest = np.abs(np.log(lambdas / penalties[:, None])).argmin(axis=-1)
    steps = np.where(above <= 0.01, 0, np.abs(grid.argmin(axis=-1) - nearest))
    of_medians = np.median(differences, axis=0) - np.median(grid, axis=0).min(axis=-1)
    return {
        "above_in_shown_instance": float(above[0].max()),
        "above_in_medians": float(of_medians.max()),
        "above_in_any_instance": float(above.max()),
        "on_the_curve": int(np.sum(steps == 0)),
        "one_step_beside": int(np.sum(steps == 1)),
        "further": int(np.sum(steps > 1)),
    }


def _landscape_facts(config: ConfigDict, points: dict[str, np.ndarray]) -> dict:
    neither = ~(points["is_global"] | points["is_strict_saddle"])
    return {
        "starts": config.landscape_problems * config.landscape_starts,
        "critical_points": len(neither),
        "global_minima": int(points["is_global"].sum()),
        "strict_saddles": int(points["is_strict_saddle"].sum()),
        "neither": int(neither.sum()),
    }


# Figure 3


def _figure3(config: ConfigDict, folder: Study) -> None:
    lambdas = np.geomspace(config.lambda_min, config.lambda_max, config.num_lambdas)
    panels = {
        "vary_sparsity": [(config.rank, sparsity) for sparsity in config.sparsities],
        "vary_rank": [(rank, config.sparsity) for rank in config.ranks],
    }
    errors = {}
    for rank, sparsity in dict.fromkeys(panels["vary_sparsity"] + panels["vary_rank"]):
        compute = functools.partial(
            linear_experiments.recovery_errors, config, rank, sparsity, lambdas
        )
        errors[rank, sparsity] = folder.part(f"r{rank}_k{sparsity}", compute)
    titles = {"vary_sparsity": f"r = {config.rank}", "vary_rank": f"k = {config.sparsity}"}
    labels = {"vary_sparsity": "k = {1}", "vary_rank": "r = {0}"}
    drawn, facts = [], {}
    for name, pairs in panels.items():
        own = [errors[pair] for pair in pairs]
        means = {key: [each[key].mean(axis=0) for each in own] for key in ("theta", "s")}
        drawn.append(
            {
                "title": titles[name],
                "labels": [labels[name].format(*pair) for pair in pairs],
                "thresholds": [each["threshold"].mean() for each in own],
                "errors": means,
            }
        )
        facts[name] = [_error_facts(config, lambdas, pair, errors[pair]) for pair in pairs]
    folder.figure("figure3", linear_figures.draw_errors(lambdas, drawn))
    folder.finish(
        {
            "trials": config.trials,
            "lambdas": lambdas.tolist(),
            **facts,
            "kkt_residual": float(max(each["kkt"].max() for each in errors.values())),
        }
    )


def _error_facts(
    config: ConfigDict, lambdas: np.ndarray, pair: tuple[int, int], errors: dict[str, np.ndarray]
) -> dict:
    """Means over trials.

    `recovered_from` is the least lambda from which theta's mean error stays below `success`;
    `guaranteed` counts the trials that meet the condition of Proposition 3.5, which is sufficient
    but far from needed.
    """
    theta, noise = (errors[key].mean(axis=0) for key in ("theta", "s"))
    above = np.flatnonzero(theta >= config.success)
    first = 0 if len(above) == 0 else above[-1] + 1
    return {
        "rank": pair[0],
        "sparsity": pair[1],
        "threshold": float(errors["threshold"].mean()),
        "coherence": float(errors["coherence"].mean()),
        "guaranteed": int(errors["guaranteed"].sum()),
        "recovered_from": float(lambdas[first]) if first < len(lambdas) else None,
        "theta_error": theta.tolist(),
        "s_error": noise.tolist(),
    }


# Figure 4


def _figure4(config: ConfigDict, folder: Study) -> None:
    by_rank = []
    for rank in config.ranks:
        by_rank.append(folder.part(f"rank{rank}", functools.partial(_successes, config, rank)))
    counts = {key: np.stack([each[key] for each in by_rank]) for key in ("theta", "s")}
    figure = linear_figures.draw_phase_transition(
        config.ranks, config.sparsities, counts, config.trials
    )
    folder.figure("figure4", figure)
    table = {
        "ranks": list(config.ranks),
        "sparsities": list(config.sparsities),
        "theta_success": counts["theta"].tolist(),
        "s_success": counts["s"].tolist(),
    }
    folder.finish(
        {
            "figure4": table,
            "trials": config.trials,
            "penalty": config.penalty,
            "kkt_residual": float(max(each["kkt"].max() for each in by_rank)),
        }
    )


def _successes(config: ConfigDict, rank: int) -> dict[str, np.ndarray]:
    """Of each sparsity, how many trials recover 'theta' and 's', and the largest 'kkt' residual."""
    found = {"theta": [], "s": [], "kkt": []}
    for sparsity in config.sparsities:
        errors = linear_experiments.recovery_errors(
            config, rank, sparsity, np.array([config.penalty])
        )
        for key in ("theta", "s"):
            found[key].append(np.sum(errors[key] < config.success))
        found["kkt"].append(errors["kkt"].max())
    return {key: np.array(values) for key, values in found.items()}
