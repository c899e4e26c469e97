"""Files written whole or not at all, and read back with one clear line where they are damaged."""

import json
import os
import pathlib
import zipfile
import zlib

import numpy as np

from sop_jax.errors import UserError

# What np.load and the reading of its arrays raise.
DAMAGED = (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error)


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def write_json(path: pathlib.Path, value: object) -> None:
    """Writes a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_arrays(path: pathlib.Path, **arrays: np.ndarray) -> None:
    """Writes an .npz whole or not at all, without pickles."""
    temporary = path.with_name(path.name + ".tmp.npz")
    np.savez_compressed(temporary, allow_pickle=False, **arrays)
    temporary.replace(path)


def read_json(path: pathlib.Path, mend: str) -> dict | None:
    """The file's object, or None where there is no file; `mend` says what to do where it is
    damaged.
    """
    if not path.exists():
        return None
    try:
        value = json.loads(path.read_text())
    except ValueError:  # not JSON, or not even text
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged (not a JSON object); {mend}")
    return value
