"""Writes the files of a finished run by arithmetic, for the tests of the page and the table."""

import copy
import csv
import hashlib
import json

import numpy as np

from sop_jax.label_issues import CSV_COLUMNS, to_cell

VERDICT = (  # keys of summary.json that older runs lack
    "noise_rate_low",
    "noise_rate_high",
    "noise_rate_estimates",
    "noise_rate_per_class",
    "transition_matrix",
    "held_out_accuracy",
    "warnings",
    "label_issues_flagged",
    "suggestions_applied",
    "test_labels_doubtful",
    "expected_calibration_error",
)
CONFIG = {
    "seed": 0,
    "epochs": 12,
    "batch_size": 64,
    "data": {"name": "digits", "dir": None},
    "noise": {"kind": "symmetric_exclusive", "rate": 0.4, "labels": None, "seed": None},
    "model": {"name": "small_resnet", "width": 16},
    "method": {"name": "sop", "variant": "paper"},
    "optimizer": {"learning_rate": 0.02, "schedule": "cosine"},
    "compilation_cache": None,
}


def write_summary(workdir, config=None, **summary):
    """Writes config.json and summary.json, all that the comparison reads.

    Args:
      config: the fields in which it departs from CONFIG, {'optimizer.learning_rate': 0.1}.
    """
    full = copy.deepcopy(CONFIG)
    for key, value in (config or {}).items():
        *parents, leaf = key.split(".")
        node = full
        for parent in parents:
            node = node[parent]
        node[leaf] = value
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "config.json").write_text(json.dumps(full))
    named = {
        "method": full["method"]["name"],
        "dataset": full["data"]["name"],
        "seed": full["seed"],
    }
    (workdir / "summary.json").write_text(json.dumps(named | summary))


def write_list(path, ids, quality, flagged, apply, confidence, **labels):
    """Writes label_issues.csv, worst first; `labels`: given, predicted and perhaps true names."""
    columns = list(CSV_COLUMNS) + ["true_label"] * ("true" in labels)
    names = {key: [to_cell(name) for name in values] for key, values in labels.items()}
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for i in np.argsort(quality, kind="stable"):
            cells = [ids[i], names["given"][i], names["predicted"][i], f"{quality[i]:.8g}"]
            cells += [flagged[i], f"{confidence[i]:.8g}", apply[i]]
            writer.writerow(cells + [names["true"][i]] if "true" in labels else cells)


def make_old(workdir):
    """Makes a run folder one from before suggestions were graded and quality was a probability."""
    path = workdir / "label_issues.csv"
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(line[:5] + line[7:] for line in lines)
    summary = json.loads((workdir / "summary.json").read_text())
    kept = {key: value for key, value in summary.items() if key not in VERDICT}
    (workdir / "summary.json").write_text(json.dumps(kept))
    epochs = (workdir / "metrics.jsonl").read_text()
    (workdir / "metrics.jsonl").write_text(epochs.replace("margin_auroc", "label_issue_auroc"))


