"""From what training left in the rows to a ranked list of wrong labels. True labels are used by
`summarise` alone.
"""

import csv
import pathlib
from typing import NamedTuple

import numpy as np


class LabelIssues(NamedTuple):
    """One entry per training row, in row order."""

    quality: np.ndarray  # [n] float, 0 bad .. 1 good
    # [n] int32, for a flagged row the class put in its place, else the model's own best
    suggested: np.ndarray
    is_issue: np.ndarray  # [n] bool


def quality(given: np.ndarray, margin: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Quality [n] of every label, 0 bad .. 1 good, without any true one: sigmoid(margin - (U + V) /
    2).

    U is the noise that the method puts on the given label and V the most that it puts elsewhere,
    both in [0, 1]: the running margin ranks, the noise model corrects it. The arguments are those
    of `find`.
    """
    on_given = noise[np.arange(len(given)), given]
    return 1 / (1 + np.exp(-(margin - (on_given - noise.min(axis=1)) / 2)))


def find(
    given: np.ndarray, margin: np.ndarray, probs: np.ndarray, noise: np.ndarray
) -> LabelIssues:
    """The verdict on every label, without any true one: its `quality`, whether it is flagged, a
    suggestion.

    The threshold is the model's own estimate of how many labels are wrong, and that many are
    flagged, worst first: the rows whose given label is more than half cancelled (U > 1/2) or, if
    they are more (u and v may not have grown yet, and some methods have none), the rows that the
    mean prediction of the last epochs contradicts.

    Args:
      given: int32 [n], the given labels.
      margin: [n], running mean over epochs of given logit minus largest other (tracker).
      probs: [n, K], mean training prediction of the last epochs (tracker), or that of the final
        network.
      noise: [n, K], the method's estimate s of given minus clean label (zeros if it models none).
    """
    rows = np.arange(len(given))
    on_given = np.eye(probs.shape[1], dtype=bool)[given]
    score = quality(given, margin, noise)
    best, best_other = probs.argmax(1), np.where(on_given, -np.inf, probs).argmax(1)
    is_issue = np.zeros(len(given), bool)
    estimated = max(np.sum(noise[rows, given] > 0.5), np.sum(best != given))
    is_issue[np.argsort(score, kind="stable")[:estimated]] = True
    return LabelIssues(score, np.where(is_issue, best_other, best).astype(np.int32), is_issue)


def worst_first(issues: LabelIssues) -> np.ndarray:
    """Row positions int [n] by rising quality."""
    return np.argsort(issues.quality, kind="stable")


def auroc(wrong: np.ndarray, score: np.ndarray) -> float | None:
    """Area under the ROC curve of `score` [n] for `wrong` bool [n]; None where all rows are of one
    kind.
    """
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(wrong, score)) if 0 < wrong.sum() < len(wrong) else None


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def summarise(
    given: np.ndarray, issues: LabelIssues, margin: np.ndarray, truth: np.ndarray | None
) -> dict:
    """The label-issue part of summary.json; what needs the truth is None where `truth` is None."""
    names = (
        "noise_rate_actual",
        "label_issue_auroc",
        "label_issue_auprc",
        "label_issue_f1",
        "label_issue_precision",
        "label_issue_recall",
        "margin_auroc",
        "label_accuracy_before",
        "label_accuracy_after",
    )
    summary = {"noise_rate_estimated": float(issues.is_issue.mean()), **dict.fromkeys(names)}
    if truth is None:
        return summary
    wrong, flagged = given != truth, issues.is_issue
    both = int(np.sum(wrong & flagged))
    corrected = np.where(flagged, issues.suggested, given)
    summary |= {
        "noise_rate_actual": float(wrong.mean()),
        "label_accuracy_before": float(np.mean(given == truth)),
        "label_accuracy_after": float(np.mean(corrected == truth)),
        "label_issue_auroc": auroc(wrong, 1 - issues.quality),
        "margin_auroc": auroc(wrong, -margin),
    }
    if wrong.any():
        from sklearn.metrics import average_precision_score

        summary |= {
            "label_issue_auprc": float(average_precision_score(wrong, 1 - issues.quality)),
            "label_issue_precision": _ratio(both, flagged.sum()),
            "label_issue_recall": _ratio(both, wrong.sum()),
            "label_issue_f1": _ratio(2 * both, flagged.sum() + wrong.sum()),
        }
    return summary


def write_csv(
    path: pathlib.Path,
    ids: np.ndarray,
    given: np.ndarray,
    issues: LabelIssues,
    class_names: tuple[str, ...],
    truth: np.ndarray | None,
) -> None:
    """label_issues.csv: one line per row, worst first, in cleanlab's column names, labels as class
    names.
    """
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(
            ["id", "given_label", "predicted_label", "label_quality", "is_label_issue"]
            + ([] if truth is None else ["true_label"])
        )
        for i in worst_first(issues):
            row = [
                ids[i],
                class_names[given[i]],
                class_names[issues.suggested[i]],
                f"{issues.quality[i]:.8g}",
                bool(issues.is_issue[i]),
            ]
            writer.writerow(row + ([] if truth is None else [class_names[truth[i]]]))
    temporary.replace(path)
