"""Runs `main` and sends this process a signal as it is about to do a certain write in its workdir.

    python kill_at.py SIGNAL EVENT PATH COUNT main --config=... --workdir=...

EVENT is one of Python's audit events for a file that is opened for writing, renamed, made or
removed; PATH the file's, from the workdir; COUNT says which such write. With SIGNAL = 0 nothing is
sent, and all writes are listed in <workdir>.writes.
"""

import os
import runpy
import sys

number, (event, path, count) = int(sys.argv[1]), sys.argv[2:5]
sys.argv = sys.argv[5:]
workdir = next(arg.split("=", 1)[1] for arg in sys.argv if arg.startswith("--workdir="))
TARGETS = {"open": 0, "os.rename": 1, "os.mkdir": 0, "os.remove": 0}  # which argument is the file
writes = []


def watch(name: str, arguments: tuple) -> None:
    if name not in TARGETS:
        return
    target = arguments[TARGETS[name]]
    reads = name == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR)
    if reads or not isinstance(target, str | os.PathLike):
        return
    if os.path.abspath(target).startswith(os.path.abspath(workdir) + os.sep):
        writes.append((name, os.path.relpath(target, workdir)))
        if number and writes[-1] == (event, path) and writes.count((event, path)) == int(count):
            os.kill(os.getpid(), number)


sys.addaudithook(watch)
try:
    runpy.run_module("sop_jax.main", run_name="__main__", alter_sys=True)
finally:
    if not number:
        with open(f"{workdir}.writes", "w") as file:
            file.write("\n".join(map(" ".join, writes)))
