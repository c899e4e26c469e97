"""Writes the files of a finished run by arithmetic, for the tests of the report and of the
comparison.
"""

import copy
import csv
import hashlib
import json

import numpy as np

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
    """Writes config.json and summary.json, all that the comparison reads. `config`:
    {'optimizer.learning_rate': .1}.
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


def write_run(
    workdir,
    rows=300,
    num_classes=10,
    channels=1,
    size=8,
    known=True,
    sop=True,
    epochs=12,
    seed=0,
    names=None,
):
    """Writes a whole run folder: 40 % wrong labels, a score that finds nearly all of them.

    Returns:
        What the report should show: summary, given, truth, flagged, order (worst row first) and
          names.
    """
    rng = np.random.default_rng(seed)
    names = list(names or [f"class {k}" for k in range(num_classes)])
    truth = rng.integers(num_classes, size=rows)
    wrong = rng.random(rows) < 0.4
    given = np.where(
        wrong, (truth + rng.integers(1, num_classes, size=rows)) % num_classes, truth
    ).astype(np.int32)
    u_squared = np.where(wrong, rng.beta(8, 1.5, rows) * 1.1, 10.0 ** rng.uniform(-16, -2, rows))
    margin = np.where(wrong, rng.normal(-3, 2, rows), rng.normal(4, 2, rows))
    score = 1 / (1 + np.exp(margin / 2 - 4 * u_squared * sop))
    flagged = score > 0.5
    suggested = np.where(rng.random(rows) < 0.95, truth, given)
    order = np.argsort(-score)
    ids = np.arange(1000, 1000 + rows)

    caught = (flagged & wrong).sum()
    corrected = np.where(flagged, suggested, given)
    truth_based = {
        "noise_rate_actual": float(wrong.mean()),
        "label_issue_auroc": 0.9876,
        "label_issue_auprc": 0.9654,
        "label_issue_precision": float(caught / flagged.sum()),
        "label_issue_recall": float(caught / wrong.sum()),
        "label_issue_f1": float(2 * caught / (flagged.sum() + wrong.sum())),
        "label_accuracy_before": float(1 - wrong.mean()),
        "label_accuracy_after": float((corrected == truth).mean()),
        "margin_auroc": 0.9321,
    }
    summary = {
        "epochs": epochs,
        "noise_rate_estimated": 0.3912 if sop else None,
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
        "rows_at_bound": 0.1234 if sop else None,
        "class_names": names,
        **(truth_based if known else dict.fromkeys(truth_based)),
    }
    write_summary(
        workdir, {"seed": seed, "method.name": "sop" if sop else "ce", "epochs": epochs}, **summary
    )
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
                record |= {
                    "train_accuracy_true": 0.1 + 0.8 * rise,
                    "label_issue_auroc": 0.5 + 0.48 * rise,
                }
            file.write(json.dumps(record) + "\n")

    arrays = {
        "id": ids,
        "given_label": given,
        "sha256": hashlib.sha256(given.astype("<i4").tobytes()).hexdigest(),
    }
    arrays |= {"true_label": truth.astype(np.int32)} if known else {}
    np.savez(
        workdir / "labels.npz", train_rows=np.arange(rows), validation_rows=np.arange(0), **arrays
    )
    probabilities = np.full((rows, num_classes), 1 / num_classes, np.float32)
    np.savez(
        workdir / "predictions.npz",
        train_id=ids,
        train_pred_probs=probabilities,
        test_id=np.arange(5),
        test_pred_probs=probabilities[:5],
        train_given_label=given,
        train_margin=margin.astype(np.float32),
        noise_score=score.astype(np.float32),
        **({"u_squared": u_squared.astype(np.float32)} if sop else {}),
    )
    with (workdir / "label_issues.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        header = ["id", "given_label", "predicted_label", "label_quality", "is_label_issue"]
        writer.writerow(header + ["true_label"] * known)
        for i in order:
            row = [
                ids[i],
                names[given[i]],
                names[suggested[i]],
                f"{1 - score[i]:.6f}",
                bool(flagged[i]),
            ]
            writer.writerow(row + [names[truth[i]]] * known)
    worst = order[:100]
    grid = np.linspace(0, 200, size * size).reshape(1, size, size, 1)
    images = (grid + rng.integers(0, 55, (len(worst), size, size, channels))).astype(np.uint8)
    np.savez(workdir / "gallery.npz", id=ids[worst], image=images)
    return {
        "summary": summary,
        "given": given,
        "truth": truth,
        "flagged": flagged,
        "order": order,
        "names": names,
    }
