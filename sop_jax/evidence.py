"""What training left of each training row: the evidence for the verdict on its label."""

from typing import NamedTuple

import jax
import numpy as np

from sop_jax.evaluate import evaluation_params
from sop_jax.experiment import Experiment
from sop_jax.label_issues import LabelIssues, find, quality
from sop_jax.mesh import fetch, put, replicated
from sop_jax.state import TrainState
from sop_jax.table import values


class Evidence(NamedTuple):
    """Of the n training rows, in row order."""

    label: np.ndarray  # int32 [n], the given labels
    margin: np.ndarray  # float32 [n], mean over epochs of given logit minus largest other
    prediction: np.ndarray  # int32 [n], the latest
    probs: np.ndarray | None  # float32 [n, K], mean of the last epochs, where the tracker keeps it
    noise: np.ndarray  # [n, K], the method's estimate s of given minus clean label
    diagnostics: dict[str, np.ndarray]  # {name: [n]}, the method's own

    @property
    def quality(self) -> np.ndarray:
        """[n], see `label_issues.quality`."""
        return quality(self.label, self.margin, self.noise)


def read_evidence(experiment: Experiment, state: TrainState) -> Evidence:
    """From the state alone. Every process of several calls this: they gather the rows together."""
    index, method = experiment.dataset.train_index, experiment.method
    label = experiment.dataset.train.labels[index]
    tracker, table = fetch((state.tracker, state.table))
    rows = jax.tree.map(np.asarray, values({name: leaf[index] for name, leaf in table.items()}))
    diagnostics = method.diagnostics(rows, label)
    return Evidence(
        label=label,
        margin=tracker["margin"][index, 0],
        prediction=tracker["prediction"][index, 0],
        probs=tracker["probs"][index] if "probs" in tracker else None,
        noise=np.asarray(method.noise_estimate(rows, label, experiment.num_classes)),
        diagnostics={name: np.asarray(value) for name, value in diagnostics.items()},
    )


def judge(
    experiment: Experiment, state: TrainState, evidence: Evidence
) -> tuple[LabelIssues, np.ndarray]:
    """The verdict on every training label, and the probabilities [n, K] that it rests on.

    These are the tracker's mean or, where it keeps none, the final network's.
    """
    probs = evidence.probs
    if probs is None:
        data = experiment.dataset
        images = put(data.train.images, replicated(experiment.mesh))
        probs = experiment.predict(
            evaluation_params(state), state.model_state, images, data.train_index
        )
    return find(evidence.label, evidence.margin, probs, evidence.noise), probs
