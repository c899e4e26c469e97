"""Writes the figures of finished runs and studies, and where they ran, into one small JSON file.

python benchmarks/collect.py RUN_DIR... --out=benchmarks/results/NAME.json [--note=TEXT]
"""

import argparse
import json
import os
import pathlib
import re

FIGURES = (
    "method",
    "dataset",
    "seed",
    "epochs",
    "noise_rate_actual",
    "noise_rate_estimated",
    "test_accuracy_last",
    "test_accuracy_best",
    "best_epoch",
    "label_issue_auroc",
    "label_issue_auprc",
    "label_issue_f1",
    "margin_auroc",
    "rows_at_bound",
    "label_accuracy_before",
    "label_accuracy_after",
    "images_per_second",
    "compile_seconds",
    "wall_seconds",
)


def rounded(value: object) -> object:
    """A JSON value with its floats to six significant digits, which keeps the files short."""
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def collect(folder: pathlib.Path) -> dict:
    """A run's FIGURES, or the whole summary of a theory task's study.

    Folders are cut to their names: a path says more about the machine than about the run.
    """
    summary = json.loads((folder / "summary.json").read_text())
    run = json.loads((folder / "run.json").read_text())
    command = re.sub(r"=(?!configs/)\S*/([^/\s]+)", r"=.../\1", run["command"])
    command = re.sub(r"^python \S*sop_jax/main.py", "python -m sop_jax.main", command)
    figures = rounded(summary) if "task" in summary else {name: summary[name] for name in FIGURES}
    return {
        "command": command,
        "git_commit": run["git_commit"],
        "started": run["started"],
        "devices": run["devices"],
        "cpu_count": os.cpu_count(),
        "versions": run["versions"],
        **figures,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=pathlib.Path)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--note", default="")
    arguments = parser.parse_args()
    result = {"note": arguments.note, "runs": [collect(folder) for folder in arguments.folders]}
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
