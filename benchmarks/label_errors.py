"""Are wrong labels found, counted and mended, and at what price? Ours beside cleanlab.

    pip install -e '.[bench]'
    python benchmarks/label_errors.py --cache=DIR --shared=DIR --out=FILE.json [--cells='digits_*']

Ours is one fit on all rows. cleanlab gets what it asks for: predictions from five folds of the same
network, trained with CE as many epochs. Either half of a cell is cached the moment it is trained,
so that a run that was stopped goes on where it was, and `--verdicts-only` judges the cached arrays
anew. CPU seconds count every thread. Every fit compiles its own programs, on either side; the
verdict that our classifier makes after each fold, which cleanlab has no use for, is measured and
taken off its bill. cleanlab's list is the default of `find_label_issues`, its ranking the better by
AUPRC of two, its estimated rate `num_label_issues` over n.
"""

import argparse
import fnmatch
import importlib.metadata
import importlib.util
import pathlib
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import timing
from label_metrics import Claim, check_runs, line, measure, rounded
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold

from sop_jax import SOPClassifier, label_issues
from sop_jax.config import default
from sop_jax.data import dataset
from sop_jax.errors import UserError
from sop_jax.exit_status import exit_status
from sop_jax.files import read_arrays, write_arrays

EPOCHS = {"digits": 60, "mnist": 30, "cifar10n": 30}
FOLDS = 5


class Cell(NamedTuple):
    """A data set and what is wrong with its labels."""

    data: str
    kind: str  # of noise
    noise: float | str | None = None  # the rate, or the human label set

    @property
    def name(self) -> str:
        return "_".join(str(part) for part in self if part is not None)


CELLS = (
    Cell("digits", "none"),
    *(Cell("digits", "symmetric_exclusive", rate) for rate in (0.05, 0.1, 0.2, 0.4)),
    *(Cell("digits", "pairflip", rate) for rate in (0.2, 0.4)),
    Cell("digits", "instance", 0.2),
    Cell("mnist", "none"),
    *(Cell("mnist", "symmetric_exclusive", rate) for rate in (0.05, 0.2)),
    *(Cell("cifar10n", "human", labels) for labels in ("aggregate", "random1", "worst")),
)


class Skipped(Exception):
    """A cell that cannot be run here; says why."""


class Stopwatch:
    """Adds up the seconds of its `with` blocks, by the clock and of the CPU in all threads."""

    def __init__(self):
        self.wall = self.cpu = 0.0

    def __enter__(self) -> None:
        self._start = time.perf_counter(), time.process_time()

    def __exit__(self, *_) -> None:
        self.wall += time.perf_counter() - self._start[0]
        self.cpu += time.process_time() - self._start[1]


def chosen(globs: str) -> list[Cell]:
    """The cells whose names match one of the globs, which commas separate."""
    cells = [c for c in CELLS if any(fnmatch.fnmatchcase(c.name, g) for g in globs.split(","))]
    if not cells:
        raise UserError(f"--cells={globs!r} matches none of {', '.join(c.name for c in CELLS)}")
    return cells


