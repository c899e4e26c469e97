"""The two-manifold problem: two curves on the sphere, a deep ReLU network and its tangent kernel.

Source: lecture 4 of the ICASSP 2022 short course (Buchanan & Zhu). Depth makes the kernel sharp
enough for the geometry, width brings the network's kernel to the formula, and the data must resolve
it.
"""

import functools
import math
import pathlib

import jax
import numpy as np
from ml_collections import ConfigDict

from sop_jax import config as configs
from sop_jax import study
from sop_jax.errors import UserError
from sop_jax.theory import curves, curves_figures, curves_training, tangent_kernel
from sop_jax.theory.curves import Pair

RECORD_EVERY = 20  # steps between two evaluations of a training run
# a curve, from which its separation, curvature and near-returns are measured
GEOMETRY_POINTS = 2000
FIGURE_ANGLES = np.concatenate([[0.0], np.geomspace(1e-3, np.pi, 400)])


def default() -> ConfigDict:
    """All fields. Curves are named circles-DISTANCE, winding-LOOPS-TILT,
    coils-SEPARATION-CURVATURE-RETURNS.
    """
    config = configs.base("two_curves")
    config.kernel = ConfigDict()  # the formula, at infinite width
    config.kernel.depths = (1, 2, 5, 20, 125, 625)
    config.kernel.angles = (0.0, 0.1, 0.3, 0.7, 1.5, 2.5, math.pi)  # radians
    config.certificate = ConfigDict()  # label eigenvalues under the formula
    config.certificate.depths = (1, 2, 5, 10, 25, 50, 125, 625)
    config.certificate.curves = (
        "circles-0.1", "circles-0.3", "circles-1", "winding-1-0.3", "winding-4-0.3", "winding-10-0.3",
        "coils-0.3-1-3", "coils-0.1-1-3", "coils-0.3-3-3", "coils-0.3-1-0", "coils-0.3-1-9",
    )  # fmt: skip
    # empirical kernels of fresh networks, at the angles of config.kernel
    config.concentration = ConfigDict()
    config.concentration.depths = (1, 5, 20)
    config.concentration.widths = (64, 256, 1024)
    config.concentration.seeds = 40
    config.training = ConfigDict()
    config.training.curves = ("circles-0.3", "winding-4-0.3")
    config.training.depths = (1, 2, 5, 10)
    config.training.width = 512
    config.training.samples = 50  # a curve, independent and uniform
    config.training.steps = 600  # of full-batch descent; a multiple of 20
    # whose accuracies go into the summary; multiples of 20
    config.training.table_steps = (60, 200, 600)
    config.training.learning_rate = 1.0  # in units of 1/(nL)
    config.training.seeds = 5  # config.seed and those after it: samples and weights
    config.training.grid = 400  # points a curve on which accuracy is measured
    # training's settings, but for one of width and samples at a time
    config.tradeoff = ConfigDict()
    config.tradeoff.curve = "winding-4-0.3"
    config.tradeoff.depths = (2, 10)
    config.tradeoff.widths = (64, 512, 2048)
    config.tradeoff.samples = (10, 25, 50, 200)
    config.tradeoff.steps = 200
    config.tradeoff.seeds = 3
    # a wide network's loss against what its kernel at the start predicts
    config.linearised = ConfigDict()
    config.linearised.width = 4096
    config.linearised.depth = 2
    config.linearised.steps = 50
    return config


