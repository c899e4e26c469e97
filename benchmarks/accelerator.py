"""Everything that is to be measured on a real GPU or TPU: one command, in pieces that resume.

    python benchmarks/accelerator.py [--minutes=9] [--data_dir=DIR] [--only=peer ...]
    python benchmarks/accelerator.py --tables

The same command goes on until every piece has its JSON file in --out; the most valuable come first.
A piece that is there is left, one that fails writes nothing, says so in one line and makes the exit
status 1. When --minutes are over the piece at work is stopped: a benchmark begins anew next time, a
training run has saved a checkpoint and goes on from it. --tables measures nothing and writes the
tables of docs/results.md from the files. Run it in the repository's root.

What a piece prints, and the folders of the training runs, are in --runs, which git ignores. From a
machine that is lent for minutes only a few small files can be fetched, and a checkpoint of PreAct
ResNet-18 has about 100 MB: so the training runs live and die with the warm machine (SIGTERM to this
process stops it as the end of --minutes does), and the results are packed after each call:

    python benchmarks/accelerator.py --out=runs/results --data_dir=DIR
    tar -czf results.tar.gz runs/results runs/accelerator/*.log

Put back into runs/results on the next machine, they are not measured again.

Several seeds against one are not raced: `num_seeds` runs them one after the other with the same
compiled programs (benchmarks/NOTES.md), so their throughput is one seed's. What the five seeds of
the fast recipe take stands in its own file.
"""

import argparse
import importlib.util
import json
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import collect
import results_tables

from sop_jax.files import read_json, write_json

RESULTS = pathlib.Path("benchmarks/results/accelerator")
DISPATCHES = (64, 1, 16, 256)  # steps; 64 is the default of training
BATCHES = (256, 512, 1024, 2048)  # 128 is that of the dispatches
NUM_CLASSES = (10, 100, 1000)
ACCURACY = {  # config, and seeds
    "cifar10n_fast": ("configs/cifar10n_fast.py", 5),
    "cifar10n_sop_plus": ("configs/cifar10n_sop_plus.py", 1),  # its labels are the worst
    "cifar10n_ce": ("configs/cifar10n_ce.py", 1),
}
TINY = (
    "--network=small_resnet",
    "--batch_size=16",
    "--steps=2",
    "--steps_per_dispatch=1",
    "--image_size=8",
    "--num_rows=64",
)
TOY = {  # the pieces that a CPU tries, and what makes them tiny; the last of a flag counts
    "peer": TINY,
    "dispatch_64": TINY,
    "batch_256": TINY,
    "table_10": ("--rows=1000,4000", "--batch_size=16", "--steps=3"),
    "cifar10n_fast": ("--config=configs/digits_sop_plus.py", "--config.num_seeds=2"),
    "cifar10n_ce": ("--config=configs/digits_ce.py",),
}
TOY_RUN = (
    "--config.data.train_limit=100",
    "--config.model.width=2",
    "--config.batch_size=48",
    "--config.epochs=12",
)
GRACE = 40  # seconds to save a checkpoint in; then a run is killed, which it survives too


class Piece(NamedTuple):
    """What is measured by one command."""

    name: str  # of its file, without .json
    arguments: Sequence[str]  # of Python
    missing: str | None = None  # what it needs and is not here
    trains: bool = False  # a run with a folder of its own, else a benchmark that writes its file


