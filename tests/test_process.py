"""Every end of the command line's process is one line, with the right status and no traceback."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PROGRAM = """
import sys, time
from sop_jax.process import leave, take_over
take_over()
for number in range(200_000):
    print("line", number, flush=True)
leave(3)
"""


def program(text=PROGRAM, **options):
    return subprocess.Popen(
        [sys.executable, "-c", text], cwd=ROOT, text=True, stderr=subprocess.PIPE, **options
    )


@pytest.mark.parametrize(
    ("number", "status", "words"),
    [
        (signal.SIGTERM, 0, "stopped by SIGTERM outside training; the same command goes on"),
        (signal.SIGINT, 130, "error: interrupted; the same command goes on"),
    ],
)
def test_a_signal_amid_printing_ends_in_one_line(number, status, words):
    """The handler must not print: the stream that the signal broke into refuses that."""
    run = program(stdout=subprocess.PIPE)
    assert run.stdout.readline() == "line 0\n"
    run.send_signal(number)
    out, err = run.communicate(timeout=30)
    assert run.returncode == status
    last = (out if number == signal.SIGTERM else err).splitlines()[-1]
    assert last.startswith(words)
    assert len(err.splitlines()) == (number == signal.SIGINT)


def main_of(*flags):
    """Text of a program that is `python -m sop_jax.main` with the flags."""
    return f"""
import runpy, sys
sys.argv = ["main", *{flags!r}]
runpy.run_module("sop_jax.main", run_name="__main__", alter_sys=True)
"""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_standard_output_is_not_blamed_on_the_run():
    with open("/dev/full", "w") as full:
        run = program(main_of("--help"), stdout=full)
        _, err = run.communicate(timeout=30)
    assert run.returncode == 2 and len(err.splitlines()) == 1
    assert err.startswith("error: standard output cannot be written (No space left on device)")


def test_a_standard_output_closed_by_its_reader():
    read, write = os.pipe()
    os.close(read)
    run = program(main_of("--help"), stdout=write)
    os.close(write)
    _, err = run.communicate(timeout=30)
    assert run.returncode == 2 and len(err.splitlines()) == 1
    assert err.startswith("error: standard output cannot be written (Broken pipe)")


def test_without_a_standard_output_nothing_is_said():
    command = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-c", main_of("--help")]
    done = subprocess.run(command, cwd=ROOT, text=True, stderr=subprocess.PIPE, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_failure_ends_at_once_with_its_status():
    run = program("from sop_jax.process import leave\nleave(0)\nleave(3)\nprint('late')")
    _, err = run.communicate(timeout=30)
    assert (run.returncode, err) == (3, "")
