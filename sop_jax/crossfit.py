"""Cross-fitting: predictions of every training row by a network that never saw its label.

Two networks of the run's kind, each trained with plain cross-entropy on half of the rows, predict
the other half. The method of the run has no part in it, so that every method is judged alike.
Source: cross-validated predictions as in confident learning (Northcutt et al. 2021), with two folds
and a short schedule instead of five whole runs.
"""

import dataclasses
import pathlib
import shutil

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from sop_jax.checkpoint import Checkpoints
from sop_jax.data.noise import generator
from sop_jax.errors import UserError
from sop_jax.evaluate import NoEvaluation, evaluation_params
from sop_jax.experiment import Experiment, build
from sop_jax.files import read_arrays, read_json, write_arrays, write_json
from sop_jax.loop import train
from sop_jax.mesh import nearest_batch_size
from sop_jax.settings import choose, complete
from sop_jax.state import Resident
from sop_jax.workdir import Session

NAME = "held_out.npz"
_FOLDER = "crossfit"  # of the two networks, while they train
_STREAM = 0xC2055  # keeps the draw of the halves apart from every other draw of the same seed


class Stopped(Exception):
    """SIGTERM came; what was trained is saved."""


def halves(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two disjoint sets of positions, ascending int64, together all `rows`."""
    order = generator(seed, _STREAM).permutation(rows)
    return np.sort(order[: rows // 2]), np.sort(order[rows // 2 :])


def config_of_half(config: ConfigDict, devices: int) -> ConfigDict:
    """The config of a half network: cross-entropy, a cosine schedule, half of the batch.

    Half of the rows in half batches are as many steps an epoch. A schedule made for the length of
    the run would not fit the shorter one.
    """
    half, _ = choose(config, {"method.name": "ce", "optimizer.schedule": "cosine"})
    half.epochs = config.crossfit_epochs
    half.batch_size = nearest_batch_size(max(1, config.batch_size // 2), devices)
    half.eval_every = config.crossfit_epochs
    half.track_predictions = False
    half.optimizer.ema = 0.0
    return complete(half)


def cross_fit(
    experiment: Experiment, resident: Resident, workdir: pathlib.Path
) -> np.ndarray | None:
    """Predictions float32 [n, K] of the n training rows, None where crossfit_epochs is 0.

    They are kept in `workdir`/held_out.npz, and read from there where they are those of this run.
    A run that was stopped here goes on from the last checkpoint of the half it was at. Every
    process of several calls this; they work together, and the first reads and writes.

    Raises:
      Stopped: SIGTERM came.
    """
    config, data = experiment.config, experiment.dataset
    if config.crossfit_epochs == 0:
        return None
    facts = np.array([data.noise.sha256, str(config.crossfit_epochs)])
    known = _read(workdir / NAME, facts, len(data.train_index))
    if jax.process_index() == 0:
        _clear(workdir / _FOLDER, {"facts": facts.tolist()}, known is not None)
    if _agreed(known is not None):
        return known
    half_config = config_of_half(config, experiment.mesh.devices.size)
    predicted, half = None, None
    for number, (held_out, own) in enumerate(_each_way(data.train_index, config.seed)):
        dataset = dataclasses.replace(data, train_index=data.train_index[own])
        # the same programs, but where one batch more makes an epoch of the larger half
        whole = half is None or half.steps_per_epoch != -(-len(own) // half_config.batch_size)
        half = (
            build(half_config, dataset, experiment.mesh)
            if whole
            else half.of_seed(half_config, dataset)
        )
        folder = workdir / _FOLDER / str(number)
        if jax.process_index() == 0:
            folder.mkdir(parents=True, exist_ok=True)
        checkpoints = Checkpoints(folder)
        try:
            outcome = train(
                half,
                resident,
                Session(folder, half_config),
                checkpoints,
                NoEvaluation(),
                quiet=True,
            )
        finally:
            checkpoints.close()
        if not outcome.finished:
            raise Stopped
        probs = half.predict(
            evaluation_params(outcome.state),
            outcome.state.model_state,
            resident.images,
            data.train_index[held_out],
        )
        if predicted is None:
            predicted = np.empty((len(data.train_index), probs.shape[1]), np.float32)
        predicted[held_out] = probs
    if jax.process_index() == 0:
        write_arrays(workdir / NAME, facts=facts, held_out_pred_probs=predicted)
        shutil.rmtree(workdir / _FOLDER)
    return predicted


def _each_way(index: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(positions held out, positions trained on), both ways."""
    first, second = halves(len(index), seed)
    return [(first, second), (second, first)]


def _clear(folder: pathlib.Path, facts: dict, known: bool) -> None:
    """Takes away networks of another number of epochs, and those that a kill left at the end."""
    of = folder / "facts.json"
    try:
        ours = not known and read_json(of, "it is made anew") == facts
    except UserError:
        ours = False
    if not ours:
        shutil.rmtree(folder, ignore_errors=True)
    if not known:
        folder.mkdir(exist_ok=True)
        write_json(of, facts)


def _read(path: pathlib.Path, facts: np.ndarray, rows: int) -> np.ndarray | None:
    """What the file holds, or None where it has to be made anew."""
    if jax.process_index() != 0 or not path.exists():
        return None
    try:
        arrays = read_arrays(path, ("facts", "held_out_pred_probs"), (), "it is made anew")
    except UserError:
        return None
    same = np.array_equal(arrays["facts"], facts) and len(arrays["held_out_pred_probs"]) == rows
    return arrays["held_out_pred_probs"] if same else None


def _agreed(known: bool) -> bool:
    """What the first process says, in all of them."""
    if jax.process_count() == 1:
        return known
    return bool(multihost_utils.broadcast_one_to_all(np.array(known)))
