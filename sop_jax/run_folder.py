"""Reads back what a run left in its workdir (design.md, section 5): the input of the report and of
the comparison.
"""

import csv
import json
import math
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sop_jax.errors import UserError

CSV_COLUMNS = ("id", "given_label", "predicted_label", "label_quality", "is_label_issue")


@dataclass(frozen=True)
class Run:
    """A finished run. Arrays over the n training rows stand in the order of label_issues.csv: worst
    label first.
    """

    workdir: Path
    config: dict
    environment: dict  # run.json
    summary: dict
    epochs: list[dict]  # metrics.jsonl, one record an epoch
    class_names: tuple[str, ...]  # K
    ids: tuple[str, ...]  # n
    given: np.ndarray  # int32 [n]
    suggested: np.ndarray  # int32 [n]; where not flagged, the model's own best label
    quality: np.ndarray  # float64 [n], 0 bad .. 1 good
    flagged: np.ndarray  # bool [n]
    score: np.ndarray  # float64 [n], 1 - quality at full precision
    margin: np.ndarray  # float64 [n], running mean of the given-label margin
    u_squared: np.ndarray | None  # float64 [n], SOP only
    truth: np.ndarray | None  # int32 [n] where the true labels are known
    gallery_rows: np.ndarray  # int [G], positions among the n rows
    gallery_images: np.ndarray  # uint8 [G,H,W,C]

    @property
    def wrong(self) -> np.ndarray | None:
        """bool [n]: the given label is truly wrong; None where the true labels are unknown."""
        return None if self.truth is None else self.given != self.truth

    @property
    def corrected(self) -> np.ndarray:
        """int32 [n]: the suggestion where flagged, the given label elsewhere."""
        return np.where(self.flagged, self.suggested, self.given)

    @property
    def rankings(self) -> dict[str, np.ndarray]:
        """The noise score and its two sources alone, float64 [n] each, the larger the likelier a
        wrong label.
        """
        found = {"score": self.score, "margin alone": -self.margin}
        return found if self.u_squared is None else found | {"u² alone": self.u_squared}

    def value(self, key: str) -> float | None:
        """Returns a number of summary.json, or None where it is unknown."""
        return number(self.summary, key, self.workdir / "summary.json")


def seed_folders(workdir: Path, seeds: Sequence[int]) -> list[Path]:
    """The folder of each seed's files: `workdir` itself for one seed, `workdir/seed_<seed>` for
    several.
    """
    return [workdir] if len(seeds) == 1 else [workdir / f"seed_{seed}" for seed in seeds]


def read_run(workdir: str | Path) -> Run:
    """Reads every file of a finished run.

    Raises:
        UserError: the folder or a file is missing, damaged, or disagrees with another one.
    """
    folder = Path(workdir)
    config, environment, summary = read_config_and_summary(folder, "run.json")
    if "seeds" in summary:
        own = seed_folders(folder, summary["seeds"])
        raise UserError(
            f"{folder}: holds {len(own)} seeds, each a run with its own page; give one, such as {own[0]}"
        )
    names = summary.get("class_names")
    if not isinstance(names, list) or not names:
        raise _damaged(folder / "summary.json", "class_names is not a list of names")
    names = tuple(str(name) for name in names)
    issues = _read_issues(folder / "label_issues.csv", names)
    ids = issues["id"]

    predictions = folder / "predictions.npz"
    arrays = _read_arrays(predictions, ("train_id", "noise_score", "train_margin"), ("u_squared",))
    rows = _positions(arrays.pop("train_id"), ids, predictions)
    diagnostics = {
        key: _one_per_row(array, rows, key, predictions) for key, array in arrays.items()
    }

    labels = folder / "labels.npz"
    arrays = _read_arrays(labels, ("id", "given_label"), ("true_label",))
    rows = _positions(arrays.pop("id"), ids, labels)
    arrays = {
        key: _one_per_row(array, rows, key, labels).astype(np.int32)
        for key, array in arrays.items()
    }
    truth = arrays.get("true_label")
    if np.any(arrays["given_label"] != issues["given_label"]):
        raise _damaged(labels, "given_label disagrees with label_issues.csv")
    if truth is not None and not np.all((truth >= 0) & (truth < len(names))):
        raise _damaged(labels, f"true_label outside 0..{len(names) - 1}")

    gallery = folder / "gallery.npz"
    arrays = _read_arrays(gallery, ("id", "image"))
    images = arrays["image"]
    fits = images.ndim == 4 and images.shape[-1] in (1, 3) and len(images) == len(arrays["id"])
    if not fits or images.dtype != np.uint8:
        raise _damaged(
            gallery,
            f"image is {images.dtype} {images.shape}, wanted uint8 [G,H,W,1 or 3] and as many ids",
        )
    return Run(
        workdir=folder,
        config=config,
        environment=environment,
        summary=summary,
        epochs=_read_epochs(folder / "metrics.jsonl"),
        class_names=names,
        ids=ids,
        given=issues["given_label"],
        suggested=issues["predicted_label"],
        quality=issues["label_quality"],
        flagged=issues["is_label_issue"],
        score=diagnostics["noise_score"],
        margin=diagnostics["train_margin"],
        u_squared=diagnostics.get("u_squared"),
        truth=truth,
        gallery_rows=_positions(ids, [str(i) for i in arrays["id"].tolist()], gallery),
        gallery_images=images,
    )


