"""The two-manifold problem: two curves on the sphere, a deep ReLU network and its tangent kernel.

Source: lecture 4 of the ICASSP 2022 short course (Buchanan & Zhu). Depth makes the kernel sharp
enough for the geometry, width brings the network's kernel to the formula, and the data must resolve
it.
"""

import math
import pathlib

import jax
from ml_collections import ConfigDict

from sop_jax.config import at_least, base, check_fields, group_of, require
from sop_jax.errors import UserError
from sop_jax.study import describe, opened
from sop_jax.theory import curves_study
from sop_jax.theory.curves import named
from sop_jax.theory.curves_study import RECORD_EVERY

COUNTS = (
    "training.width",
    "training.samples",
    "training.seeds",
    "training.grid",
    "tradeoff.seeds",
    "linearised.width",
    "linearised.depth",
    "linearised.steps",
)
LISTS_OF_COUNTS = (
    "kernel.depths",
    "certificate.depths",
    "concentration.depths",
    "concentration.widths",
    "training.depths",
    "tradeoff.depths",
    "tradeoff.widths",
    "tradeoff.samples",
)


def default() -> ConfigDict:
    """All fields.

    Curves are named circles-DISTANCE, winding-LOOPS-TILT, coils-SEPARATION-CURVATURE-RETURNS.
    """
    config = base("two_curves")
    config.kernel = ConfigDict()  # the formula, at infinite width
    config.kernel.depths = (1, 2, 5, 20, 125, 625)
    config.kernel.angles = (0.0, 0.1, 0.3, 0.7, 1.5, 2.5, math.pi)  # radians
    config.certificate = ConfigDict()  # label eigenvalues under the formula
    config.certificate.depths = (1, 2, 5, 10, 25, 50, 125, 625)
    config.certificate.curves = (
        "circles-0.1",
        "circles-0.3",
        "circles-1",
        "winding-1-0.3",
        "winding-4-0.3",
        "winding-10-0.3",
        "coils-0.3-1-3",
        "coils-0.1-1-3",
        "coils-0.3-3-3",
        "coils-0.3-1-0",
        "coils-0.3-1-9",
    )
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
    check_fields(config, default())
    at_least(config, 0, "seed", "training.learning_rate")
    at_least(config, 2, "concentration.seeds")
    at_least(config, 1, *COUNTS)
    for field in LISTS_OF_COUNTS:
        group, name = group_of(config, field)
        whole = len(group[name]) > 0 and all(value >= 1 and value % 1 == 0 for value in group[name])
        wanted = "it must be whole numbers of at least 1, such as (1, 5)"
        require(whole, field, group[name], wanted)
    angles = config.kernel.angles
    in_range = len(angles) > 0 and all(0 <= nu <= math.pi for nu in angles)
    require(in_range, "kernel.angles", angles, "it must be angles from 0 to pi, in radians")
    for field in ("training.steps", "tradeoff.steps"):
        group, name = group_of(config, field)
        whole = group[name] >= 1 and group[name] % RECORD_EVERY == 0
        wanted = f"it must be a multiple of {RECORD_EVERY}, the steps between evaluations"
        require(whole, field, group[name], wanted)
    table_steps, last = config.training.table_steps, config.training.steps
    recorded = range(RECORD_EVERY, last + 1, RECORD_EVERY)
    wanted = f"it must be multiples of {RECORD_EVERY} up to training.steps={last}"
    in_range = all(step in recorded for step in table_steps)
    require(in_range, "training.table_steps", table_steps, wanted)
    for field in ("certificate.curves", "training.curves", "tradeoff.curve"):
        group, name = group_of(config, field)
        for curve in [group[name]] if isinstance(group[name], str) else group[name]:
            try:
                named(curve)
            except UserError as error:
                raise UserError(f"config.{field}: {error}") from error


def run(config: ConfigDict, workdir: pathlib.Path | None, dry_run: bool = False) -> None:
    """Kernel, certificates, concentration and training; leaves arrays, figures and summary.json.

    Raises:
      UserError: a field that cannot be right, a folder of another config, or descent that diverges.
    """
    check(config)
    if dry_run:
        line = (
            f"kernel of depths {config.kernel.depths}, {len(config.certificate.curves)} "
            f"certificates, {config.concentration.seeds} networks of widths "
            f"{config.concentration.widths}, training on {', '.join(config.training.curves)}"
        )
        describe(config, [line])
        return
    with opened(config, workdir) as folder, jax.default_matmul_precision("float32"):
        if folder is not None:
            folder.finish(
                curves_study.kernel(config, folder)
                | curves_study.certificates(config, folder)
                | curves_study.concentration(config, folder)
                | curves_study.training(config, folder)
                | curves_study.tradeoff(config, folder)
                | curves_study.linearised(config, folder)
            )
