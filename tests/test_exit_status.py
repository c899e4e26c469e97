"""What the commands share: one line on standard error, and the exit status."""

import subprocess
import sys

import pytest

from sop_jax.errors import UserError
from sop_jax.exit_status import exit_status


@pytest.mark.parametrize(
    "error, status, line",
    [
        (UserError("FILE: is\n damaged"), 2, "error: FILE: is damaged"),
        (OSError(28, "No space left on device", "a/b"), 2, "error: a/b: No space left on device"),
        (BrokenPipeError(32, "Broken pipe"), 2, "error: standard output: Broken pipe"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
    ],
)
def test_each_failure_is_one_line(error, status, line, capsys):
    def command():
        raise error

    assert exit_status(command) == status
    assert capsys.readouterr().err == f"{line}\n"


def test_success_says_nothing_and_a_fault_of_ours_is_not_hidden(capsys):
    assert exit_status(lambda: print("done")) == 0
    assert capsys.readouterr() == ("done\n", "")
    with pytest.raises(ZeroDivisionError):
        exit_status(lambda: print(1 / 0))


PROGRAM = (
    "import sys; from sop_jax.exit_status import exit_status;"
    "sys.exit(exit_status(lambda: print('x' * 1_000_000)))"
)


def test_a_reader_that_leaves_early_gets_no_traceback():
    """`python -m sop_jax.compare ... | head -1`: nothing below the line, at exit either."""
    command = [sys.executable, "-c", PROGRAM]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    started.stdout.close()
    assert started.stderr.read() == "error: standard output: Broken pipe\n"
    started.stderr.close()
    assert started.wait() == 2


def test_a_full_disk_under_the_output_is_one_line():
    command = [sys.executable, "-c", PROGRAM]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: standard output: No space left on device\n"
