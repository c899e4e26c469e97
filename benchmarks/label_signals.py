"""What does each signal of a wrong label tell alone? From the cache of the bench, without training.

    python benchmarks/label_signals.py --cache=DIR --out=FILE.json [--cells='digits_*']

`--cache` is that of `benchmarks/label_errors.py`. Of every signal the side that should speak of a
wrong label is counted as high; the diagnostics of a method are taken as they are.
"""

import argparse
import pathlib
import re
import sys

import label_errors
import numpy as np
import timing
from label_metrics import rounded
from sklearn.metrics import average_precision_score, roc_auc_score

from sop_jax import neighbours
from sop_jax.errors import UserError
from sop_jax.exit_status import exit_status


def signals(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Name -> [n], high where the label is likely wrong, from the cached arrays of our half."""
    label, probs = arrays["label"], arrays["probs"]
    rows = np.arange(len(label))
    votes = neighbours.votes(arrays["features"], label, probs.shape[1])
    found = {
        "running margin": -arrays["margin"],
        "mean probability": -probs[rows, label],
        "30 neighbours": 1 - votes[rows, label],
        "label_quality": -label_errors.judge(arrays).issues.quality,
    }
    if "held_out" in arrays:
        found["held-out probability"] = -arrays["held_out"][rows, label]
    prefix = "diagnostic_"
    return found | {
        name.removeprefix(prefix): values
        for name, values in arrays.items()
        if name.startswith(prefix)
    }


def measure(wrong: np.ndarray, found: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """AUROC and AUPRC of each signal [n] for `wrong` bool [n], which holds both values."""
    return {
        name: {
            "auroc": float(roc_auc_score(wrong, values)),
            "auprc": float(average_precision_score(wrong, values)),
        }
        for name, values in found.items()
    }


def parse(command: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=pathlib.Path, required=True, help="JSON file to write")
    parser.add_argument("--cache", type=pathlib.Path, required=True, metavar="DIR")
    parser.add_argument("--cells", default="*", help="globs of names: 'digits_*,mnist_none'")
    parser.add_argument("--method", default="sop")
    return parser.parse_args(command)


def run(arguments: argparse.Namespace) -> None:
    results = []
    for cell in label_errors.chosen(arguments.cells):
        for path in sorted(arguments.cache.glob(f"{cell.name}_seed*_{arguments.method}.npz")):
            arrays = label_errors.half(path, None)
            wrong = arrays["label"] != arrays["true_label"]
            if not wrong.any():
                continue  # nothing to rank
            seed = int(re.search(r"_seed(\d+)_", path.name)[1])
            of_signal = measure(wrong, signals(arrays))
            results.append({"cell": cell.name, "seed": seed, "signals": of_signal})
            print(f"{cell.name}, seed {seed}, {wrong.mean():.3f} wrong")
            for name, found in of_signal.items():
                print(f"  {name:22} AUROC {found['auroc']:.4f}  AUPRC {found['auprc']:.4f}")
    if not results:
        raise UserError(
            f"--cache={arguments.cache}: no cell of {arguments.method!r} with wrong labels; run "
            "benchmarks/label_errors.py first"
        )
    content = {"method": arguments.method, "results": results}
    timing.write(arguments.out, timing.describe() | rounded(content))


if __name__ == "__main__":
    sys.exit(exit_status(lambda: run(parse())))