def write_run(
    workdir,
    count=300,
    num_classes=10,
    channels=1,
    size=8,
    known=True,
    noise_model=True,
    epochs=12,
    seed=0,
    names=None,
    warnings=(),
):
    """Writes a whole run folder: 40 % wrong labels, a score that finds nearly all of them.

    Args:
      known: whether the true labels are.
      noise_model: whether the method has one, which it shows in the diagnostic `strength`.

    Returns:
      What the report should show: summary, label, suggested_label, true_label, quality, flagged,
      apply, confidence, order (worst label first) and names.
    """
    rng = np.random.default_rng(seed)
    names = list(names or [f"class {k}" for k in range(num_classes)])
    true_label = rng.integers(num_classes, size=count)
    wrong = rng.random(count) < 0.4
    other_label = (true_label + rng.integers(1, num_classes, size=count)) % num_classes
    label = np.where(wrong, other_label, true_label).astype(np.int32)
    strength = np.where(wrong, rng.beta(8, 1.5, count) * 1.1, 10.0 ** rng.uniform(-16, -2, count))
    margin = np.where(wrong, rng.normal(-3, 2, count), rng.normal(4, 2, count))
    score = 1 / (1 + np.exp(margin / 2 - 4 * strength * noise_model))
    flagged = score > 0.5
    found = wrong & (rng.random(count) < 0.95)
    other_label = np.where(found, true_label, (label + 1) % num_classes)
    suggested_label = np.where(flagged, other_label, label)
    quality = 1 - score
    confidence = np.where(flagged, 0.98 * score, quality)
    apply = flagged & (confidence >= 0.9)
    order = np.argsort(-score)
    ids = np.arange(1000, 1000 + count)

    caught = (flagged & wrong).sum()
    after = np.where(apply, suggested_label, label)
    pairs = np.zeros((num_classes, num_classes))
    np.add.at(pairs, (np.where(flagged, suggested_label, label), label), 1)
    truth_based = {
        "noise_rate_actual": float(wrong.mean()),
        "label_issue_auroc": 0.9876,
        "label_issue_auprc": 0.9654,
        "label_issue_precision": float(caught / flagged.sum()),
        "label_issue_recall": float(caught / wrong.sum()),
        "label_issue_f1": float(2 * caught / (flagged.sum() + wrong.sum())),
        "label_accuracy_before": float(1 - wrong.mean()),
        "label_accuracy_after": float((after == true_label).mean()),
        "expected_calibration_error": 0.0123,
        "margin_auroc": 0.9321,
    }
    summary = {
        "epochs": epochs,
        "noise_rate_estimated": 0.3912,
        "noise_rate_low": 0.3523,
        "noise_rate_high": 0.4234,
        "noise_rate_estimates": {"held-out networks": 0.3912, "neighbours": 0.3645},
        "noise_rate_per_class": [
            float(score[label == k].mean()) if np.any(label == k) else None
            for k in range(num_classes)
        ],
        "transition_matrix": (
            (pairs + np.eye(num_classes)) / (pairs.sum(1, keepdims=True) + 1)
        ).tolist(),
        "held_out_accuracy": 0.58,
        "warnings": list(warnings),
        "label_issues_flagged": int(flagged.sum()),
        "suggestions_applied": int(apply.sum()),
        "test_labels_doubtful": not known,
        "test_accuracy_last": 0.9741,
        "test_accuracy_best": 0.9823,
        "best_epoch": 9,
        "validation_accuracy": None,
        "test_accuracy_at_best_validation": None,
        "test_top5_last": 0.999,
        "test_accuracy_per_class": [0.9 + 0.1 * k / num_classes for k in range(num_classes)],
        "images_per_second": 12345.6,
        "step_seconds_median": 0.004,
        "compile_seconds": 3.2,
        "wall_seconds": 14.1,
        "class_names": names,
        **(truth_based if known else dict.fromkeys(truth_based)),
    }
    method = "sop" if noise_model else "ce"
    config = {"seed": seed, "method.name": method, "epochs": epochs}
    write_summary(workdir, config, **summary)
    run = {
        "versions": {"jax": "0.10.2", "numpy": np.__version__},
        "devices": ["cpu:0"],
        "process_count": 1,
        "git_commit": "abc1234",
        "seed": seed,
        "command": "python -m sop_jax.main --config=configs/digits_sop.py",
        "started": "2026-08-01T10:20:30",
    }
    (workdir / "run.json").write_text(json.dumps(run))
    with (workdir / "metrics.jsonl").open("w") as file:
        for epoch in range(1, epochs + 1):
            rise = 1 - np.exp(-epoch / (epochs / 6))
            record = {
                "epoch": epoch,
                "step": epoch * 21,
                "learning_rate": 0.01 * (1 + np.cos(np.pi * epoch / epochs)),
                "train_loss": 0.4 + 2 * (1 - rise),
                "train_accuracy": 0.1 + 0.52 * rise,
                "test_accuracy": 0.1 + 0.87 * rise if epoch % 2 == 0 else None,
                "validation_accuracy": None,
                "images_per_second": 12345.6,
                "seconds": 0.1,
            }
            if known:
                record["train_accuracy_true"] = 0.1 + 0.8 * rise
                record["margin_auroc"] = 0.5 + 0.48 * rise
            file.write(json.dumps(record) + "\n")

    arrays = {
        "id": ids,
        "given_label": label,
        "sha256": hashlib.sha256(label.astype("<i4").tobytes()).hexdigest(),
    }
    arrays |= {"true_label": true_label.astype(np.int32)} if known else {}
    np.savez(
        workdir / "labels.npz", train_rows=np.arange(count), validation_rows=np.arange(0), **arrays
    )
    probabilities = np.full((count, num_classes), 1 / num_classes, np.float32)
    np.savez(
        workdir / "predictions.npz",
        train_id=ids,
        train_pred_probs=probabilities,
        held_out_pred_probs=probabilities,
        test_id=np.arange(5),
        test_pred_probs=probabilities[:5],
        train_given_label=label,
        train_margin=margin.astype(np.float32),
        noise_score=score.astype(np.float32),
        **({"diagnostic_strength": strength.astype(np.float32)} if noise_model else {}),
    )
    numbers = {"given": label, "predicted": suggested_label}
    numbers |= {"true": true_label} if known else {}
    labels = {key: [names[k] for k in values] for key, values in numbers.items()}
    path = workdir / "label_issues.csv"
    write_list(path, ids, quality, flagged, apply, confidence, **labels)
    worst = order[:100]
    grid = np.linspace(0, 200, size * size).reshape(1, size, size, 1)
    images = (grid + rng.integers(0, 55, (len(worst), size, size, channels))).astype(np.uint8)
    np.savez(workdir / "gallery.npz", id=ids[worst], image=images)
    return {
        "summary": summary,
        "label": label,
        "suggested_label": suggested_label,
        "true_label": true_label,
        "quality": quality,
        "apply": apply,
        "confidence": confidence,
        "flagged": flagged,
        "order": order,
        "names": names,
    }