def throughput(name: str, dispatch: int, batch: int, *flags: str) -> Piece:
    """A race of CE, SOP and SOP+ on PreAct ResNet-18."""
    rounds = max(8, 512 // dispatch)
    rows = max(50_000, 2 * dispatch * batch)  # an epoch must hold a dispatch
    return Piece(
        name,
        (
            "benchmarks/throughput.py",
            "--network=preact_resnet18",
            f"--batch_size={batch}",
            f"--steps={rounds}",
            f"--steps_per_dispatch={dispatch}",
            f"--num_rows={rows}",
            *flags,
        ),
    )


def benchmarks() -> list[Piece]:
    """Those without data."""
    race = ("--peer=torch", "--peer_methods", "ce", "sop", "sop_plus", "--strong=weak")
    missing = None if importlib.util.find_spec("torch") else "PyTorch is not installed"
    return [
        throughput("peer", 64, 128, *race)._replace(missing=missing),
        *(throughput(f"dispatch_{steps}", steps, 128) for steps in DISPATCHES),
        *(throughput(f"batch_{batch}", 64, batch) for batch in BATCHES),
        # a file for each K: the largest tables may not fit, and take no other figures with them
        *(
            Piece(
                f"table_{num_classes}",
                (
                    "benchmarks/table_scale.py",
                    "--max_bytes=40000000000",
                    f"--num_classes={num_classes}",
                ),
            )
            for num_classes in NUM_CLASSES
        ),
    ]


def training(data_dir: pathlib.Path | None) -> list[Piece]:
    """The runs whose accuracy and time are wanted."""
    missing = None
    if data_dir is None or not data_dir.is_dir():
        missing = f"no TFDS folder with cifar10 and cifar10_n (--data_dir={data_dir})"
    return [
        Piece(
            name,
            (
                "-m",
                "sop_jax.main",
                f"--config={config}",
                f"--config.num_seeds={seeds}",
                f"--config.data.dir={data_dir}",
            ),
            missing,
            trains=True,
        )
        for name, (config, seeds) in ACCURACY.items()
    ]


def toy(pieces: list[Piece]) -> list[Piece]:
    """Those of TOY at its sizes; the training runs are of digits, which need no folder."""
    return [
        piece._replace(arguments=("-m", "sop_jax.main", *TOY[piece.name], *TOY_RUN), missing=None)
        if piece.trains
        else piece._replace(arguments=(*piece.arguments, *TOY[piece.name]))
        for piece in pieces
        if piece.name in TOY
    ]


def run(command: Sequence[str], log: pathlib.Path, seconds: float) -> int | None:
    """Runs a command, what it prints in `log`.

    Returns:
      Its exit status, or None where it was stopped by SIGTERM after `seconds`.
    """
    with open(log, "wb") as file:
        child = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            return child.wait(max(0, seconds))
        except subprocess.TimeoutExpired:
            return None
        finally:  # also where this process is told to stop
            if child.poll() is None:
                child.terminate()
                try:
                    child.wait(GRACE)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()


def figures_of(workdir: pathlib.Path) -> dict:
    """What is kept of a finished run, or of a group of seeds.

    `training_seconds` leave out compiling, evaluation and cross-fitting, and of an epoch in which
    the run was stopped what was trained before; `wall_seconds` hold all of every session.
    """
    folders = sorted(workdir.glob("seed_*")) or [workdir]
    runs = []
    for folder in folders:
        facts = read_json(folder / "run.json", "train again in an empty folder")
        epochs = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        runs.append(
            collect.collect(folder)
            | {
                "training_seconds": sum(epoch["seconds"] for epoch in epochs),
                "sessions": len(facts["sessions"]),
            }
        )
    about = ("command", "started", "git_commit", "devices", "cpu_count", "versions")
    return {name: runs[0][name] for name in about} | {"runs": runs}


def measure(
    piece: Piece, out: pathlib.Path, runs: pathlib.Path, seconds: float
) -> tuple[bool, str]:
    """Does a piece, or as much of it as the time allows.

    Returns:
      Whether nothing went wrong, and what happened in a line.
    """
    file, workdir, log = out / f"{piece.name}.json", runs / piece.name, runs / f"{piece.name}.log"
    target = f"--workdir={workdir}" if piece.trains else f"--out={file}"
    start = time.monotonic()
    status = run([sys.executable, *piece.arguments, target], log, seconds)
    if status:
        lines = log.read_text(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "it printed nothing")
        return False, f"failed with exit status {status}: {last.strip()} (see {log})"
    if piece.trains and (workdir / "finished.json").exists():
        write_json(file, figures_of(workdir))
    if not file.exists():
        return True, "stopped, the time is over; the same command goes on"
    return True, f"done in {time.monotonic() - start:.0f} s"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [piece.name for piece in (*benchmarks(), *training(None))]
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS, help="folder of the results")
    parser.add_argument(
        "--runs",
        type=pathlib.Path,
        default=pathlib.Path("runs/accelerator"),
        help="folder of the training runs and of what the pieces print",
    )
    parser.add_argument("--minutes", type=float, default=9, help="after which nothing is at work")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="PIECE")
    parser.add_argument("--data_dir", type=pathlib.Path, help="TFDS folder of CIFAR-10N")
    parser.add_argument("--toy", action="store_true", help="tiny sizes, to try it on a CPU")
    parser.add_argument("--tables", action="store_true", help="write the tables, measure nothing")
    flags = parser.parse_args()
    if flags.toy and flags.out == RESULTS:
        parser.error("--toy needs an --out of its own: its figures mean nothing")
    return flags


def main() -> int:
    """Returns the exit status: 1 where a piece failed."""
    flags = parse()
    if flags.tables:
        results_tables.write(results_tables.PAGE, flags.out, results_tables.COMPILED)
        return 0
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    end = time.monotonic() + 60 * flags.minutes
    pieces = [*benchmarks(), *training(flags.data_dir)]
    wanted = [piece for piece in (toy(pieces) if flags.toy else pieces) if piece.name in flags.only]
    for folder in (flags.out, flags.runs):
        folder.mkdir(parents=True, exist_ok=True)
    failed = False
    for piece in wanted:
        if (flags.out / f"{piece.name}.json").exists():
            continue
        if piece.missing:
            print(f"{piece.name}: skipped, {piece.missing}", flush=True)
        elif time.monotonic() < end:
            fine, line = measure(piece, flags.out, flags.runs, end - time.monotonic())
            failed |= not fine
            print(f"{piece.name}: {line}", flush=True)
        else:
            print(f"{piece.name}: not begun, the time is over", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
