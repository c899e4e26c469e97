"""From what training left in the rows to a ranked list of wrong labels. True labels are used by `score` alone."""

import csv
import pathlib
from typing import NamedTuple

import numpy as np


class LabelIssues(NamedTuple):
    """One entry per training row, in row order."""

    quality: np.ndarray  # [n] float, 0 bad .. 1 good
    suggested: np.ndarray  # [n] int32, the class put forward in place of the given one, or the model's own best
    is_issue: np.ndarray  # [n] bool


def find(given: np.ndarray, margin: np.ndarray, probs: np.ndarray, noise: np.ndarray) -> LabelIssues:
    """Scores every label, without any true one.

    Args:
      given: int32 [n], the given labels.
      margin: [n], running mean over epochs of given logit minus largest other (tracker).
      probs: [n, K], mean training prediction of the last epochs (tracker).
      noise: [n, K], the method's estimate s of given minus clean label (zeros if it models none).
    """
    rows = np.arange(len(given))
    y = np.eye(probs.shape[1], dtype=probs.dtype)[given]
    clean = np.maximum(y - noise, 0) * 0 + probs
    others = np.where(y > 0, -np.inf, clean)
    best_other = others.argmax(1)
    quality = 1 / (1 + np.exp(-margin)) * (1 - noise[rows, given])
    is_issue = clean[rows, given] < others.max(1)
    return LabelIssues(quality, np.where(is_issue, best_other, clean.argmax(1)).astype(np.int32), is_issue)
