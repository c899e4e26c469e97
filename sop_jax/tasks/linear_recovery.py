"""The linear model of the SOP paper's section 3: figures 2, 3 and 4, and Proposition 3.2.

summary.json has for figure2 the medians on the curve (`figure2`), for figure3 the mean errors, for
figure4 the counts.
"""

import pathlib

import numpy as np
from ml_collections import ConfigDict, config_dict

from sop_jax import config as configs
from sop_jax import study
from sop_jax.theory import convex_program, linear_figures, sparse_linear
from sop_jax.theory import linear_experiments as experiments

FIGURES = ("figure2", "figure3", "figure4")


def default() -> ConfigDict:
    """Returns the task's fields; those of one figure alone say so."""
    config = configs.base("linear_recovery")
    config.figure = "figure2"  # figure2, figure3 or figure4
    config.num_rows = 20  # N, observations
    config.num_parameters = 40  # p
    config.rank = 3  # r of J; in figure 3 of the panel in which the sparsity varies
    # k, entries of s* that are not 0; in figure 3 of the panel in which the rank varies
    config.sparsity = 3
    config.ranks = (5, 10, 20, 30, 40, 50, 60, 70, 80)  # figures 3 and 4
    config.sparsities = (5, 10, 20, 30, 40, 50, 60, 70)  # figures 3 and 4
    config.trials = 100  # random instances; in figures 3 and 4 of each pair of rank and sparsity
    # figure 2: logs of the start values of u and v; the first has the heat maps, the
    config.log_gammas = (-8.0, -16.0)
    # others the alphas that belong to the same lambdas
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
    configs.check_fields(config, default())
    configs.one_of(config, "figure", FIGURES)
    configs.at_least(config, 0, "seed", "landscape_problems", "cvxpy_instances")
    configs.at_least(
        config,
        1,
        "num_rows",
        "num_parameters",
        "rank",
        "sparsity",
        "trials",
        "max_iterations",
        "landscape_starts",
    )
    configs.at_least(config, 2, "num_alphas", "num_lambdas")
    configs.at_least(config, 1e-12, "alpha_min", "lambda_min", "penalty", "success", "step_size")
    configs.at_least(config, config.alpha_min, "alpha_max")
    configs.at_least(config, config.lambda_min, "lambda_max")
    gammas = config.log_gammas
    configs.require(
        len(gammas) > 0
        and all(isinstance(log_gamma, float | int) and -300 < log_gamma < 0 for log_gamma in gammas)
        and len(set(gammas)) == len(gammas),
        "log_gammas",
        gammas,
        "it lists different logarithms of start values below 1, such as (-8.0,)",
    )
    most = min(config.num_rows, config.num_parameters)
    shape = (
        f"J is config.num_rows={config.num_rows} x config.num_parameters={config.num_parameters}"
    )
    for field, limit, reason in (
        ("rank", most, f"{shape}, so its rank is at most {most}"),
        (
            "sparsity",
            config.num_rows,
            f"s* has config.num_rows={config.num_rows} entries, so no more can be not 0",
        ),
    ):
        single, several = field, {"rank": "ranks", "sparsity": "sparsities"}[field]
        if config.figure != "figure4":
            configs.require(config[single] <= limit, single, config[single], reason)
        if config.figure != "figure2":
            values = config[several]
            whole = len(values) > 0 and all(type(value) is int and value >= 1 for value in values)
            configs.require(
                whole, several, values, "it lists whole numbers of at least 1, such as (5,10)"
            )
            configs.require(max(values) <= limit, several, values, reason)
    if config.cvxpy_instances:
        convex_program.import_cvxpy()


def run(config: ConfigDict, workdir: pathlib.Path | None, dry_run: bool = False) -> None:
    """Computes the figure's parts, draws it and writes summary.json."""
    lines, make = {
        "figure2": ([f"descents: {config.trials} instances x {config.num_alphas} alphas x {len(config.log_gammas)} "
                     f"gammas, programs: {config.trials} x {config.num_lambdas} lambdas"], _figure2),
        "figure3": ([f"programs: {len(config.sparsities) + len(config.ranks)} pairs of rank and sparsity x "
                     f"{config.trials} instances x {config.num_lambdas} lambdas"], _figure3),
        "figure4": ([f"programs: {len(config.ranks)} ranks x {len(config.sparsities)} sparsities x "
                     f"{config.trials} instances"], _figure4),
    }[config.figure]  # fmt: skip
    if dry_run:
        study.describe(config, lines)
        return
    with study.opened(config, workdir) as folder:
        if folder is not None:
            make(config, folder)


# Figure 2


