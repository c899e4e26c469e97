"""Reads back what a run left in its workdir: the input of the report and of the comparison."""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sop_jax.config import flatten
from sop_jax.errors import UserError
from sop_jax.files import read_arrays, read_json
from sop_jax.label_issues import CSV_COLUMNS, from_cell

DIAGNOSTIC = "diagnostic_"  # what a method's own arrays are called in predictions.npz
MEND = "restore the file, or train again in an empty --workdir"
MAX_DEPTH = 20  # of the objects and lists in a JSON file; ours have three
UNGRADED = ("nan", "False")  # confidence and apply_suggestion in a list from before it had them
MAX_CELL = 2**31 - 1  # characters in a cell of label_issues.csv; csv's own limit is 131,072


@dataclass(frozen=True)
class Run:
    """A finished run.

    Arrays over the n training rows stand in the order of label_issues.csv: worst label first.
    """

    workdir: Path
    config: dict[str, Any]  # by dotted field names
    environment: dict[str, Any]  # run.json, likewise
    sessions: list[dict]  # of run.json, one a process that trained; older runs have none
    summary: dict[str, Any]
    epochs: list[dict[str, float | None]]  # metrics.jsonl, one record an epoch
    class_names: tuple[str, ...]  # K
    ids: tuple[str, ...]  # n
    label: np.ndarray  # int32 [n], as given
    suggested_label: np.ndarray  # int32 [n]; where not flagged, the model's own best label
    true_label: np.ndarray | None  # int32 [n], where known
    quality: np.ndarray  # float64 [n], 0 bad .. 1 good
    flagged: np.ndarray  # bool [n]
    suggestion_confidence: np.ndarray  # float64 [n], probability that the suggestion is right
    apply: np.ndarray  # bool [n], the suggestion is safe enough to take unseen
    score: np.ndarray  # float64 [n], 1 - quality at full precision
    margin: np.ndarray  # float64 [n], running mean of the given-label margin
    diagnostics: dict[str, np.ndarray]  # the method's own, float64 [n] each, perhaps not finite
    gallery_index: np.ndarray  # int64 [G], positions among the n training rows
    gallery_images: np.ndarray  # uint8 [G, H, W, C]

    @property
    def wrong(self) -> np.ndarray | None:
        """bool [n]: the given label is truly wrong; None where the true labels are unknown."""
        return None if self.true_label is None else self.label != self.true_label

    @property
    def label_after(self) -> np.ndarray:
        """int32 [n]: the suggested label where it is to be applied, the given label elsewhere."""
        return np.where(self.apply, self.suggested_label, self.label)

    @property
    def calibrated(self) -> bool:
        """Whether quality is a probability; lists from before only rank and grade no suggestion."""
        return not np.any(np.isnan(self.suggestion_confidence))

    @property
    def rankings(self) -> dict[str, np.ndarray]:
        """The noise score, then each of its sources alone: float64 [n], large for a wrong label.

        Diagnostics that are not finite rank nothing and are left out.
        """
        found = {"score": self.score, "margin alone": -self.margin}
        for name, values in self.diagnostics.items():
            if np.all(np.isfinite(values)):
                found[f"{name} alone"] = values
        return found

    def value(self, key: str) -> float | None:
        """Returns a number of summary.json, or None where it is unknown."""
        return number(self.summary, key, self.workdir / "summary.json")

    def array(self, key: str, shape: tuple[int, ...]) -> np.ndarray | None:
        """Returns float64 `shape` from nested lists of summary.json; None where it is unknown.

        Entries that are null or not finite are NaN.

        Raises:
            UserError: the lists have another shape, or hold what is no number.
        """
        content = self.summary.get(key)
        if content is None:
            return None
        try:
            array = np.array(content, np.float64)
        except (TypeError, ValueError, OverflowError):
            array = None
        if array is None or array.shape != shape:
            size = " x ".join(map(str, shape))
            raise _damaged(self.workdir / "summary.json", f"{key} is not {size} numbers")
        return np.where(np.isfinite(array), array, np.nan)


def seed_folders(workdir: Path, seeds: Sequence[int]) -> list[Path]:
    """Each seed's folder: `workdir` itself for one seed, `workdir/seed_<seed>` for several."""
    return [workdir] if len(seeds) == 1 else [workdir / f"seed_{seed}" for seed in seeds]