def check(config: ConfigDict) -> None:
    """Raises UserError naming the first field that cannot be right."""
    configs.check_fields(config, default())
    configs.at_least(config, 0, "seed", "training.learning_rate")
    configs.at_least(config, 2, "concentration.seeds")
    configs.at_least(
        config,
        1,
        "training.width",
        "training.samples",
        "training.seeds",
        "training.grid",
        # fmt: skip
        "tradeoff.seeds",
        "linearised.width",
        "linearised.depth",
        "linearised.steps",
    )
    for field in (
        "kernel.depths",
        "certificate.depths",
        "concentration.depths",
        "concentration.widths",
        # fmt: skip
        "training.depths",
        "tradeoff.depths",
        "tradeoff.widths",
        "tradeoff.samples",
    ):
        group, name = configs.group_of(config, field)
        whole = len(group[name]) > 0 and all(value >= 1 and value % 1 == 0 for value in group[name])
        configs.require(
            whole, field, group[name], "it must be whole numbers of at least 1, such as (1, 5)"
        )
    angles = config.kernel.angles
    configs.require(len(angles) > 0 and all(0 <= nu <= math.pi for nu in angles), "kernel.angles", angles,
                    "it must be angles from 0 to pi, in radians")  # fmt: skip
    for field in ("training.steps", "tradeoff.steps"):
        group, name = configs.group_of(config, field)
        configs.require(
            group[name] >= 1 and group[name] % RECORD_EVERY == 0,
            field,
            group[name],
            # fmt: skip
            f"it must be a multiple of {RECORD_EVERY}, the steps between evaluations",
        )
    table_steps, last = config.training.table_steps, config.training.steps
    configs.require(
        all(step in range(RECORD_EVERY, last + 1, RECORD_EVERY) for step in table_steps),
        "training.table_steps",
        table_steps,
        # fmt: skip
        f"it must be multiples of {RECORD_EVERY} up to training.steps={last}",
    )
    for field in ("certificate.curves", "training.curves", "tradeoff.curve"):
        group, name = configs.group_of(config, field)
        for curve in [group[name]] if isinstance(group[name], str) else group[name]:
            try:
                curves.named(curve)
            except UserError as error:
                raise UserError(f"config.{field}: {error}") from error


def run(config: ConfigDict, workdir: pathlib.Path, dry_run: bool = False) -> None:
    """Kernel, certificates, concentration and training; leaves arrays, figures and summary.json in
    `workdir`.

    Raises:
      UserError: a field that cannot be right, a folder of another config, or descent that diverges.
    """
    check(config)
    if dry_run:
        study.describe(
            config,
            [
                f"kernel of depths {config.kernel.depths}, {len(config.certificate.curves)} "
                f"certificates, {config.concentration.seeds} networks of widths "
                f"{config.concentration.widths}, training on {', '.join(config.training.curves)}"
            ],
        )
        return
    with study.opened(config, workdir) as folder, jax.default_matmul_precision("float32"):
        if folder is not None:
            folder.finish(
                _kernel(config, folder)
                | _certificates(config, folder)
                | _concentration(config, folder)
                | _training(config, folder)
                | _tradeoff(config, folder)
                | _linearised(config, folder)
            )


def _kernel(config: ConfigDict, folder: study.Study) -> dict:
    depths, angles = config.kernel.depths, np.array(config.kernel.angles)

    def compute():
        scale = 1 / np.array(depths)[:, None]
        return {
            "theta": scale * tangent_kernel.infinite_width(angles, depths),
            "figure": scale * tangent_kernel.infinite_width(FIGURE_ANGLES, depths),
        }

    arrays = folder.part("kernel", compute)
    folder.figure("kernel", curves_figures.kernel(FIGURE_ANGLES, arrays["figure"], depths))
    return {
        "kernel": {
            str(depth): _at_angles(angles, row)
            for depth, row in zip(depths, arrays["theta"], strict=True)
        }
    }


