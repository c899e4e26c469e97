"""What the commands of the package share: every mistake ends in one line on standard error."""

import contextlib
import os
import sys
from typing import Protocol

from sop_jax.errors import UserError


class Command(Protocol):
    """A command whose line has been read."""

    def __call__(self) -> None:
        """Does its work and prints what it found."""


def exit_status(command: Command) -> int:
    """Runs a command and prints `error: ...` where it fails.

    Returns:
      0; 2 after a mistake of the user, a failing file system or a closed standard output; 130 after
      Ctrl-C.
    """
    try:
        command()
        sys.stdout.flush()
    except UserError as error:
        return _fail(str(error), 2)
    except OSError as error:  # one without a file's name comes from printing
        _discard_output()
        return _fail(f"{error.filename or 'standard output'}: {error.strerror or error}", 2)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    return 0


def _fail(message: str, status: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return status


def _discard_output() -> None:
    """What is still in the buffer cannot be printed at exit either, and Python would say so."""
    with contextlib.suppress(OSError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
