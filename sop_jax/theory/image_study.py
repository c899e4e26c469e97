"""The images of the task `image_recovery`: three fits each, part by part, and what is said of them.

Formulas: image_fit.py (You, Zhu, Qu, Ma, NeurIPS 2020).
"""

import functools
import pathlib
from collections.abc import Mapping

import numpy as np
from ml_collections import ConfigDict

from sop_jax.errors import UserError
from sop_jax.study import Study, say
from sop_jax.theory import image_fit, photograph
from sop_jax.theory.image_figures import draw_recovery
from sop_jax.theory.image_fit import DOUBLE, FITS, PLAIN_L1, PLAIN_MSE

GROWN = 2.0  # times the first loss: where a loss ends above that, descent has diverged
# an entry counts as found to be wrong if |g*g - h*h| is above; the summary has each
SUPPORT = (0.05, 0.1, 0.2)
KEYS = {DOUBLE: "psnr", PLAIN_L1: "psnr_plain_l1", PLAIN_MSE: "psnr_plain_mse"}


def settings(config: ConfigDict) -> image_fit.Settings:
    """The settings of the fits, with alpha rescaled to the images' size."""
    alpha = image_fit.rescaled_alpha(config.alpha, config.size, config.size)
    return image_fit.Settings(
        config.width, config.scales, config.learning_rate, alpha, config.plain_learning_rate
    )


def load(config: ConfigDict) -> dict[str, np.ndarray]:
    """The images by label, which is the file's name without its ending.

    Raises:
      UserError: two images of one label, or one that cannot be read.
    """
    images = {}
    for name in (part.strip() for part in config.image.split(",")):
        label = pathlib.Path(name).stem
        if label in images:
            raise UserError(
                f"config.image={config.image!r} has two images called {label!r}; rename one"
            )
        images[label] = photograph.load(name, config.size)
    return images


def recover_all(config: ConfigDict, folder: Study, images: Mapping[str, np.ndarray]) -> dict:
    """Recovers every image; the summary has all, and at its top the first image's figures.

    Raises:
      UserError: an image is not the one that the run began with, or descent diverged.
    """
    for label, image in images.items():
        begun = folder.part(f"{label}_clean", functools.partial(dict, image=image))["image"]
        if not np.array_equal(begun, image):
            raise UserError(
                f"the image {label!r} is not the one that {folder.workdir} began with; restore "
                "the file or name another --workdir"
            )
    results = {label: _recover(config, folder, label, image) for label, image in images.items()}
    return {**next(iter(results.values())), "images": results}


def _recover(config: ConfigDict, folder: Study, label: str, clean: np.ndarray) -> dict:
    """The three fits of one image and their figure; returns what the summary says of it."""
    corrupted = image_fit.corrupt(clean, config.corruption, config.seed)
    ends, curves = {}, {}
    for name in FITS:
        fit = image_fit.make(name, settings(config), clean, corrupted, config.seed)
        ends[name], curves[name] = _run(config, folder, f"{label}_{name}", fit)
    recovered = {name: end["recovered"] for name, end in ends.items()}
    found = facts(clean, corrupted, curves, recovered, ends[DOUBLE]["sparse"])
    title = (
        f"{label}, {config.size}x{config.size} pixels, {config.corruption:.0%} of the entries "
        "corrupted"
    )
    figure = draw_recovery(title, clean, corrupted, recovered, curves, found["psnr_input"])
    folder.figure(f"{label}_recovery", figure)
    say(
        f"{label}: {found['psnr_input']:.2f} dB before, {found['psnr_final']:.2f} after (best "
        f"{found['psnr_best']:.2f}); plain prior, l1: {found['psnr_plain_final']:.2f} (best "
        f"{found['psnr_plain_best']:.2f})"
    )
    return found


def _run(
    config: ConfigDict, folder: Study, name: str, fit: image_fit.Fit
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """One fit part by part: (arrays of its last part, PSNR of every iteration [iterations])."""
    state, first_loss, errors = fit.start, np.inf, []
    for done in range(0, config.iterations, config.iterations_per_part):
        count = min(config.iterations_per_part, config.iterations - done)
        compute = functools.partial(advance, fit, state, count, first_loss)
        arrays = folder.part(f"{name}_{done + count}", compute)
        state = image_fit.from_arrays(arrays, fit.start)
        first_loss = min(first_loss, arrays["loss"][0])
        errors.append(arrays["error"])
    return arrays, image_fit.psnr(np.concatenate(errors))


def advance(
    fit: image_fit.Fit, state: image_fit.State, count: int, first_loss: float
) -> dict[str, np.ndarray]:
    """One part of a fit: its curves, the images as they are after it, and the state to go on from.

    Raises:
      UserError: the loss grew instead of falling.
    """
    state, progress = fit.advance(state, count)
    last, first = progress.loss[-1], min(first_loss, progress.loss[0])
    if not last <= GROWN * first:  # NaN too
        raise UserError(
            f"descent diverged: the loss ended at {last:.3g} after {int(state.iteration)} "
            f"iterations; {fit.limit}"
        )
    return progress._asdict() | fit.images(state) | image_fit.to_arrays(state)


def facts(
    clean: np.ndarray,
    corrupted: np.ndarray,
    curves: Mapping[str, np.ndarray],
    recovered: Mapping[str, np.ndarray],
    sparse: np.ndarray,
) -> dict:
    """What the summary says of an image.

    Args:
      clean, corrupted: [H, W, 3].
      curves: fit -> PSNR in dB of every iteration.
      recovered: fit -> its image after the last iteration [H, W, 3].
      sparse: what the doubled fit models as errors [H, W, 3].

    Returns:
      PSNR in dB: of the corrupted image, and of each fit at its last and at its best iteration.
      `psnr_plain_final` and `psnr_plain_best` are of the stronger plain prior, l1;
      `psnr_recovered` is of the image on the input without noise, as the figure shows it.
      Support: the entries that differ from the clean image, of those that the model calls wrong
      (precision), and the other way about (recall).
    """
    found = {"psnr_input": float(image_fit.psnr(np.mean((corrupted - clean) ** 2)))}
    for name, key in KEYS.items():
        found |= {
            f"{key}_final": float(curves[name][-1]),
            f"{key}_best": float(curves[name].max()),
            f"{key}_best_iteration": int(curves[name].argmax()) + 1,
            f"{key}_recovered": float(image_fit.psnr(np.mean((recovered[name] - clean) ** 2))),
        }
    for when in ("final", "best"):
        found[f"psnr_plain_{when}"] = found[f"psnr_plain_l1_{when}"]
    wrong, found["support"] = corrupted != clean, []
    for threshold in SUPPORT:
        called = np.abs(sparse) > threshold
        if called.any() and wrong.any():
            precision, recall = float(np.mean(wrong[called])), float(np.mean(called[wrong]))
            found["support"].append(
                {"threshold": threshold, "precision": precision, "recall": recall}
            )
    return found