def _certificates(config: ConfigDict, folder: study.Study) -> dict:
    names, depths = config.certificate.curves, config.certificate.depths
    eigenvalues, geometry = {}, {}
    for name in names:
        pair = curves.named(name)
        arrays = folder.part(f"certificate_{name}", functools.partial(_certificate, pair, depths))
        eigenvalues[name] = arrays["eigenvalue"]
        own, across = (int(count) for count in arrays["returns"])
        geometry[name] = {"separation": float(arrays["separation"]), "curvature": float(arrays["curvature"]),
                          "near_returns": own, "loop_number": own + across}  # fmt: skip
    folder.figure("certificate", curves_figures.certificates(eigenvalues, depths))
    return {
        "geometry": geometry,
        "label_eigenvalue": {name: _keyed(depths, values) for name, values in eigenvalues.items()},
        "certificate_norm": {  # None: the kernel does not see the labels at all
            name: {
                str(depth): 1 / float(value) if value > 1e-9 else None
                for depth, value in zip(depths, values, strict=True)
            }
            for name, values in eigenvalues.items()
        },  # fmt: skip
    }


def _certificate(pair: Pair, depths: tuple[int, ...]) -> dict:
    plus, minus = curves.grid(pair.plus, GEOMETRY_POINTS), curves.grid(pair.minus, GEOMETRY_POINTS)
    return {
        "eigenvalue": tangent_kernel.label_eigenvalue(pair, depths),
        "separation": curves.separation(plus, minus),
        "curvature": max(curves.curvature(plus), curves.curvature(minus)),
        "returns": curves.near_returns(plus, minus),
    }


def _concentration(config: ConfigDict, folder: study.Study) -> dict:
    own, angles = config.concentration, np.array(config.kernel.angles)
    # the kernel is taken between the first point and all of them
    from_zero = np.concatenate([[0.0], angles])
    x = np.stack([np.cos(from_zero), np.sin(from_zero)], axis=1)
    formula = tangent_kernel.infinite_width(angles, own.depths)
    seeds = range(config.seed, config.seed + own.seeds)
    table, spread, bias, bias_error = {}, {}, {}, {}
    for depth, exact in zip(own.depths, formula, strict=True):
        rows = {}
        for width in own.widths:
            compute = functools.partial(
                curves_training.networks, x, depth=depth, width=width, seeds=seeds
            )
            arrays = folder.part(f"concentration_{depth}_{width}", compute)
            ratios = arrays["hidden"] / (width * depth / 2)
            diagonal, ratios = ratios[:, 0], ratios[:, 1:]
            rows[width] = {
                "relative_sd": float(diagonal.std(ddof=1) / diagonal.mean()),
                "relative_bias": float(diagonal.mean() - 1),
                "relative_bias_error": float(diagonal.std(ddof=1) / math.sqrt(own.seeds)),
                # over networks and angles
                "rms_distance": float(np.sqrt(np.mean((ratios - exact / depth) ** 2))),
                "mean": _at_angles(angles, ratios.mean(axis=0)),
                # not in the formula
                "output_layer": float(arrays["output"][:, 0].mean() / (width * depth / 2)),
                "start_sd": float(np.sqrt(np.mean(arrays["start"] ** 2))),
            }
        table[str(depth)] = {str(width): row for width, row in rows.items()}
        spread[depth], bias[depth], bias_error[depth] = (
            np.array([row[key] for row in rows.values()])
            for key in ("relative_sd", "relative_bias", "relative_bias_error")
        )
    folder.figure(
        "concentration", curves_figures.concentration(own.widths, spread, bias, bias_error)
    )
    return {"concentration": table}


