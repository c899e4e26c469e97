"""From what training left in the rows to a ranked list of wrong labels.

True labels are used by `summarise` and `write_csv` alone.
"""

import csv
import io
import pathlib
import re
from typing import NamedTuple

import numpy as np
from scipy.special import expit

from sop_jax.files import write_bytes

CSV_COLUMNS = (
    "id",
    "given_label",
    "predicted_label",
    "label_quality",
    "is_label_issue",
    "suggestion_confidence",
    "apply_suggestion",
)
# What a spreadsheet takes for the start of a formula (OWASP, "CSV Injection"), full width as well.
_FORMULA = re.compile("'*[=+\\-@\t\r\n＝＋－＠]")


class LabelIssues(NamedTuple):
    """The verdict on every training label, in row order."""

    quality: np.ndarray  # float [n], 0 bad .. 1 good
    suggested_label: np.ndarray  # int32 [n]; where not flagged, the model's own best
    is_issue: np.ndarray  # bool [n]


def quality(label: np.ndarray, margin: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Quality [n] of every label, 0 bad .. 1 good, without any true one.

    It is sigmoid(margin - (U + V) / 2), where U is the noise that the method puts on the given
    label and V the most that it puts elsewhere, both in [0, 1]: the running margin ranks, the noise
    model corrects it. The arguments are those of `find`.
    """
    on_given = noise[np.arange(len(label)), label]
    return expit(margin - (on_given - noise.min(axis=1)) / 2)


def find(
    label: np.ndarray, margin: np.ndarray, probs: np.ndarray, noise: np.ndarray
) -> LabelIssues:
    """The verdict on every label: its `quality`, whether it is flagged, a suggestion.

    No true label is used. The threshold is the model's own estimate of how many labels are wrong,
    and that many are flagged, worst first: the labels that are more than half cancelled (U > 1/2)
    or, if they are more (the noise model may not have grown yet, and some methods have none), those
    that the mean prediction of the last epochs contradicts.

    Args:
      label: int32 [n], the given labels.
      margin: float [n], running mean over epochs of given logit minus largest other (tracker).
      probs: float [n, K], mean training prediction of the last epochs (tracker), or that of the
        final network.
      noise: float [n, K], the method's estimate s of given minus clean label (zeros if it models
        none).
    """
    index = np.arange(len(label))
    on_given = np.eye(probs.shape[1], dtype=bool)[label]
    label_quality = quality(label, margin, noise)
    best, best_other = probs.argmax(1), np.where(on_given, -np.inf, probs).argmax(1)
    is_issue = np.zeros(len(label), bool)
    estimated = max(np.sum(noise[index, label] > 0.5), np.sum(best != label))
    is_issue[np.argsort(label_quality, kind="stable")[:estimated]] = True
    return LabelIssues(
        label_quality, np.where(is_issue, best_other, best).astype(np.int32), is_issue
    )


def worst_first(issues: LabelIssues) -> np.ndarray:
    """Positions int [n] by rising quality."""
    return np.argsort(issues.quality, kind="stable")


def auroc(wrong: np.ndarray, score: np.ndarray) -> float | None:
    """Area under the ROC curve of `score` float [n] for `wrong` bool [n].

    None where all labels are right, or all wrong.
    """
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(wrong, score)) if 0 < wrong.sum() < len(wrong) else None


def summarise(
    label: np.ndarray, issues: LabelIssues, margin: np.ndarray, true_label: np.ndarray | None
) -> dict[str, float | None]:
    """The label-issue part of summary.json.

    What needs the truth is None where `true_label` is None.

    Args:
      label: int32 [n], the given labels.
      issues: what `find` returned.
      margin: float [n], as in `find`.
      true_label: int32 [n] where known.
    """
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
    if true_label is None:
        return summary
    wrong, flagged = label != true_label, issues.is_issue
    both = int(np.sum(wrong & flagged))
    after = np.where(flagged, issues.suggested_label, label)
    summary |= {
        "noise_rate_actual": float(wrong.mean()),
        "label_accuracy_before": float(np.mean(label == true_label)),
        "label_accuracy_after": float(np.mean(after == true_label)),
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
    label: np.ndarray,
    issues: LabelIssues,
    class_names: tuple[str, ...],
    true_label: np.ndarray | None,
) -> None:
    """Writes label_issues.csv: one line a training example, worst first, UTF-8.

    The columns are cleanlab's (`predicted_label` is the suggestion), labels as class names, and
    `true_label` where it is known. An id or a name that a spreadsheet would run as a formula is
    written with an apostrophe before it, see `to_cell`; integer ids stand as they are.

    Args:
      path: the file, written whole or not at all.
      ids: int or str [n].
      label: int32 [n], the given labels.
      issues: what `find` returned.
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


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None
