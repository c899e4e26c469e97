"""Writes the figures of finished runs and studies into one small JSON file.

Command, device and versions stand beside them.

    python benchmarks/collect.py RUN_DIR... --out=benchmarks/results/NAME.json [--note=TEXT]
"""

import argparse
import json
import os
import pathlib
import re
import sys

from sop_jax.errors import UserError
from sop_jax.exit_status import exit_status
from sop_jax.files import read_json, write_text

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

    Raises:
      UserError: the folder is not that of a finished run, or a file in it is damaged.
    """
    summary, run = _read(folder / "summary.json"), _read(folder / "run.json")
    names = summary if "task" in summary else FIGURES
    facts = ("git_commit", "started", "devices", "versions")
    for path, content, wanted in (
        (folder / "summary.json", summary, names),
        (folder / "run.json", run, ("command", *facts)),
    ):
        missing = [name for name in wanted if name not in content]
        if missing:
            raise UserError(f"{path}: has no {', '.join(missing)}; not the folder of a run?")
    figures = rounded(summary) if "task" in summary else {name: summary[name] for name in FIGURES}
    return {
        "command": _without_folders(run["command"]),
        "git_commit": run["git_commit"],
        "started": run["started"],
        "devices": run["devices"],
        "cpu_count": os.cpu_count(),
        "versions": run["versions"],
        **figures,
    }


def _read(path: pathlib.Path) -> dict:
    content = read_json(path, "restore it, or train again in an empty folder")
    if content is None:
        raise UserError(f"{path}: no such file; not the folder of a finished run?")
    return content


def _without_folders(command: str) -> str:
    """The command line, with the folders of the machine left out."""

    def last_name(match: re.Match) -> str:
        return match[0] if match[0].startswith("=configs/") else f"=.../{match[2]}"

    command = re.sub(r"=(\S*/)([^/\s]+)", last_name, command)
    return re.sub(r"^python \S*sop_jax/main.py", "python -m sop_jax.main", command)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=pathlib.Path)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--note", default="")
    options = parser.parse_args(arguments)

    def write() -> None:
        result = {"note": options.note, "runs": [collect(folder) for folder in options.folders]}
        write_text(options.out, json.dumps(result, indent=1) + "\n")

    return exit_status(write)


if __name__ == "__main__":
    sys.exit(main())
