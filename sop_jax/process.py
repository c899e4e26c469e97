"""How the process of the command line ends: signals, and a standard output that fails."""

import contextlib
import os
import signal
import sys
from types import FrameType
from typing import TextIO

from sop_jax.errors import UserError


class Output:
    """Standard output whose failure is told apart from that of the run's own files."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """As of a text stream; raises UserError where it cannot be written."""
        with _told_apart():
            return self._stream.write(text)

    def flush(self) -> None:
        """As of a text stream; raises UserError where it cannot be written."""
        with _told_apart():
            self._stream.flush()


@contextlib.contextmanager
def _told_apart():
    try:
        yield
    except OSError as error:  # a full disk behind `>`, a closed pipe behind `|`
        raise UserError(
            f"standard output cannot be written ({error.strerror}); what is saved is kept, and the "
            "same command goes on from it"
        ) from None


def take_over() -> None:
    """Prepares this process, which belongs to the command line alone, for every end."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (open as long as the process)
    sys.stdout = Output(sys.stdout)
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)


def leave(status: int) -> None:
    """Ends the process where it failed: at once.

    No thread of a library may write below the error line, or wait for other processes.
    """
    if status:
        os._exit(status)


def _stop(number: int, frame: FrameType | None) -> None:
    """Leaves at once on SIGTERM (outside training, which handles it itself) and on Ctrl-C.

    Files are whole at any moment, so that nothing has to be ended first.
    """
    goes_on = "the same command goes on from the last checkpoint"
    if number == signal.SIGTERM:
        _write_line(sys.stdout, f"stopped by SIGTERM outside training; {goes_on}")
        os._exit(0)
    if _is_one_of_several():  # the others are to hear of it
        raise KeyboardInterrupt
    _write_line(sys.stderr, f"error: interrupted; {goes_on}")
    os._exit(130)


def _is_one_of_several() -> bool:
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def _write_line(stream: TextIO, text: str) -> None:
    """Past the stream's buffer, in which the signal may have come; below a progress bar."""
    start = "\n" if stream.isatty() else ""
    with contextlib.suppress(OSError):
        os.write(stream.fileno(), f"{start}{text}\n".encode())
