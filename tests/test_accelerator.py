"""benchmarks/accelerator.py at toy sizes: which pieces it does, and the tables made of them."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "benchmarks"))
import accelerator
import compiled
import results_tables

from sop_jax.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[1]
TOY = {"dispatch_64", "batch_256", "table_10", "cifar10n_fast", "cifar10n_ce"}
MARKERS = (
    "# Speed\n<!-- accelerator: begin -->\nstale\n<!-- accelerator: end -->\nbetween\n"
    "<!-- compiled: begin -->\n<!-- compiled: end -->\nlast\n"
)
ABOUT = {
    "command": "python benchmarks/x.py --out=FILE",
    "started": "2026-11-25T10:00:00+00:00",
    "git_commit": "0123456789",
    "devices": ["cuda:0 NVIDIA H100 80GB HBM3"],
    "versions": {"jax": "0.11.2", "torch": None},
}
RACE = ABOUT | {
    "images_per_second": {"ce": 51234.5, "sop": 50000.0, "sop_plus": 25000.0},
    "sop_over_ce": 1.0123,
    "sop_plus_over_ce": 2.0345,
    "utilisation": {"ce": 0.311},
    "augmentation_share_of_step": {"sop": 0.011, "sop_plus": 0.022},
    "ours_over_torch": {"plain": 1.5, "graphed": 1.25},
    "ours_over_torch_sop": {"plain": 1.6},
    "ours_over_torch_sop_plus": {"plain": 1.7},
}
SEED = {"training_seconds": 60.0, "wall_seconds": 150.0}


def estimate(method, ms, topology="h100:4", network="preact_resnet18"):
    """(file, content) as `sop_jax.compile_for` writes it."""
    return compiled.file_name(topology, network, method), {
        "batch_size_per_device": 128,
        "parts": {"augmentation": {"ms": ms / 4}, "table": {"ms": ms / 50}, "method": {}},
        "estimate": {
            "step_ms": ms,
            "images_per_second_per_device": 128e3 / ms,
            "utilisation": 0.123,
        },
        "command": "python -m sop_jax.compile_for ...",
        "versions": {"jax": "0.10.2", "libtpu": "0.0.42.1"},
    }


def tables(folder, measured=(), before=(), after=()):
    """The page's text and, by table, the cells of every line."""
    for name, files in (
        ("accelerator", measured),
        ("compiled/before", before),
        ("compiled/after", after),
    ):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for file, content in dict(files).items():
            (folder / name / file).write_text(json.dumps(content))
    page = folder / "page.md"
    page.write_text(MARKERS)
    results_tables.write(page, folder / "accelerator", folder / "compiled")
    text = page.read_text()
    found = {}
    for name in ("accelerator", "compiled"):
        part = re.search(f"<!-- {name}: begin -->(.*)<!-- {name}: end -->", text, re.S)[1]
        lines = [line for line in part.splitlines() if line.startswith("|")]
        found[name] = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
    return text, found["accelerator"], found["compiled"]


def test_without_files_every_cell_says_so_and_the_rest_of_the_page_stays(tmp_path):
    text, measured, estimated = tables(tmp_path)
    assert text.startswith("# Speed\n") and "\nbetween\n" in text and text.endswith("\nlast\n")
    assert "stale" not in text
    assert len(measured) > 20 and all(row[2:] == ["not measured", "-", "-"] for row in measured[2:])
    assert len(estimated) == 2


def test_measured_cells_come_with_their_device_version_and_command(tmp_path):
    runs = [SEED | {"test_accuracy_last": accuracy} for accuracy in (0.95, 0.96)]
    measured = {
        "dispatch_64.json": RACE,
        "peer.json": RACE,
        "table_10.json": ABOUT
        | {
            "results": [
                {"rows": rows, "ratio_to_smallest": ratio}
                for rows, ratio in ((50_000, 1.0), (1_000_000, 1.013), (5_000_000, 1.02))
            ]
        },
        "cifar10n_fast.json": ABOUT | {"runs": runs},
        "cifar10n_ce.json": ABOUT | {"runs": runs[:1]},
    }
    text, rows, _ = tables(tmp_path, measured)
    cells = {row[0]: row[2:] for row in rows}
    h100 = "1 x NVIDIA H100 80GB HBM3"
    for what, cell in (
        ("SOP over CE, step time", "1.01"),
        ("making the batch, share of a SOP / SOP+ step", "1.1% / 2.2%"),
        ("ours over PyTorch, images/s of CE", "plain 1.50, graphed 1.25"),
        ("step time at N rows over 50k, small network at 8x8 (K = 10)", "1M 1.01, 5M 1.02"),
        (
            "`cifar10n_fast`, random1: last test accuracy; time a seed",
            "95.50 +- 0.71 % (2 seeds); 1.0 min training, 2.5 in all",
        ),
        (
            "`cifar10n_ce`, worst labels, likewise",
            "95.00 % (1 seed); 1.0 min training, 2.5 in all",
        ),
    ):
        assert cells[what] == [cell, h100, "-"]
    assert cells["B = 256: images/s, CE / SOP / SOP+"] == ["not measured", "-", "-"]
    assert (
        f"- `peer.json`: {h100}, jax 0.11.2, 2026-11-25, commit 0123456: `{ABOUT['command']}`"
        in text
    )