def group_folders(workdir: Path, summary: dict) -> list[Path]:
    """The folders of a finished run of several seeds, from its summary.json.

    Raises:
        UserError: `seeds` is not a list of seeds.
    """
    seeds = summary["seeds"]
    if not isinstance(seeds, list) or not seeds:
        raise _damaged(workdir / "summary.json", "seeds is not a list of seeds")
    return seed_folders(workdir, seeds)


def read_run(workdir: str | Path) -> Run:
    """Reads every file of a finished run.

    Raises:
        UserError: the folder or a file is missing, damaged, or disagrees with another one.
    """
    folder = Path(workdir)
    config, environment, summary = read_config_and_summary(folder, "run.json")
    if "seeds" in summary:
        own = group_folders(folder, summary)
        raise UserError(
            f"{folder}: holds {len(own)} seeds, each a run with its own page; "
            f"give one, such as {own[0]}"
        )
    names = summary.get("class_names")
    if not isinstance(names, list) or not names:
        raise _damaged(folder / "summary.json", "class_names is not a list of names")
    names = tuple(str(name) for name in names)
    issues = read_issues(folder / "label_issues.csv", names)
    ids = issues["id"]
    score, margin, diagnostics = _read_predictions(folder / "predictions.npz", ids)
    gallery_index, gallery_images = _read_gallery(folder / "gallery.npz", ids)
    sessions = environment.pop("sessions", [])
    return Run(
        workdir=folder,
        config=flatten(config),
        environment=flatten(environment),
        sessions=sessions if isinstance(sessions, list) else [],
        summary=summary,
        epochs=_read_epochs(folder / "metrics.jsonl"),
        class_names=names,
        ids=ids,
        label=issues["given_label"],
        suggested_label=issues["predicted_label"],
        true_label=_read_truth(folder / "labels.npz", issues, len(names)),
        quality=issues["label_quality"],
        flagged=issues["is_label_issue"],
        suggestion_confidence=issues["suggestion_confidence"],
        apply=issues["apply_suggestion"],
        score=score,
        margin=margin,
        diagnostics=diagnostics,
        gallery_index=gallery_index,
        gallery_images=gallery_images,
    )


def read_config_and_summary(folder: Path, *others: str) -> tuple[dict, ...]:
    """Returns config.json, any other JSON files named, and summary.json.

    Raises:
        UserError: as `read_run`.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the --workdir of a finished run")
    return tuple(_read_json(folder / name) for name in ("config.json", *others, "summary.json"))


def number(record: dict, key: str, path: Path) -> float | None:
    """Returns `record[key]` as a finite float; None where it is absent, null or not finite.

    Raises:
        UserError: the value is not a number.
    """
    value = record.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _damaged(path, f"{key} is {value!r}, wanted a number")
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number of more than 308 digits
        return None


def _damaged(path: Path, reason: object) -> UserError:
    return UserError(f"{path} is damaged ({reason}); {MEND}")


def _require(path: Path) -> Path:
    """The path itself, where there is such a file."""
    if path.is_file():
        return path
    if path.name == "summary.json":
        hint = "the run has not finished: start it again with the same --workdir"
    else:
        hint = "not the folder of a run?"
    raise UserError(f"{path}: no such file; {hint}")


def _read_json(path: Path) -> dict:
    content = read_json(_require(path), MEND)
    level = [content]
    for _ in range(MAX_DEPTH):
        level = [child for parent in level for child in _children(parent)]
    if level:  # what walks or prints it would overflow the stack
        raise _damaged(path, f"nested more than {MAX_DEPTH} deep")
    return content


def _children(value: object) -> list:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _read_epochs(path: Path) -> list[dict[str, float | None]]:
    epochs = []
    try:
        for text in _require(path).read_text(encoding="utf-8").splitlines():
            record = json.loads(text)
            epochs.append({key: number(record, key, path) for key in record})
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path, f"epoch record {len(epochs) + 1}: {error}") from error
    if not epochs:
        raise _damaged(path, "no epoch in it")
    return epochs


def read_issues(path: Path, class_names: tuple[str, ...]) -> dict[str, Any]:
    """Returns the CSV_COLUMNS of label_issues.csv, labels as class numbers.

    A list from before it graded suggestions has confidence NaN, and none to apply.
    """
    class_of = {name: k for k, name in enumerate(class_names)}
    flags = {"true": True, "1": True, "false": False, "0": False}

    def to_class(cell: str) -> int:
        return class_of[from_cell(cell)]

    def to_flag(cell: str) -> bool:
        return flags[cell.lower()]

    converters = (from_cell, to_class, to_class, float, to_flag, float, to_flag)
    entries = []
    line = 1
    usual = csv.field_size_limit(MAX_CELL)
    try:
        with _require(path).open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            graded = not set(header).isdisjoint(CSV_COLUMNS[-2:])
            columns, rest = (CSV_COLUMNS, ()) if graded else (CSV_COLUMNS[:-2], UNGRADED)
            where = [header.index(column) for column in columns]
            for cells in reader:
                line += 1
                own = (*(cells[i] for i in where), *rest)
                entries.append([to(cell) for to, cell in zip(converters, own, strict=True)])
    except (OSError, ValueError, KeyError, IndexError, csv.Error) as error:
        raise _damaged(path, f"line {line}: {error}") from error
    finally:
        csv.field_size_limit(usual)
    if not entries:
        raise _damaged(path, "no label in it")
    ids, *columns = zip(*entries, strict=True)
    dtypes = (np.int32, np.int32, np.float64, bool, np.float64, bool)
    arrays = [np.array(column, dtype) for column, dtype in zip(columns, dtypes, strict=True)]
    return dict(zip(CSV_COLUMNS, [ids, *arrays], strict=True))


def _read_predictions(
    path: Path, ids: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Score and margin float64 [n], and the diagnostics by their own names."""
    required = ("train_id", "noise_score", "train_margin")
    arrays = read_arrays(_require(path), required, (f"{DIAGNOSTIC}*",), MEND)
    index = _positions(_texts(arrays.pop("train_id")), ids, path)
    ordered = {key: _one_per_id(array, index, key, path) for key, array in arrays.items()}
    score, margin = ordered.pop("noise_score"), ordered.pop("train_margin")
    for key, values in (("noise_score", score), ("train_margin", margin)):
        if not np.all(np.isfinite(values)):
            raise _damaged(path, f"{key} is not finite for every id")
    return score, margin, {key.removeprefix(DIAGNOSTIC): ordered[key] for key in sorted(ordered)}