def _figure2(config: ConfigDict, folder: study.Study) -> None:
    alphas = np.geomspace(config.alpha_min, config.alpha_max, config.num_alphas)
    lambdas = np.geomspace(config.lambda_min, config.lambda_max, config.num_lambdas)
    first_log_gamma = float(config.log_gammas[0])
    on_curve = sparse_linear.penalty_of(alphas, first_log_gamma)
    curves = {log_gamma: folder.part(f"curve{number}", lambda g=log_gamma: experiments.on_curve(config, on_curve, g))
              for number, log_gamma in enumerate(map(float, config.log_gammas))}  # fmt: skip
    first = curves[first_log_gamma]
    grid = folder.part("grid", lambda: experiments.over_lambda(config, lambdas, first))
    points = reference = None
    if config.landscape_problems:
        points = folder.part("landscape", lambda: experiments.critical_points(config))
    if config.cvxpy_instances:
        reference = folder.part("cvxpy", lambda: experiments.against_cvxpy(config))

    maps = {"theta": grid["theta"][0], "s": grid["s"][0]}
    names = {log_gamma: f"exp({log_gamma:g})" for log_gamma in curves}
    folder.figure(
        "figure2",
        linear_figures.draw_heat_maps(alphas, lambdas, maps, on_curve, names[first_log_gamma]),
    )
    by_gamma = {names[g]: {"theta": curve["theta"], "s": curve["s"]} for g, curve in curves.items()}
    folder.figure("figure2_curve", linear_figures.draw_curve(on_curve, by_gamma))
    folder.finish({
        "figure2": _medians(on_curve, first_log_gamma, first),
        "log_gamma": first_log_gamma,
        "other_gammas": [{"log_gamma": g, "curve": _medians(on_curve, g, curve)} for g, curve in curves.items()
                         if g != first_log_gamma],
        "instances": config.trials,
        "descent": [_descent_facts(g, curve) for g, curve in curves.items()],
        "largest_difference": {key: float(value.max()) for key, value in maps.items()},
        "minimum_over_lambda": {key: _minimum(first[key], grid[key], on_curve, lambdas) for key in maps},
        "kkt_residual": float(max(grid["kkt"].max(), *(curve["kkt"].max() for curve in curves.values()))),
        "landscape": None if points is None else _landscape_facts(config, points),
        "cvxpy": None if reference is None else {key: float(value.max()) for key, value in reference.items()}
        | {"instances": config.cvxpy_instances},
    })  # fmt: skip


def _medians(penalties: np.ndarray, log_gamma: float, curve: dict[str, np.ndarray]) -> list[dict]:
    return [
        {
            "alpha": float(sparse_linear.penalty_of(penalty, log_gamma)),
            "lambda": float(penalty),
            "theta_difference": float(np.median(theta)),
            "s_difference": float(np.median(s)),
        }
        # fmt: skip
        for penalty, theta, s in zip(penalties, curve["theta"].T, curve["s"].T, strict=True)
    ]


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


def _figure3(config: ConfigDict, folder: study.Study) -> None:
    lambdas = np.geomspace(config.lambda_min, config.lambda_max, config.num_lambdas)
    panels = {
        "vary_sparsity": [(config.rank, sparsity) for sparsity in config.sparsities],
        "vary_rank": [(rank, config.sparsity) for rank in config.ranks],
    }
    errors = {}
    for rank, sparsity in dict.fromkeys(panels["vary_sparsity"] + panels["vary_rank"]):
        arrays = folder.part(
            f"r{rank}_k{sparsity}",
            # fmt: skip
            lambda r=rank, k=sparsity: experiments.recovery_errors(config, r, k, lambdas),
        )
        errors[rank, sparsity] = arrays
    titles = {"vary_sparsity": f"r = {config.rank}", "vary_rank": f"k = {config.sparsity}"}
    labels = {"vary_sparsity": "k = {1}", "vary_rank": "r = {0}"}
    drawn = [
        {
            "title": titles[name],
            "labels": [labels[name].format(*pair) for pair in pairs],
            "thresholds": [errors[pair]["threshold"].mean() for pair in pairs],
            "errors": {
                key: [errors[pair][key].mean(axis=0) for pair in pairs] for key in ("theta", "s")
            },
        }
        for name, pairs in panels.items()
    ]
    folder.figure("figure3", linear_figures.draw_errors(lambdas, drawn))
    folder.finish({
        "trials": config.trials,
        "lambdas": lambdas.tolist(),
        **{name: [_error_facts(config, lambdas, pair, errors[pair]) for pair in pairs]
           for name, pairs in panels.items()},
        "kkt_residual": float(max(each["kkt"].max() for each in errors.values())),
    })  # fmt: skip


def _error_facts(
    config: ConfigDict, lambdas: np.ndarray, pair: tuple[int, int], errors: dict[str, np.ndarray]
) -> dict:
    """Means over trials; `recovered_from` is the least lambda from which theta's mean error stays
    below `success`.

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


def _figure4(config: ConfigDict, folder: study.Study) -> None:
    penalty = np.array([config.penalty])
    rows = [
        folder.part(f"rank{rank}", lambda r=rank: _successes(config, r, penalty))
        for rank in config.ranks
    ]
    counts = {key: np.stack([row[key] for row in rows]) for key in ("theta", "s")}
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
    folder.finish({
        "figure4": table, "trials": config.trials, "penalty": config.penalty,
        "kkt_residual": float(max(row["kkt"].max() for row in rows)),
    })  # fmt: skip


def _successes(config: ConfigDict, rank: int, penalty: np.ndarray) -> dict[str, np.ndarray]:
    """How many trials of each sparsity have an error below `success`, [K] for theta and for s; KKT
    residuals [K].
    """
    cells = [
        experiments.recovery_errors(config, rank, sparsity, penalty)
        for sparsity in config.sparsities
    ]
    counts = {
        key: np.array([int(np.sum(cell[key] < config.success)) for cell in cells])
        for key in ("theta", "s")
    }
    return counts | {"kkt": np.array([cell["kkt"].max() for cell in cells])}