def test_measured_and_estimated_figures_never_share_a_column(tmp_path):
    after = [estimate("ce", 2.0), estimate("sop", 2.1), estimate("sop_plus", 3.0)]
    _, only_estimated, _ = tables(tmp_path / "estimated", after=after)
    _, only_measured, _ = tables(tmp_path / "measured", {"dispatch_64.json": RACE})
    _, both, _ = tables(tmp_path / "both", {"dispatch_64.json": RACE}, after=after)
    assert {row[2] for row in only_estimated[2:]} == {"not measured"}
    assert {row[4] for row in only_measured[2:]} == {"-"}
    assert [row[4] for row in both] == [row[4] for row in only_estimated]
    assert [row[:4] for row in both] == [row[:4] for row in only_measured]
    cells = {row[0]: row for row in both}
    assert cells["SOP+ over CE, step time"][2:] == ["2.03", "1 x NVIDIA H100 80GB HBM3", "1.50"]
    # where one method was not compiled there is no estimate, rather than half of one
    _, rows, _ = tables(tmp_path / "half", after=after[:2])
    assert {row[4] for row in rows[2:]} == {"-"}


def test_the_compiled_table_has_before_and_after(tmp_path):
    before = [estimate("ce", 5.0, "v5e:2x2"), estimate("sop_plus", 25.0, "v5e:2x2")]
    after = [estimate("ce", 4.0, "v5e:2x2"), estimate("sop", 4.5, "v5e:2x2", "fast_net")]
    text, _, rows = tables(tmp_path, before=before, after=after)
    assert rows[2:] == [
        ["v5e:2x2", "preact_resnet18, 128", "CE", "5.00", "4.00", "12.3%", "25.0%", "2.0%", "-"],
        ["v5e:2x2", "preact_resnet18, 128", "SOP+", "25.00", "-", "-", "-", "-", "-"],
        ["v5e:2x2", "fast_net, 128", "SOP", "-", "4.50", "12.3%", "25.0%", "2.0%", "-"],
    ]
    assert "Compiled by: jax 0.10.2, libtpu 0.0.42.1." in text
    _, _, rows = tables(tmp_path, after=[estimate("sop_plus", 10.0, "v5e:2x2")])
    assert rows[3][-1] == "2.50"


def test_the_page_in_the_repository_has_the_markers():
    page = (ROOT / results_tables.PAGE).read_text()
    for name in ("accelerator", "compiled"):
        assert "new" in results_tables.between(page, name, "new")
    with pytest.raises(UserError, match="once each"):
        results_tables.between(page + "<!-- compiled: end -->", "compiled", "new")


def test_a_command_is_stopped_by_sigterm_when_its_time_is_over(tmp_path):
    program = "import time; time.sleep(60)"
    log = tmp_path / "log"
    assert accelerator.run([sys.executable, "-c", program], log, 0.2) is None
    assert accelerator.run([sys.executable, "-c", "print('why'); exit(3)"], log, 60) == 3
    assert log.read_text() == "why\n"


def test_a_failing_piece_writes_nothing_and_says_why_in_a_line(tmp_path):
    piece = accelerator.Piece("peer", ("-c", "import sys; sys.exit('it is broken')"))
    fine, line = accelerator.measure(piece, tmp_path, tmp_path, 60)
    assert not fine and line.startswith("failed with exit status 1: it is broken")
    assert not list(tmp_path.glob("*.json"))


def test_the_published_runs_need_their_data(tmp_path):
    assert all("--data_dir=None" in piece.missing for piece in accelerator.training(None))
    assert all(piece.missing for piece in accelerator.training(tmp_path / "nowhere"))
    assert not any(piece.missing for piece in accelerator.training(tmp_path))


def begin(folder, *flags):
    """The command at toy sizes as a process, results and runs in `folder`."""
    paths = (f"--out={folder / 'out'}", f"--runs={folder / 'runs'}")
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return subprocess.Popen(
        [sys.executable, "benchmarks/accelerator.py", "--toy", *paths, *flags],
        cwd=ROOT,
        env=environment | {"JAX_PLATFORMS": "cpu"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.mark.slow
def test_every_piece_is_done_once_and_fills_its_row(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "peer.json").write_text(json.dumps(RACE))  # there already, so that it is not raced
    first = begin(tmp_path)
    printed = first.communicate()[0]
    assert first.returncode == 0, printed
    assert {path.stem for path in out.glob("*.json")} == TOY | {"peer"}
    assert {line.split(":")[0] for line in printed.splitlines()} == TOY
    assert len(json.loads((out / "cifar10n_fast.json").read_text())["runs"]) == 2
    written = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    second = begin(tmp_path)
    assert second.communicate()[0] == "" and second.returncode == 0
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == written
    rows = results_tables.measured_table(results_tables.read_all(out), {}).splitlines()
    # five rows of dispatch_64, three of the peer, one of each other piece
    assert sum("| 1 x cpu |" in row for row in rows) == 5 + 4
    assert sum("| 1 x NVIDIA" in row for row in rows) == 3


@pytest.mark.slow
def test_a_training_run_that_was_stopped_goes_on(tmp_path):
    only = "--only=cifar10n_fast"
    stopped = begin(tmp_path, only)
    metrics = tmp_path / "runs" / "cifar10n_fast" / "seed_0" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text()):  # until it has trained an epoch
        assert stopped.poll() is None, stopped.communicate()[0]
        time.sleep(0.05)
    stopped.send_signal(signal.SIGTERM)
    stopped.communicate()
    file = tmp_path / "out" / "cifar10n_fast.json"
    assert stopped.returncode == 128 + signal.SIGTERM and not file.exists()
    limited = begin(tmp_path, only, "--minutes=0.02")
    assert "stopped, the time is over" in limited.communicate()[0]
    assert limited.returncode == 0 and not file.exists()
    last = begin(tmp_path, only)
    printed = last.communicate()[0]
    assert last.returncode == 0, printed
    first, second = json.loads(file.read_text())["runs"]
    assert first["sessions"] >= 2 and second["sessions"] == 1
