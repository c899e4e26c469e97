"""The parts of the task `two_curves`: what each computes, draws and tells the summary.

Each is a function of (config, folder), with the task's config, and returns its keys of the summary.
"""

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from sop_jax.errors import UserError
from sop_jax.study import Study
from sop_jax.theory import curves, curves_figures, curves_training, tangent_kernel
from sop_jax.theory.curves import Pair

RECORD_EVERY = 20  # steps between two evaluations of a training run
GEOMETRY_POINTS = 2000  # a curve, on which separation, curvature and near-returns are measured
FIGURE_ANGLES = np.concatenate([[0.0], np.geomspace(1e-3, np.pi, 400)])
UNSEEN = 1e-9  # an eigenvalue below it is 0: the kernel does not see the labels at all


def kernel(config: ConfigDict, folder: Study) -> dict:
    """The formula at infinite width: Theta/(nL/2) of every depth and angle."""
    depths, angles = config.kernel.depths, np.array(config.kernel.angles)

    def compute() -> dict[str, np.ndarray]:
        scale = 1 / np.array(depths)[:, None]
        return {
            "theta": scale * tangent_kernel.infinite_width(angles, depths),
            "figure": scale * tangent_kernel.infinite_width(FIGURE_ANGLES, depths),
        }

    arrays = folder.part("kernel", compute)
    folder.figure("kernel", curves_figures.kernel(FIGURE_ANGLES, arrays["figure"], depths))
    rows = [_at_angles(angles, row) for row in arrays["theta"]]
    return {"kernel": dict(zip(map(str, depths), rows, strict=True))}


def certificates(config: ConfigDict, folder: Study) -> dict:
    """Geometry of every pair of curves, and the norm of its certificate at every depth."""
    depths = config.certificate.depths
    eigenvalues, geometry = {}, {}
    for name in config.certificate.curves:
        pair = curves.named(name)
        arrays = folder.part(f"certificate_{name}", functools.partial(_certificate, pair, depths))
        eigenvalues[name] = arrays["eigenvalue"]
        own, across = (int(count) for count in arrays["returns"])
        geometry[name] = {
            "separation": float(arrays["separation"]),
            "curvature": float(arrays["curvature"]),
            "near_returns": own,
            "loop_number": own + across,
        }
    folder.figure("certificate", curves_figures.certificates(eigenvalues, depths))
    by_depth = {name: _keyed(depths, values) for name, values in eigenvalues.items()}
    norms = {}
    for name, values in by_depth.items():
        norms[name] = {depth: 1 / v if v > UNSEEN else None for depth, v in values.items()}
    return {"geometry": geometry, "label_eigenvalue": by_depth, "certificate_norm": norms}


def _certificate(pair: Pair, depths: tuple[int, ...]) -> dict:
    plus, minus = curves.grid(pair.plus, GEOMETRY_POINTS), curves.grid(pair.minus, GEOMETRY_POINTS)
    return {
        "eigenvalue": tangent_kernel.label_eigenvalue(pair, depths),
        "separation": curves.separation(plus, minus),
        "curvature": max(curves.curvature(plus), curves.curvature(minus)),
        "returns": curves.near_returns(plus, minus),
    }


def concentration(config: ConfigDict, folder: Study) -> dict:
    """Kernels of fresh networks against the formula, by depth and width."""
    own, angles = config.concentration, np.array(config.kernel.angles)
    # the kernel is taken between the first point and all of them
    from_zero = np.concatenate([[0.0], angles])
    x = np.stack([np.cos(from_zero), np.sin(from_zero)], axis=1)
    formula = tangent_kernel.infinite_width(angles, own.depths)
    seeds = range(config.seed, config.seed + own.seeds)
    table, spread, bias, bias_error = {}, {}, {}, {}
    for depth, exact in zip(own.depths, formula, strict=True):
        facts = []
        for width in own.widths:
            compute = functools.partial(
                curves_training.networks, x, depth=depth, width=width, seeds=seeds
            )
            arrays = folder.part(f"concentration_{depth}_{width}", compute)
            facts.append(_concentration_facts(arrays, width * depth / 2, exact / depth, angles))
        table[str(depth)] = dict(zip(map(str, own.widths), facts, strict=True))
        spread[depth] = np.array([each["relative_sd"] for each in facts])
        bias[depth] = np.array([each["relative_bias"] for each in facts])
        bias_error[depth] = np.array([each["relative_bias_error"] for each in facts])
    figure = curves_figures.concentration(own.widths, spread, bias, bias_error)
    folder.figure("concentration", figure)
    return {"concentration": table}


def _concentration_facts(
    arrays: dict[str, np.ndarray], scale: float, exact: np.ndarray, angles: np.ndarray
) -> dict:
    """What the summary says of one depth and width.

    Args:
      arrays: of `curves_training.networks`: [seeds, 1 + angles], the diagonal first.
      scale: nL/2.
      exact: the formula over nL/2 at the angles.
    """
    diagonal, others = arrays["hidden"][:, 0] / scale, arrays["hidden"][:, 1:] / scale
    deviation = diagonal.std(ddof=1)
    return {
        "relative_sd": float(deviation / diagonal.mean()),
        "relative_bias": float(diagonal.mean() - 1),
        "relative_bias_error": float(deviation / math.sqrt(len(diagonal))),
        # over networks and angles
        "rms_distance": float(np.sqrt(np.mean((others - exact[None]) ** 2))),
        "mean": _at_angles(angles, others.mean(axis=0)),
        # not in the formula
        "output_layer": float(arrays["output"][:, 0].mean() / scale),
        "start_sd": float(np.sqrt(np.mean(arrays["start"] ** 2))),
    }


