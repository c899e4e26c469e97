"""A verdict against the truth, where that is known: areas, F1, calibration, label accuracy."""

import numpy as np

from sop_jax.label_issues import Verdict


def auroc(wrong: np.ndarray, score: np.ndarray) -> float | None:
    """Area under the ROC curve of `score` float [n] for `wrong` bool [n].

    None where all labels are right, or all wrong.
    """
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(wrong, score)) if 0 < wrong.sum() < len(wrong) else None


def summarise(
    label: np.ndarray, verdict: Verdict, margin: np.ndarray, true_label: np.ndarray | None
) -> dict:
    """The label-issue part of summary.json.

    What needs the truth is None where `true_label` is None.

    Args:
      label: int32 [n], the given labels.
      margin: float [n], the running margins.
      true_label: int32 [n] where known.
    """
    issues = verdict.issues
    names = (
        "noise_rate_actual",
        "label_issue_auroc",
        "label_issue_auprc",
        "label_issue_f1",
        "label_issue_precision",
        "label_issue_recall",
        "expected_calibration_error",
        "margin_auroc",
        "label_accuracy_before",
        "label_accuracy_after",
    )
    summary = {
        "noise_rate_estimated": verdict.noise_rate,
        "noise_rate_low": verdict.noise_rate_low,
        "noise_rate_high": verdict.noise_rate_high,
        "noise_rate_estimates": verdict.estimates,
        "noise_rate_per_class": [
            None if np.isnan(rate) else float(rate) for rate in verdict.class_noise_rate
        ],
        "transition_matrix": verdict.transition.tolist(),
        "held_out_accuracy": verdict.held_out_accuracy,
        "warnings": list(verdict.warnings),
        "label_issues_flagged": int(issues.is_issue.sum()),
        "suggestions_applied": int(issues.apply_suggestion.sum()),
        "test_labels_doubtful": true_label is None,
        **dict.fromkeys(names),
    }
    if true_label is None:
        return summary
    wrong, flagged = label != true_label, issues.is_issue
    both = int(np.sum(wrong & flagged))
    after = np.where(issues.apply_suggestion, issues.suggested_label, label)
    summary |= {
        "noise_rate_actual": float(wrong.mean()),
        "label_accuracy_before": float(np.mean(label == true_label)),
        "label_accuracy_after": float(np.mean(after == true_label)),
        "label_issue_auroc": auroc(wrong, 1 - issues.quality),
        "expected_calibration_error": calibration_error(issues.quality, ~wrong),
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


def calibration_error(probability: np.ndarray, happened: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error of probabilities [n] of what happened, bool [n].

    It is the mean over rows of |mean probability - share that happened| in bins of equal width
    (Guo et al. 2017).
    """
    place = np.minimum((probability * bins).astype(int), bins - 1)
    gaps = np.bincount(place, probability - happened, minlength=bins)
    return float(np.abs(gaps).sum() / len(probability))


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None