def write_source(data: str, shared: pathlib.Path, path: pathlib.Path) -> None:
    """Writes the .npz that data.name=npz reads, from the folder of real data."""
    spec = importlib.util.spec_from_file_location("real_data", shared / "tools" / "real_data.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    if data == "mnist":
        images, labels = tool.load_mnist10k()
        train, test = slice(0, 5000), slice(5000, None)
        parts = images[train], labels[train], images[test], labels[test]
        human = {}
    else:
        found, train, test = tool.load_cifar10(), slice(0, 10_000), slice(0, 5000)
        parts = found["train_images"][train], found["train_labels"][train]
        parts += found["test_images"][test], found["test_labels"][test]
        human = {f"human_{name}": own[train] for name, own in tool.load_cifar10n().items()}
    names = ("train_images", "train_labels", "test_images", "test_labels")
    write_arrays(path, **dict(zip(names, parts, strict=True)), **human)


def load(
    cell: Cell, seed: int, cache: pathlib.Path, shared: pathlib.Path | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images uint8 [n, H, W, C], given and true labels int32 [n]; Skipped without the data."""
    config = default()
    config.seed, config.noise.kind = seed, cell.kind
    if cell.data != "digits":
        path = cache / f"source_{cell.data}.npz"
        if not path.exists():
            if shared is None:
                raise Skipped(f"no {cell.data} without --shared=DIR")
            write_source(cell.data, shared, path)
        config.data.name, config.data.path, config.data.downsample = "npz", str(path), 2
    if cell.kind == "human":
        config.noise.labels = cell.noise
    elif cell.noise is not None:
        config.noise.rate = cell.noise
    data, true_label = dataset.load(config)
    given = data.train.labels
    return data.train.images, given, given if true_label is None else true_label


def fit_ours(images: np.ndarray, label: np.ndarray, method: str, epochs: int, seed: int) -> dict:
    """One fit on all rows: its evidence and seconds."""
    watch = Stopwatch()
    with watch:
        found = SOPClassifier(method=method, epochs=epochs, seed=seed).fit(images, label).evidence_
    arrays = {name: getattr(found, name) for name in ("probs", "features", "margin", "prediction")}
    if found.held_out is not None:
        arrays["held_out"] = found.held_out
    arrays |= {f"diagnostic_{name}": values for name, values in found.diagnostics.items()}
    return arrays | {"wall": watch.wall, "cpu": watch.cpu}


def fit_folds(images: np.ndarray, label: np.ndarray, epochs: int, seed: int) -> dict:
    """Probabilities [n, K] of every row from the fold that did not train on it, and seconds."""
    watch, verdict = Stopwatch(), Stopwatch()
    probs = np.zeros((len(label), label.max() + 1), np.float32)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    for train, held in folds.split(images, label):
        classifier = SOPClassifier(method="ce", crossfit_epochs=0, epochs=epochs, seed=seed)
        with watch:
            classifier.fit(images[train], label[train])
            probs[np.ix_(held, classifier.classes_)] = classifier.predict_proba(images[held])
        with verdict:  # once more, to know what it took
            judge(classifier.evidence_._asdict())
    return {
        "probs": probs,
        "wall": watch.wall - verdict.wall,
        "cpu": watch.cpu - verdict.cpu,
        "verdict_cpu": verdict.cpu,
    }


def half(path: pathlib.Path, make: Callable[[], dict] | None) -> dict[str, np.ndarray]:
    """The arrays cached at `path`, after making them where they are not there."""
    if not path.exists():
        if make is None:
            raise Skipped(f"{path.name} is not in the cache")
        write_arrays(path, **make())
    return read_arrays(path, (), ("*",), "delete it, and it is made again")


def halves(
    cell: Cell, seed: int, arguments: argparse.Namespace
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Arrays of ours and of the folds, each with `label` and `true_label` int32 [n]."""
    stem, epochs = f"{cell.name}_seed{seed}", EPOCHS[cell.data]
    paths = [arguments.cache / f"{stem}_{part}.npz" for part in (arguments.method, "folds")]
    if arguments.verdicts_only or all(path.exists() for path in paths):
        return half(paths[0], None), half(paths[1], None)
    images, label, true_label = load(cell, seed, arguments.cache, arguments.shared)
    labels = {"label": label, "true_label": true_label}
    ours = half(paths[0], lambda: fit_ours(images, label, arguments.method, epochs, seed) | labels)
    return ours, half(paths[1], lambda: fit_folds(images, label, epochs, seed) | labels)


def judge(arrays: dict) -> label_issues.Verdict:
    """The verdict from arrays of evidence."""
    return label_issues.judge_rows(
        label=arrays["label"],
        probs=arrays["probs"],
        margin=arrays["margin"],
        held_out=arrays.get("held_out"),
        features=arrays["features"],
    )


def ours_of(arrays: dict) -> tuple[Claim, dict]:
    verdict = judge(arrays)
    issues = verdict.issues
    claim = Claim(
        quality=issues.quality,
        confidence=issues.quality,
        flagged=issues.is_issue,
        suggested=issues.suggested_label,
        applied=issues.apply_suggestion,
        rate=verdict.noise_rate,
    )
    return claim, {
        "rate_low": verdict.noise_rate_low,
        "rate_high": verdict.noise_rate_high,
        "rate_estimates": dict(verdict.estimates),
        "warnings": list(verdict.warnings),
    }


def cleanlab_of(arrays: dict) -> tuple[Claim, dict]:
    from cleanlab.count import num_label_issues
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    label, probs = arrays["label"], arrays["probs"]
    wrong = label != arrays["true_label"]
    rankings = {
        name: get_label_quality_scores(label, probs, method=name)
        for name in ("self_confidence", "normalized_margin")
    }
    auprc = {
        name: average_precision_score(wrong, -quality) if wrong.any() else None
        for name, quality in rankings.items()
    }
    best = max(auprc, key=auprc.get) if wrong.any() else "self_confidence"
    # one process: JAX's threads do not survive the fork of several
    flagged = find_label_issues(label, probs, n_jobs=1)
    claim = Claim(
        quality=rankings[best],
        confidence=rankings["self_confidence"],
        flagged=flagged,
        suggested=probs.argmax(axis=1),
        applied=flagged,
        rate=num_label_issues(label, probs) / len(label),
    )
    extras = {f"auprc_{name}": value for name, value in auprc.items()}
    return claim, extras | {"ranking": best, "verdict_cpu_seconds": float(arrays["verdict_cpu"])}


def compare(cell: Cell, seed: int, arguments: argparse.Namespace) -> dict:
    """One line of the table."""
    ours, folds = halves(cell, seed, arguments)
    label, true_label = ours["label"], ours["true_label"]
    result = {
        "run": f"{cell.name}_seed{seed}",
        "cell": cell.name,
        "seed": seed,
        "rows": len(label),
        "rate": float(np.mean(label != true_label)),
        "accuracy_before": float(np.mean(label == true_label)),
    }
    for side, arrays, claim_of in (("ours", ours, ours_of), ("cleanlab", folds, cleanlab_of)):
        claim, extras = claim_of(arrays)
        seconds = {f"{kind}_seconds": float(arrays[kind]) for kind in ("wall", "cpu")}
        result[side] = measure(claim, label, true_label) | extras | seconds
    for kind in ("wall", "cpu"):
        result[f"{kind}_ratio"] = float(folds[kind] / ours[kind])
    return result


def versions() -> dict:
    """Command, machine and versions of this process, cleanlab's too."""
    about = timing.describe()
    about["versions"]["cleanlab"] = importlib.metadata.version("cleanlab")
    return about


def seeds_of(text: str) -> list[int]:
    return sorted({int(part) for part in text.split(",")})


def parse(command: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    folder = {"type": pathlib.Path, "metavar": "DIR"}
    parser.add_argument("--out", type=pathlib.Path, required=True, help="JSON file to write")
    parser.add_argument(
        "--cache", required=True, **folder, help="what was trained; git must not see it"
    )
    parser.add_argument(
        "--shared", **folder, help="has tools/real_data.py and data; without it digits alone run"
    )
    parser.add_argument("--cells", default="*", help="globs of names: 'digits_*,mnist_none'")
    parser.add_argument("--seeds", type=seeds_of, default=[0], help="such as 0,1")
    parser.add_argument("--method", default="sop", help="ours")
    parser.add_argument("--verdicts-only", action="store_true", help="train nothing")
    return parser.parse_args(command)


def run(arguments: argparse.Namespace) -> None:
    if importlib.util.find_spec("cleanlab") is None:
        raise UserError("cleanlab is not installed: pip install -e '.[bench]'")
    cells = chosen(arguments.cells)
    arguments.cache.mkdir(parents=True, exist_ok=True)
    results, skipped = [], {}
    print(line(None))
    for seed in arguments.seeds:
        for cell in cells:
            try:
                results.append(compare(cell, seed, arguments))
            except Skipped as reason:
                skipped[f"{cell.name}_seed{seed}"] = str(reason)
            else:
                print(line(results[-1]), flush=True)
    for name, reason in skipped.items():
        print(f"skipped {name}: {reason}")
    checks = check_runs(results)
    for check in checks:
        print(check["line"])
    content = {"method": arguments.method, "epochs": EPOCHS, "folds": FOLDS}
    content |= {"results": results, "skipped": skipped, "checks": checks}
    timing.write(arguments.out, versions() | rounded(content))


if __name__ == "__main__":
    sys.exit(exit_status(lambda: run(parse())))