def training(config: ConfigDict, folder: Study) -> dict:
    """Accuracy on the whole curves over the steps of descent, by curve and depth."""
    own, accuracy = config.training, {}
    for name in own.curves:
        accuracy[name] = {}
        for depth in own.depths:
            train = functools.partial(_train_surely, config, name, depth)
            accuracy[name][depth] = folder.part(f"training_{name}_{depth}", train)["grid_accuracy"]
    steps = np.arange(1, own.steps // RECORD_EVERY + 1) * RECORD_EVERY
    folder.figure("training", curves_figures.training(steps, accuracy))

    def table(of_seeds: Callable[[np.ndarray], Any]) -> dict:
        """{curve: {depth: {step: of_seeds(accuracies [seeds])}}} at the steps of the table."""
        found = {}
        for name, by_depth in accuracy.items():
            found[name] = {}
            for depth, values in by_depth.items():
                at_steps = values[:, np.array(own.table_steps) // RECORD_EVERY - 1].T
                of_steps = zip(map(str, own.table_steps), map(of_seeds, at_steps), strict=True)
                found[name][str(depth)] = dict(of_steps)
        return found

    return {
        "training_accuracy": table(lambda seeds: float(seeds.mean())),
        "training_accuracy_std": table(
            lambda seeds: float(seeds.std(ddof=1)) if len(seeds) > 1 else None
        ),
        "training_accuracy_seeds": table(_rounded),
    }


def tradeoff(config: ConfigDict, folder: Study) -> dict:
    """Final accuracy as the width varies, and as the number of samples does."""
    own = config.tradeoff
    runs = {  # what varies -> its value, the width, the samples
        "width": [(width, width, config.training.samples) for width in own.widths],
        "samples": [(samples, config.training.width, samples) for samples in own.samples],
    }
    final, summary = {}, {}
    for kind, settings in runs.items():
        final[kind], summary[kind] = {}, {}
        for depth in own.depths:
            final[kind][depth], facts = {}, {}
            for value, width, samples in settings:
                train = functools.partial(
                    _train, config, own.curve, depth, width, samples, own.steps, own.seeds
                )
                arrays = folder.part(f"{kind}_{value}_{depth}", train)
                on_grid = arrays["grid_accuracy"][:, -1]
                final[kind][depth][value] = on_grid
                facts[str(value)] = {
                    "seeds": _rounded(on_grid),
                    "sample_accuracy": _rounded(arrays["sample_accuracy"][:, -1]),
                    "diverged": int(arrays["diverged"].sum()),
                    "learning_rate_limit": arrays["limit"].tolist(),
                }
            summary[kind][str(depth)] = facts
    folder.figure("tradeoff", curves_figures.tradeoff(final["width"], final["samples"]))
    return {"tradeoff": summary}


def _train(
    config: ConfigDict, name: str, depth: int, width: int, samples: int, steps: int, seeds: int
) -> dict[str, np.ndarray]:
    return curves_training.train(
        curves.named(name),
        depth=depth,
        width=width,
        samples=samples,
        grid=config.training.grid,
        steps=steps,
        every=RECORD_EVERY,
        factor=config.training.learning_rate,
        seeds=range(config.seed, config.seed + seeds),
    )


def _train_surely(config: ConfigDict, name: str, depth: int) -> dict[str, np.ndarray]:
    """As `_train`, with the settings of config.training; UserError where descent diverges."""
    own = config.training
    arrays = _train(config, name, depth, own.width, own.samples, own.steps, own.seeds)
    if arrays["diverged"].any():
        first = int(arrays["diverged"].argmax())
        raise UserError(
            f"descent on {name} diverged at depth {depth}, seed {config.seed + first}: "
            f"config.training.learning_rate={own.learning_rate:g} (in units of 1/(nL)), where the "
            f"kernel at the start is stable below 2/lam_max = {arrays['limit'][first]:.3g}; take a "
            "smaller one"
        )
    return arrays


def linearised(config: ConfigDict, folder: Study) -> dict:
    """How far a wide network's loss is from what its kernel at the start predicts."""
    own = config.linearised

    def compute() -> dict[str, np.ndarray]:
        return curves_training.linearised(
            curves.named(config.tradeoff.curve),
            depth=own.depth,
            width=own.width,
            samples=config.training.samples,
            steps=own.steps,
            factor=config.training.learning_rate,
            seed=config.seed,
        )

    arrays = folder.part("linearised", compute)
    loss = arrays["loss"]
    furthest = {kind: np.max(np.abs(loss / arrays[kind] - 1)) for kind in ("flow", "descent")}
    return {"linearised": {kind: float(distance) for kind, distance in furthest.items()}}


def _rounded(accuracies: np.ndarray) -> list[float | None]:
    """To five digits; None where descent diverged."""
    return [None if np.isnan(value) else round(float(value), 5) for value in accuracies]


def _keyed(keys: Iterable, values: np.ndarray) -> dict[str, float]:
    return dict(zip(map(str, keys), values.tolist(), strict=True))


def _at_angles(angles: np.ndarray, values: np.ndarray) -> dict[str, float]:
    return _keyed([f"{angle:g}" for angle in angles], values)
