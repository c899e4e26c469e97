"""From what training left in the rows to a verdict: a ranked list, a rate, and how sure both are.

True labels are only copied, by `write_csv`.
"""

import csv
import io
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import expit, log_softmax, softmax

from sop_jax.doubts import beyond_belief, disagree, underfits, warnings
from sop_jax.files import write_bytes
from sop_jax.neighbours import NEIGHBOURS, votes
from sop_jax.noise_model import (
    NoiseModel,
    explained,
    fit,
    fit_own,
    log_posterior,
    log_posterior_of_own,
    odds_of_given,
    pull_for,
)

CSV_COLUMNS = (
    "id",
    "given_label",
    "predicted_label",
    "label_quality",
    "is_label_issue",
    "suggestion_confidence",
    "apply_suggestion",
)
# A suggestion is marked to be taken unseen from this probability on, where the network itself, for
# all that it was trained on the given label, predicted the suggested one on the average over
# training, and the neighbours' labels are that one more than any other. None is where the network
# underfits (then clean labels look as wrong as wrong ones), nor in a class flagged beyond belief.
SAFE = 0.9
INFORMED = 0.1  # share of the labels' entropy that a source has to explain to be asked at all
LEAST_RATE = 0.01  # below which nothing is taken unseen: the few that stand out may be right
BEND = 12.0  # log odds, 6 in a million
MOST_ROWS = 50_000  # that models are fitted to; more are read with the same models
_CHUNK = 50_000  # rows read at a time
HELD_OUT, NEIGHBOUR = "held-out networks", "neighbours"
# What a spreadsheet takes for the start of a formula (OWASP, "CSV Injection"), full width as well.
_FORMULA = re.compile("'*[=+\\-@\t\r\n＝＋－＠]")


class LabelIssues(NamedTuple):
    """What is said of every training label, in row order."""

    quality: np.ndarray  # float [n], probability that the given label is right
    suggested_label: np.ndarray  # int32 [n], the most probable class, another one where flagged
    suggestion_confidence: np.ndarray  # float [n], probability that the suggested label is right
    is_issue: np.ndarray  # bool [n], quality < 1/2
    apply_suggestion: np.ndarray  # bool [n], whether it is likely enough to be taken unseen


class Verdict(NamedTuple):
    """The labels one by one, and together."""

    issues: LabelIssues
    noise_rate: float  # share of wrong labels
    noise_rate_low: float  # the interval spans the estimates and 95 % of sampling on either side
    noise_rate_high: float
    estimates: dict[str, float]  # the share as each source sees it
    class_noise_rate: np.ndarray  # float [K], expected share wrong in each GIVEN class; nan: empty
    transition: np.ndarray  # float [K, K], P(given | true)
    held_out_accuracy: float | None  # on given labels, of networks that never saw them
    warnings: tuple[str, ...]  # for the user, a sentence or two each


def sampled(rows: int) -> np.ndarray:
    """Positions int [min(rows, MOST_ROWS)], evenly spaced: those that models are fitted to."""
    return np.linspace(0, rows - 1, min(rows, MOST_ROWS)).round().astype(np.int64)


