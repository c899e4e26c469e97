"""Files that users hand over: never unpickled, opened only where that cannot block, bounded.

`files.py` reads what a run has written itself; this module reads what anybody may have made.
"""

import os
import pathlib
import stat
import zipfile

import numpy as np

from sop_jax.data.memory import require
from sop_jax.errors import UserError

_NPY = np.lib.format
_HEADER_READERS = {(1, 0): _NPY.read_array_header_1_0, (2, 0): _NPY.read_array_header_2_0}
_SAVE_AGAIN = "save it again with numpy.savez"


def check_regular(path: str | pathlib.Path, field: str | None = None) -> None:
    """Raises UserError where there is no regular file: opening a pipe or a device could block.

    Args:
        path: the file.
        field: the config field that names it, for the message.
    """
    where = f"{field}={path}" if field else f"{path}"
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise UserError(f"{where}: no such file") from None
    except (OSError, ValueError) as error:  # no permission, a name too long or with a NUL
        raise UserError(f"{where}: cannot be opened ({error})") from None
    if stat.S_ISDIR(mode):
        raise UserError(f"{where}: is a folder; it must be a file")
    if not stat.S_ISREG(mode):
        raise UserError(f"{where}: is a pipe, socket or device; it must be a regular file")


def load_npz(path: str, field: str | None = None) -> dict[str, np.ndarray]:
    """All arrays of an `.npz` file from outside.

    The header of every array is held against the size that the archive gives for it before memory
    for it is asked for, so that neither a false header nor a zip bomb exhausts the machine.

    Args:
        path: the file.
        field: the config field that names it, for the message.

    Raises:
        UserError: no regular file, no `.npz` file, a damaged one, members that are no arrays,
            pickled objects, more than the machine's memory.
    """
    check_regular(path, field)
    where = path
    try:
        with open(path, "rb") as file:
            starts_as_zip = file.read(2) == b"PK"
        if not starts_as_zip:
            raise UserError(f"{path}: not an .npz file (it does not begin as one); {_SAVE_AGAIN}")
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            total = sum(member.file_size for member in members)
            require(total, f"{path} holds {total:,} bytes of arrays", "use fewer or smaller images")
            arrays = {}
            for member in members:
                key = member.filename.removesuffix(".npy")
                where = f"{path}, {key}"
                with archive.open(member) as stream:
                    _check_header(stream, member.file_size, where)
                with archive.open(member) as stream:
                    arrays[key] = _NPY.read_array(stream, allow_pickle=False)
    except UserError:
        raise
    except zipfile.BadZipFile as error:
        raise UserError(
            f"{where}: not a whole .npz file, it is damaged or cut short ({error}); {_SAVE_AGAIN}"
        ) from error
    except Exception as error:  # zlib and numpy raise many kinds on damaged input
        raise UserError(
            f"{where}: not a readable .npz file ({type(error).__name__}: {error})"
        ) from error
    return arrays


def _check_header(stream: zipfile.ZipExtFile, size: int, where: str) -> None:
    """Raises UserError where a member of `size` bytes is not exactly the plain array it says."""
    try:
        version = _NPY.read_magic(stream)
        shape, _, dtype = _HEADER_READERS[version](stream)
        is_array = dtype.itemsize > 0
    except (ValueError, KeyError):
        is_array = False
    if not is_array:
        raise UserError(f"{where}: is no array; {_SAVE_AGAIN}, arrays alone")
    if dtype.hasobject:
        raise UserError(f"{where}: holds pickled objects, which are refused; save plain arrays")
    claimed = dtype.itemsize
    for side in shape:  # Python's numbers, which do not overflow
        claimed *= side
    if claimed != size - stream.tell():
        raise UserError(
            f"{where}: its header says {dtype} {list(shape)}, {claimed:,} bytes, but "
            f"{size - stream.tell():,} bytes follow it: damaged; {_SAVE_AGAIN}"
        )