def _training(config: ConfigDict, folder: study.Study) -> dict:
    own, accuracy = config.training, {}
    for name in own.curves:
        accuracy[name] = {}
        for depth in own.depths:
            train = functools.partial(_train_surely, config, name, depth)
            accuracy[name][depth] = folder.part(f"training_{name}_{depth}", train)["grid_accuracy"]
    steps = np.arange(1, own.steps // RECORD_EVERY + 1) * RECORD_EVERY
    folder.figure("training", curves_figures.training(steps, accuracy))

    def table(of_seeds):
        return {
            name: {str(depth): {str(step): of_seeds(values[:, step // RECORD_EVERY - 1]) for step in own.table_steps}
                   for depth, values in by_depth.items()} for name, by_depth in accuracy.items()
        }  # fmt: skip

    return {
        "training_accuracy": table(lambda seeds: float(seeds.mean())),
        "training_accuracy_std": table(
            lambda seeds: float(seeds.std(ddof=1)) if len(seeds) > 1 else None
        ),
        "training_accuracy_seeds": table(lambda seeds: [round(float(value), 5) for value in seeds]),
    }


def _tradeoff(config: ConfigDict, folder: study.Study) -> dict:
    own = config.tradeoff
    runs = {
        "width": [(width, width, config.training.samples) for width in own.widths],
        # fmt: skip
        "samples": [(samples, config.training.width, samples) for samples in own.samples],
    }
    final, summary = {}, {}
    for kind, settings in runs.items():
        final[kind], summary[kind] = {}, {}
        for depth in own.depths:
            final[kind][depth], rows = {}, {}
            for value, width, samples in settings:
                train = functools.partial(
                    _train, config, own.curve, depth, width, samples, own.steps, own.seeds
                )
                arrays = folder.part(f"{kind}_{value}_{depth}", train)
                on_grid, on_sample = (
                    arrays["grid_accuracy"][:, -1],
                    arrays["sample_accuracy"][:, -1],
                )
                final[kind][depth][value] = on_grid
                rows[str(value)] = {
                    "seeds": [None if np.isnan(a) else round(float(a), 5) for a in on_grid],
                    "sample_accuracy": [
                        None if np.isnan(a) else round(float(a), 5) for a in on_sample
                    ],
                    "diverged": int(arrays["diverged"].sum()),
                    # fmt: skip
                    "learning_rate_limit": [float(limit) for limit in arrays["limit"]],
                }
            summary[kind][str(depth)] = rows
    folder.figure("tradeoff", curves_figures.tradeoff(final["width"], final["samples"]))
    return {"tradeoff": summary}


def _train(
    config: ConfigDict, name: str, depth: int, width: int, samples: int, steps: int, seeds: int
) -> dict:
    return curves_training.train(
        curves.named(name), depth=depth, width=width, samples=samples, grid=config.training.grid, steps=steps,
        every=RECORD_EVERY, factor=config.training.learning_rate, seeds=range(config.seed, config.seed + seeds),
    )  # fmt: skip


def _train_surely(config: ConfigDict, name: str, depth: int) -> dict:
    """As `_train` with the settings of config.training, but raises UserError where descent
    diverges.
    """
    own = config.training
    arrays = _train(config, name, depth, own.width, own.samples, own.steps, own.seeds)
    for seed, (lost, limit) in enumerate(
        zip(arrays["diverged"], arrays["limit"], strict=True), config.seed
    ):
        if lost:
            raise UserError(
                f"descent on {name} diverged at depth {depth}, seed {seed}: config.training.learning_rate="
                f"{own.learning_rate:g} (in units of 1/(nL)), where the kernel at the start is stable "
                f"below 2/lam_max = {limit:.3g}; take a smaller one"
            )
    return arrays


def _linearised(config: ConfigDict, folder: study.Study) -> dict:
    own = config.linearised

    def compute():
        return curves_training.linearised(
            curves.named(config.tradeoff.curve), depth=own.depth, width=own.width, samples=config.training.samples,
            steps=own.steps, factor=config.training.learning_rate, seed=config.seed,
        )  # fmt: skip

    arrays = folder.part("linearised", compute)
    return {"linearised": {kind: float(np.max(np.abs(arrays["loss"] / arrays[kind] - 1)))
                           for kind in ("flow", "descent")}}  # fmt: skip


def _keyed(keys, values: np.ndarray) -> dict[str, float]:
    return {str(key): float(value) for key, value in zip(keys, values, strict=True)}


def _at_angles(angles: np.ndarray, values: np.ndarray) -> dict[str, float]:
    return _keyed([f"{angle:g}" for angle in angles], values)