def judge_rows(
    label: np.ndarray,
    probs: np.ndarray,
    margin: np.ndarray,
    held_out: np.ndarray | None,
    features: np.ndarray,
    class_names: Sequence[str] | None = None,
) -> Verdict:
    """The verdict on n labels of K classes. No true label is used, and nothing is drawn.

    Args:
      label: int32 [n], the given labels.
      probs: float [n, K], mean training prediction over all epochs.
      margin: float [n], mean over epochs of given logit minus largest other.
      held_out: float [n, K], predictions by networks that were not trained on the row; None where
        there are none.
      features: float [m, d], of the rows at `sampled(n)`.
      class_names: the K names, for the warnings; their numbers, if not given.
    """
    rows, num_classes = probs.shape
    some = sampled(rows)
    estimates, models, informed = {}, {}, []
    near = votes(features, label[some], num_classes)
    count = min(NEIGHBOURS, len(some) - 1)
    sources = {NEIGHBOUR: np.log(near + 0.5 / count)}
    if held_out is not None:
        sources[HELD_OUT] = _held_out_log_probs(held_out[some])
    for name, log_probs in sources.items():
        models[name] = fit(log_probs, label[some])
        estimates[name] = _share_wrong(models[name], log_probs, label[some])
        if explained(models[name], log_probs, label[some]) >= INFORMED:
            informed.append(name)
    # Where nobody has learnt anything, nothing is flagged, and the warnings say why.
    chosen = max(informed or estimates, key=estimates.get)
    rate = max(estimates[chosen] if informed else 0.0, 0.1 / rows)
    transition = models[chosen].transition

    own_log = _own_log_probs(label[some], probs[some], margin[some])
    own = fit_own(own_log, label[some], transition, rate)
    # Neighbours that see clearly less noise than held-out networks do: the network has memorised
    # the rest, and its own predictions are believed only so far.
    trust = 1.0
    if HELD_OUT in informed and disagree(estimates[NEIGHBOUR], estimates[HELD_OUT]):
        trust = min(1.0, estimates[NEIGHBOUR] / estimates[HELD_OUT])
    log_odds, other, share = np.empty(rows), np.empty(rows, np.int32), np.empty(rows)
    for start in range(0, rows, _CHUNK):
        part = slice(start, start + _CHUNK)
        logits = log_posterior_of_own(
            own, _own_log_probs(label[part], probs[part], margin[part]), label[part], transition
        )
        if trust < 1:
            seen = _held_out_log_probs(held_out[part])
            honest = log_posterior(models[HELD_OUT], seen, label[part])
            logits = trust * log_softmax(logits, axis=1) + (1 - trust) * log_softmax(honest, axis=1)
        log_odds[part], other[part], share[part] = _of_rows(logits, label[part])
    issues = _issues(label, log_odds - pull_for(log_odds, rate), other, share)
    agreement = None if held_out is None else float(np.mean(held_out.argmax(1) == label))
    safe = issues.apply_suggestion & (probs.argmax(1) == issues.suggested_label)
    safe[some] &= near.argmax(1) == issues.suggested_label[some]
    safe &= ~beyond_belief(label, issues.is_issue, num_classes)[label]
    trusted = rate >= LEAST_RATE and not underfits(agreement, rate)
    issues = issues._replace(apply_suggestion=safe & trusted)
    lowest = min(rate, *estimates.values())  # rate is 0 where nobody has learnt anything
    if underfits(agreement, rate):
        # Both may take hard images for wrong labels; what the network has learnt of its own rows
        # errs to the other side.
        lowest = min(lowest, _share_wrong(fit(own_log, label[some]), own_log, label[some]))
    error = 1.96 * np.sqrt(rate * (1 - rate) / rows)
    wrong = np.bincount(label, weights=1 - issues.quality, minlength=num_classes)
    counts = np.bincount(label, minlength=num_classes)
    names = [str(k) for k in range(num_classes)] if class_names is None else class_names
    return Verdict(
        issues=issues,
        noise_rate=rate,
        noise_rate_low=float(max(0.0, lowest - error)),
        noise_rate_high=float(min(1.0, max(estimates.values()) + error)),
        estimates=estimates,
        class_noise_rate=np.where(counts > 0, wrong / np.maximum(counts, 1), np.nan),
        transition=transition,
        held_out_accuracy=agreement,
        warnings=warnings(label, issues.is_issue, rate, estimates, informed, agreement, names),
    )


def _share_wrong(model: NoiseModel, log_probs: np.ndarray, label: np.ndarray) -> float:
    """The share of wrong labels under a model."""
    log_odds = odds_of_given(log_posterior(model, log_probs, label), label)
    return float(np.mean(expit(-log_odds)))


def _held_out_log_probs(held_out: np.ndarray) -> np.ndarray:
    """Logarithms [n, K] of held-out predictions, of which 1e-4 and less say the same."""
    return np.log(held_out + 1e-4)