def _read_truth(path: Path, issues: dict[str, Any], num_classes: int) -> np.ndarray | None:
    """The true labels int32 [n], where known; the given ones must be those of label_issues.csv."""
    arrays = read_arrays(_require(path), ("id", "given_label"), ("true_label",), MEND)
    index = _positions(_texts(arrays.pop("id")), issues["id"], path)
    ordered = {key: _one_per_id(array, index, key, path) for key, array in arrays.items()}
    if np.any(ordered["given_label"] != issues["given_label"]):
        raise _damaged(path, "given_label disagrees with label_issues.csv")
    true_label = ordered.get("true_label")
    if true_label is None:
        return None
    if not np.all((true_label >= 0) & (true_label < num_classes)):
        raise _damaged(path, f"true_label outside 0..{num_classes - 1}")
    return true_label.astype(np.int32)


def _read_gallery(path: Path, ids: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Where the images [G, H, W, C] stand among `ids`, and the images."""
    arrays = read_arrays(_require(path), ("id", "image"), (), MEND)
    images = arrays["image"]
    fits = (
        images.ndim == 4 and images.shape[-1] in (1, 3) and arrays["id"].shape == images.shape[:1]
    )
    if not fits or images.dtype != np.uint8:
        raise _damaged(
            path,
            f"image is {images.dtype} {images.shape}, wanted uint8 [G,H,W,1 or 3] and as many ids",
        )
    return _positions(ids, _texts(arrays["id"]), path), images


def _texts(ids: np.ndarray) -> list[str]:
    return [str(name) for name in ids.ravel().tolist()]


def _positions(ids: Sequence[str], wanted: Sequence[str], path: Path) -> np.ndarray:
    """Returns where each wanted id stands among `ids`, int64 [len(wanted)]."""
    position = {name: i for i, name in enumerate(ids)}
    try:
        return np.array([position[name] for name in wanted], dtype=np.int64)
    except KeyError as error:
        reason = f"id {error} is in only one of this file and label_issues.csv"
        raise _damaged(path, reason) from error


def _one_per_id(array: np.ndarray, index: np.ndarray, key: str, path: Path) -> np.ndarray:
    """Returns float64 [n], in the order of label_issues.csv."""
    if array.ndim != 1 or len(array) <= index.max() or array.dtype.kind not in "biuf":
        raise _damaged(path, f"{key}, {array.dtype} {array.shape}, is not one number for each id")
    return array[index].astype(np.float64)
