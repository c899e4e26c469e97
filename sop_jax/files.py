"""Files written whole or not at all, and read back with one clear line where they are damaged."""

import contextlib
import fnmatch
import hashlib
import itertools
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np

from sop_jax.errors import UserError


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[BinaryIO]:
    """Yields a file that takes the place of `path` at the end; after an error nothing is changed.

    The bytes are on the disk before the name is, so that no crash leaves half a file. A symlink at
    `path` is replaced, what it points to stays as it is.
    """
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)  # of a killed run; never written through, it may be a link
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    with replacing(path) as file:
        file.write(content)


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file of UTF-8 whole or not at all; line ends stay as they are on every system."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: pathlib.Path, value: object) -> None:
    """Writes a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_arrays(path: pathlib.Path, **arrays: np.ndarray) -> None:
    """Writes an .npz whole or not at all, without pickles."""
    with replacing(path) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_json(path: pathlib.Path, mend: str) -> dict | None:
    """The file's object, or None where there is no file.

    Args:
      mend: what to do where it is damaged, the end of the error's line.

    Raises:
      UserError: the file is there and holds no JSON object.
    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    # Not JSON, not even text, or nested deeper than Python reads.
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged (not a JSON object); {mend}")
    return value


def sha256(path: pathlib.Path) -> str:
    """Hash of a file's content, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def set_aside(path: pathlib.Path) -> pathlib.Path:
    """Renames a file to <name>.old (.old2, ... where that is taken) and returns its new path."""
    names = (f"{path.name}.old{number if number > 1 else ''}" for number in itertools.count(1))
    free = next(name for name in names if not os.path.lexists(path.with_name(name)))
    return path.rename(path.with_name(free))


def read_arrays(
    path: pathlib.Path, required: Sequence[str], optional: Sequence[str], mend: str
) -> dict[str, np.ndarray]:
    """Arrays of an .npz file by name, without pickles.

    Args:
      required: names that must be there.
      optional: names that are returned where they are there; "prefix_*" stands for all that begin
        so.
      mend: what to do where the file is damaged, the end of the error's line.

    Raises:
      UserError: the file cannot be read as arrays, or lacks a required one.
    """
    try:
        # np.load leaves a damaged file open that it has opened itself
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            wanted = [
                name
                for name in file.files
                if name in required or any(fnmatch.fnmatchcase(name, each) for each in optional)
            ]
            arrays = {name: file[name] for name in wanted}
    # A damaged archive or header makes numpy and zipfile raise nearly anything.
    except Exception as error:
        raise UserError(f"{path} is damaged ({error}); {mend}") from error
    for name in required:
        if not isinstance(arrays.get(name), np.ndarray):
            raise UserError(f"{path} is damaged (no array {name!r} in it); {mend}")
    return {name: array for name, array in arrays.items() if isinstance(array, np.ndarray)}
