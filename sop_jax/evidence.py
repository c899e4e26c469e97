"""What training left of each training row: the evidence for the verdict on its label."""

from typing import NamedTuple

import jax
import numpy as np

from sop_jax.evaluate import evaluation_params
from sop_jax.experiment import Experiment
from sop_jax.label_issues import Verdict, judge_rows, sampled
from sop_jax.mesh import fetch
from sop_jax.state import Resident, TrainState
from sop_jax.table import values


class Tracked(NamedTuple):
    """The tracker's rows of the n training rows, in row order."""

    label: np.ndarray  # int32 [n], the given labels
    margin: np.ndarray  # float32 [n], mean over epochs of given logit minus largest other
    prediction: np.ndarray  # int32 [n], the latest


class Evidence(NamedTuple):
    """All that a verdict on the n training rows rests on, in row order."""

    label: np.ndarray  # int32 [n], the given labels
    margin: np.ndarray  # float32 [n], mean over epochs of given logit minus largest other
    prediction: np.ndarray  # int32 [n], the latest
    probs: np.ndarray  # float32 [n, K], mean training prediction over all epochs
    held_out: np.ndarray | None  # float32 [n, K], of networks that never saw the row
    features: np.ndarray  # float32 [m, d], of the rows at `label_issues.sampled(n)`
    diagnostics: dict[str, np.ndarray]  # {name: [n]}, the method's own


def read_tracked(experiment: Experiment, state: TrainState) -> Tracked:
    """From the state alone. Every process of several calls this: they gather the rows together."""
    index = experiment.dataset.train_index
    tracker = fetch({name: state.tracker[name] for name in ("margin", "prediction")})
    return Tracked(
        label=experiment.dataset.train.labels[index],
        margin=tracker["margin"][index, 0],
        prediction=tracker["prediction"][index, 0],
    )


def read_evidence(
    experiment: Experiment, state: TrainState, resident: Resident, held_out: np.ndarray | None
) -> Evidence:
    """From the state, one pass for the features, and what `crossfit.cross_fit` returned.

    Where the tracker keeps no predictions, those of the final network stand for their mean. Every
    process of several calls this.
    """
    index, method = experiment.dataset.train_index, experiment.method
    tracked = read_tracked(experiment, state)
    table = fetch(state.table)
    rows = jax.tree.map(np.asarray, values({name: leaf[index] for name, leaf in table.items()}))
    network = evaluation_params(state), state.model_state, resident.images
    if "probs" in state.tracker:
        probs = fetch(state.tracker["probs"])[index]
    else:
        probs = experiment.predict(*network, index)
    diagnostics = method.diagnostics(rows, tracked.label)
    return Evidence(
        *tracked,
        probs=probs,
        held_out=held_out,
        features=experiment.features(*network, index[sampled(len(index))]),
        diagnostics={name: np.asarray(value) for name, value in diagnostics.items()},
    )


def judge(experiment: Experiment, evidence: Evidence) -> Verdict:
    """The verdict on every training label."""
    return judge_rows(
        evidence.label,
        evidence.probs,
        evidence.margin,
        evidence.held_out,
        evidence.features,
        experiment.dataset.class_names,
    )