def read_config_and_summary(folder: Path, *others: str) -> tuple[dict, ...]:
    """Returns config.json, any other JSON files named, and summary.json, which only a finished run
    has.

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
    return float(value) if math.isfinite(value) else None


def flatten(config: dict, prefix: str = "") -> dict:
    """Returns the nested configuration as {'optimizer.learning_rate': 0.1, ...}."""
    flat = {}
    for key, value in config.items():
        flat |= (
            flatten(value, f"{prefix}{key}.")
            if isinstance(value, dict)
            else {f"{prefix}{key}": value}
        )
    return flat


def _damaged(path: Path, reason: object) -> UserError:
    return UserError(
        f"{path}: damaged ({reason}); restore the file, or train again in an empty --workdir"
    )


def _require(path: Path) -> Path:
    if not path.is_file():
        hint = "the run has not finished: start it again with the same --workdir"
        raise UserError(
            f"{path}: no such file; {hint if path.name == 'summary.json' else 'not the folder of a run?'}"
        )
    return path


def _read_json(path: Path) -> dict:
    try:
        content = json.loads(_require(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error
    if not isinstance(content, dict):
        raise _damaged(path, "not a JSON object")
    return content


def _read_epochs(path: Path) -> list[dict]:
    epochs = []
    try:
        for text in _require(path).read_text(encoding="utf-8").splitlines():
            record = json.loads(text)
            epochs.append({key: number(record, key, path) for key in record})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise _damaged(path, f"epoch record {len(epochs) + 1}: {error}") from error
    if not epochs:
        raise _damaged(path, "no epoch in it")
    return epochs


def _read_arrays(
    path: Path, required: tuple[str, ...], optional: tuple[str, ...] = ()
) -> dict[str, np.ndarray]:
    try:
        with np.load(_require(path), allow_pickle=False) as file:
            return {
                key: file[key]
                for key in (*required, *optional)
                if key in required or key in file.files
            }
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _damaged(path, error) from error


def _read_issues(path: Path, names: tuple[str, ...]) -> dict:
    """Returns the columns of label_issues.csv, labels as class numbers."""
    number_of = {name: k for k, name in enumerate(names)}
    flags = {"true": True, "1": True, "false": False, "0": False}
    rows = []
    line = 1
    try:
        with _require(path).open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            where = [header.index(column) for column in CSV_COLUMNS]
            for line, cells in enumerate(reader, start=2):  # noqa: B007 (named in the error below)
                name, given, suggested, quality, flag = (cells[i] for i in where)
                rows.append(
                    (
                        name,
                        number_of[given],
                        number_of[suggested],
                        float(quality),
                        flags[flag.lower()],
                    )
                )
    except (OSError, ValueError, KeyError, IndexError, csv.Error) as error:
        raise _damaged(path, f"line {line}: {error}") from error
    if not rows:
        raise _damaged(path, "no row in it")
    columns = list(zip(*rows, strict=True))
    dtypes = (None, np.int32, np.int32, np.float64, bool)
    return {
        column: values if dtype is None else np.array(values, dtype)
        for column, values, dtype in zip(CSV_COLUMNS, columns, dtypes, strict=True)
    }


def _positions(ids, wanted, path: Path) -> np.ndarray:
    """Returns where each wanted id stands among `ids`."""
    position = {str(name): i for i, name in enumerate(np.asarray(ids).tolist())}
    try:
        return np.array([position[name] for name in wanted], dtype=np.int64)
    except KeyError as error:
        raise _damaged(
            path, f"id {error} is in only one of this file and label_issues.csv"
        ) from error


def _one_per_row(array: np.ndarray, rows: np.ndarray, key: str, path: Path) -> np.ndarray:
    """Returns float64 [n], in the order of label_issues.csv."""
    if array.ndim != 1 or len(array) <= rows.max() or not np.all(np.isfinite(array)):
        raise _damaged(path, f"{key} {array.shape} is not one finite number for each id")
    return array[rows].astype(np.float64)