def _own_log_probs(label: np.ndarray, probs: np.ndarray, margin: np.ndarray) -> np.ndarray:
    """Log of the mean training predictions [n, K], the given label's from both of its margins.

    The mean probability and the mean logit each lose what the other keeps: one the certainty beyond
    a few nines, the other the epochs of doubt.
    """
    rows = np.arange(len(label))
    log_probs = np.log(np.asarray(probs, np.float64) + 1e-6)
    others = log_probs.copy()
    others[rows, label] = -np.inf
    largest = others.max(axis=1)
    log_probs[rows, label] = largest + (log_probs[rows, label] - largest + margin) / 2
    return log_probs


def _of_rows(logits: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log odds of the given label, the best other class, and its share among the others; [n]."""
    log_odds = odds_of_given(logits, label)
    others = logits.copy()
    others[np.arange(len(label)), label] = -np.inf
    best = others.argmax(axis=1)
    return log_odds, best, softmax(others, axis=1)[np.arange(len(label)), best]


def _issues(
    label: np.ndarray, log_odds: np.ndarray, other: np.ndarray, share: np.ndarray
) -> LabelIssues:
    # Beyond BEND the log odds grow as their logarithm only: the ranking goes on, and 1 - quality
    # holds it in floating point where log odds of hundreds would all be 1.
    beyond = np.maximum(np.abs(log_odds) - BEND, 0)
    quality = expit(np.sign(log_odds) * (np.minimum(np.abs(log_odds), BEND) + np.log1p(beyond)))
    is_issue = quality < 0.5
    confidence = np.where(is_issue, (1 - quality) * share, quality)
    return LabelIssues(
        quality=quality,
        suggested_label=np.where(is_issue, other, label).astype(np.int32),
        suggestion_confidence=confidence,
        is_issue=is_issue,
        apply_suggestion=is_issue & (confidence >= SAFE),
    )


def worst_first(issues: LabelIssues) -> np.ndarray:
    """Positions int [n] by rising quality."""
    return np.argsort(issues.quality, kind="stable")


def write_csv(
    path: pathlib.Path,
    ids: np.ndarray,
    label: np.ndarray,
    issues: LabelIssues,
    class_names: tuple[str, ...],
    true_label: np.ndarray | None,
) -> None:
    """Writes label_issues.csv: one line a training example, worst first, UTF-8.

    The first five columns are cleanlab's (`predicted_label` is the suggestion), labels as class
    names; `true_label` is the last where it is known. An id or a name that a spreadsheet would run
    as a formula is written with an apostrophe before it, see `to_cell`; integer ids stand as they
    are.

    Args:
      path: the file, written whole or not at all.
      ids: int or str [n].
      label: int32 [n], the given labels.
      issues: of the verdict.
      class_names: the K names.
      true_label: int32 [n] where known.
    """
    columns = list(CSV_COLUMNS)
    if true_label is not None:
        columns.append("true_label")
    names = [to_cell(name) for name in class_names]
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    for i in worst_first(issues):
        cells = [
            to_cell(ids[i]) if isinstance(ids[i], str) else ids[i],
            names[label[i]],
            names[issues.suggested_label[i]],
            f"{issues.quality[i]:.8g}",
            bool(issues.is_issue[i]),
            f"{issues.suggestion_confidence[i]:.4g}",
            bool(issues.apply_suggestion[i]),
        ]
        if true_label is not None:
            cells.append(names[true_label[i]])
        writer.writerow(cells)
    write_bytes(path, text.getvalue().encode("utf-8"))


def to_cell(text: str) -> str:
    """The text as label_issues.csv holds it: never the start of a spreadsheet's formula.

    A text that begins with = + - @, their full-width forms, a tab or a line break gets an
    apostrophe before it (OWASP, "CSV Injection"), and so does one that begins with apostrophes and
    then one of these, which is why `from_cell` returns every text exactly.
    """
    return f"'{text}" if _FORMULA.match(text) else text


def from_cell(cell: str) -> str:
    """The text that `to_cell` was given."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
