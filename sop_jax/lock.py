"""One run in a folder at a time, and only in a folder that is empty or a run's own."""

import contextlib
import getpass
import os
import pathlib
import tempfile
from collections.abc import Iterator

import filelock
import jax

from sop_jax.errors import UserError
from sop_jax.files import read_json
from sop_jax.general import BASE

NAME = ".lock"
# What a run killed before it wrote its config can have left in a new folder.
_FIRST_FILES = {NAME, "config.json.tmp"}
_OF_A_RUN = {field.name for field in BASE}  # what every config.json of ours has
# Folders that this process holds: a run of several seeds has runs inside its own.
_held: set[pathlib.Path] = set()


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
    """Makes the folder and holds its lock; the lock goes with the process, however that ends.

    The lock is two: `.lock` in the folder, which other machines that mount it see, and a file among
    this machine's temporary ones under the folder's own number, so that deleting `.lock` lets
    nobody in. Of several processes of one run the first holds it, as it alone writes files.

    Raises:
      UserError: the folder, or one that it lies in, is in use by another run; it is somebody
        else's; it cannot be made, written or locked. Nothing was changed in it.
    """
    if jax.process_index() != 0:
        yield
        return
    folder = workdir.resolve()
    check_ours(workdir)
    with contextlib.ExitStack() as locks:
        for parent in folder.parents:
            if (parent / "config.json").exists() and parent not in _held:
                # A moment: two runs may look at once, and neither is in the other's way.
                _hold(parent, 1, f"{workdir} lies in {parent}, which").release()
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            (workdir / NAME).touch()
        except OSError as error:
            raise UserError(
                f"--workdir={workdir} cannot be made or written ({error.strerror}); "
                "name another folder"
            ) from None
        locks.enter_context(_hold(folder, 0, str(workdir)))
        locks.enter_context(_acquired(folder / NAME, 0, str(workdir)))
        _held.add(folder)
        locks.callback(_held.remove, folder)
        yield


def check_ours(workdir: pathlib.Path) -> None:
    """Raises UserError unless the folder is absent, empty or a run's: others' files stay whole."""
    path = workdir / "config.json"
    try:
        names = {entry.name for entry in workdir.iterdir()} - _FIRST_FILES
        saved = read_json(path, "restore it or name another --workdir")
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(
            f"--workdir={workdir} cannot be made or written ({error.strerror}); name another folder"
        ) from None
    if names and saved is None:
        raise UserError(
            f"--workdir={workdir} holds other files ({min(names)}) and no run, which has a "
            "config.json; name a new or an empty folder"
        )
    if saved is not None and not saved.keys() >= _OF_A_RUN:
        raise UserError(f"{path} is not that of a run of sop_jax; name another --workdir")


def _hold(folder: pathlib.Path, seconds: float, whose: str) -> filelock.BaseFileLock:
    """The lock that stands for a folder on this machine, whatever becomes of the files in it."""
    user = getattr(os, "getuid", getpass.getuser)()
    beside = pathlib.Path(tempfile.gettempdir()) / f"sop_jax_locks_{user}"
    beside.mkdir(mode=0o700, exist_ok=True)
    status = folder.stat()
    return _acquired(beside / f"{status.st_dev}-{status.st_ino}", seconds, whose)


def _acquired(path: pathlib.Path, seconds: float, whose: str) -> filelock.BaseFileLock:
    """The lock of a file, waited for so many seconds; `whose` begins the line of the error."""
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=seconds)
    except filelock.Timeout:
        raise UserError(
            f"--workdir={whose} is in use by another run; wait for it or name another folder"
        ) from None
    except OSError as error:  # a network file system without locks
        raise UserError(
            f"--workdir={whose} cannot be locked ({error.strerror}: {path}); name a folder on a "
            "local disk"
        ) from None
    return lock
