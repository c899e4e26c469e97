"""The two tables of docs/results.md that are written from JSON files, each between its markers.

What was measured on an accelerator and what its compiler estimated are never in one column: a
measured cell comes from a file of `accelerator.py` alone, an estimated one from a file of
`compiled.py` alone.
"""

import itertools
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import compiled
import numpy as np

from sop_jax.errors import UserError
from sop_jax.files import read_json, write_text

PAGE = pathlib.Path("docs/results.md")
COMPILED = pathlib.Path("benchmarks/results/compiled")  # with `before` and `after`
TOPOLOGY = "h100:4"  # whose estimates stand beside what was measured
NETWORK = "preact_resnet18"
METHODS = ("ce", "sop", "sop_plus")
NAMES = {"ce": "CE", "sop": "SOP", "sop_plus": "SOP+"}
NOT_MEASURED, NO_ESTIMATE = "not measured", "-"

Result = Mapping[str, Any]  # a JSON file
Estimates = Mapping[str, Result]  # by method


class Row(NamedTuple):
    """A line of the table of measurements."""

    what: str
    goal: str
    piece: str  # the file it comes from, without .json
    measured: Callable[[Result], str]
    estimated: Callable[[Estimates], str] | None = None  # None: the compiler knows nothing of it


def images_per_second(result: Result) -> str:
    return " / ".join(f"{result['images_per_second'][method]:,.0f}" for method in METHODS)


def over_torch(key: str) -> Callable[[Result], str]:
    """Our images/s over PyTorch's, of every variant."""
    return lambda result: ", ".join(f"{name} {r:.2f}" for name, r in result[key].items())


def share(estimate: Result, part: str) -> float:
    """Of a part in the estimated time of a step."""
    return estimate["parts"].get(part, {}).get("ms", 0.0) / estimate["estimate"]["step_ms"]


def step_ms(estimate: Result) -> float:
    return estimate["estimate"]["step_ms"]


def throughput_rows() -> list[Row]:
    def speeds(estimates: Estimates) -> str:
        each = (estimates[name]["estimate"]["images_per_second_per_device"] for name in METHODS)
        return " / ".join(f"{speed:,.0f}" for speed in each)

    def augmentation(estimates: Estimates) -> str:
        return " / ".join(f"{share(estimates[m], 'augmentation'):.1%}" for m in METHODS[1:])

    def over_ce(method: str) -> Callable[[Estimates], str]:
        return lambda estimates: f"{step_ms(estimates[method]) / step_ms(estimates['ce']):.2f}"

    main = "dispatch_64"
    return [
        Row(
            "PreAct ResNet-18, B = 128, 64 steps a dispatch: images/s, CE / SOP / SOP+",
            "",
            main,
            images_per_second,
            speeds,
        ),
        Row(
            "SOP over CE, step time",
            "<= 1.02",
            main,
            lambda result: f"{result['sop_over_ce']:.2f}",
            over_ce("sop"),
        ),
        Row(
            "SOP+ over CE, step time",
            "<= 2.05",
            main,
            lambda result: f"{result['sop_plus_over_ce']:.2f}",
            over_ce("sop_plus"),
        ),
        Row(
            "share of a large matrix product's FLOP/s (estimated: of the maker's FLOP/s), CE",
            "35 %",
            main,
            lambda result: f"{result['utilisation']['ce']:.1%}",
            lambda estimates: f"{estimates['ce']['estimate']['utilisation']:.1%}",
        ),
        Row(
            "making the batch, share of a SOP / SOP+ step",
            "< 3 %",
            main,
            lambda result: " / ".join(
                f"{result['augmentation_share_of_step'][method]:.1%}" for method in METHODS[1:]
            ),
            augmentation,
        ),
        *(
            Row(
                f"ours over PyTorch, images/s of {NAMES[method]}"
                + (", weak second view" if method == "sop_plus" else ""),
                "plain >= 1.1" if method == "ce" else "",
                "peer",
                over_torch("ours_over_torch" if method == "ce" else f"ours_over_torch_{method}"),
            )
            for method in METHODS
        ),
        *(
            Row(
                f"B = 128, steps a dispatch: {steps}; images/s, CE / SOP / SOP+",
                "",
                f"dispatch_{steps}",
                images_per_second,
            )
            for steps in (1, 16, 256)
        ),
        *(
            Row(f"B = {batch}: images/s, CE / SOP / SOP+", "", f"batch_{batch}", images_per_second)
            for batch in (256, 512, 1024, 2048)
        ),
    ]


def table_row(num_classes: int) -> Row:
    """Whether a step's time grows with the rows."""

    def ratios(result: Result) -> str:
        measured = result["results"][1:]  # the first is the one with the fewest rows
        return ", ".join(
            f"{one['rows'] / 1e6:g}M {one['ratio_to_smallest']:.2f}" for one in measured
        )

    what = f"step time at N rows over 50k, small network at 8x8 (K = {num_classes})"
    return Row(what, "<= 1.05", f"table_{num_classes}", ratios)


def accuracy(result: Result) -> str:
    """Over the seeds: test accuracy at the last epoch, and minutes."""
    runs = result["runs"]
    last = 100 * np.array([run["test_accuracy_last"] for run in runs])
    spread = f" +- {last.std(ddof=1):.2f}" if len(runs) > 1 else ""
    trained, wall = (
        float(np.mean([run[key] for run in runs])) / 60
        for key in ("training_seconds", "wall_seconds")
    )
    seeds = f"{len(runs)} seed{'s' * (len(runs) > 1)}"
    return f"{last.mean():.2f}{spread} % ({seeds}); {trained:.1f} min training, {wall:.1f} in all"


def rows() -> list[Row]:
    return [
        *throughput_rows(),
        *map(table_row, (10, 100, 1000)),
        Row(
            "`cifar10n_fast`, random1: last test accuracy; time a seed",
            "95.28 % in 60 s",
            "cifar10n_fast",
            accuracy,
        ),
        Row(
            "`cifar10n_sop_plus`, worst labels, likewise",
            "paper: 93.24 %",
            "cifar10n_sop_plus",
            accuracy,
        ),
        Row("`cifar10n_ce`, worst labels, likewise", "paper: 77.69 %", "cifar10n_ce", accuracy),
    ]


def line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def read_all(folder: pathlib.Path) -> dict[str, Result]:
    """The folder's JSON files by name, without .json."""
    mend = "delete it and measure again"
    return {path.stem: read_json(path, mend) for path in sorted(folder.glob("*.json"))}


def estimates_of(results: Mapping[str, Result], topology: str, network: str) -> dict[str, Result]:
    """Of each method that was compiled."""
    names = {method: compiled.file_name(topology, network, method) for method in METHODS}
    stems = {method: name.removesuffix(".json") for method, name in names.items()}
    return {method: results[stem] for method, stem in stems.items() if stem in results}


def device_of(result: Result) -> str:
    """How many devices of which kind."""
    kinds = [device.split(" ", 1)[1] for device in result["devices"]]
    return f"{len(kinds)} x {kinds[0]}"


def versions_of(result: Result) -> str:
    """Of what ran, or compiled, the program."""
    names = ("jax", "torch", "libtpu", "jax-cuda12-plugin", "nvidia-cuda-nvcc-cu12")
    versions = result["versions"]
    return ", ".join(f"{name} {versions[name]}" for name in names if versions.get(name))


def measured_table(results: Mapping[str, Result], estimates: Estimates) -> str:
    """Measured on an accelerator.

    Args:
      results: of `accelerator.py`, by piece.
      estimates: of TOPOLOGY and NETWORK, by method; there may be none.
    """
    lines = [
        line("what", "goal", "measured", "on", f"estimated by the compiler, {TOPOLOGY}"),
        line(*["---"] * 5),
    ]
    for row in rows():
        result = results.get(row.piece)
        measured, device = NOT_MEASURED, "-"
        if result is not None:
            measured, device = row.measured(result), device_of(result)
        estimated = NO_ESTIMATE
        if row.estimated is not None and set(METHODS) <= set(estimates):
            estimated = row.estimated(estimates)
        lines.append(line(row.what, row.goal, measured, device, estimated))
    lines += [
        "",
        f"Estimates are of one device's share of a step on {TOPOLOGY} (B = 128 a device) and were "
        "checked against no chip; a dash: the compiler has none.",
    ]
    pieces = [piece for piece in dict.fromkeys(row.piece for row in rows()) if piece in results]
    if pieces:
        lines += ["Measured by, in `benchmarks/results/accelerator/`:", ""]
    for piece in pieces:
        one = results[piece]
        commit = (one["git_commit"] or "unknown")[:7]
        lines.append(
            f"- `{piece}.json`: {device_of(one)}, {versions_of(one)}, {one['started'][:10]}, "
            f"commit {commit}: `{one['command']}`"
        )
    return "\n".join(lines)


def compiled_table(before: Mapping[str, Result], after: Mapping[str, Result]) -> str:
    """Estimated by the compiler: every program that was compiled, before and after."""
    lines = [
        line(
            "topology",
            "network, B a device",
            "method",
            "before, ms a step",
            "after",
            "utilisation",
            "making the batch",
            "u and v, tracker",
            "over CE",
        ),
        line(*["---"] * 9),
    ]
    for topology, network in itertools.product(compiled.TOPOLOGIES, compiled.NETWORKS):
        olds, news = (estimates_of(results, topology, network) for results in (before, after))
        for method in METHODS:
            old, new = olds.get(method), news.get(method)
            if old is None and new is None:
                continue
            cells = [NO_ESTIMATE] * 5
            if new is not None:
                cells[:4] = [
                    f"{step_ms(new):.2f}",
                    f"{new['estimate']['utilisation']:.1%}",
                    f"{share(new, 'augmentation'):.1%}",
                    f"{share(new, 'table'):.1%}",
                ]
                if method != "ce" and "ce" in news:
                    cells[4] = f"{step_ms(new) / step_ms(news['ce']):.2f}"
            lines.append(
                line(
                    topology,
                    f"{network}, {(new or old)['batch_size_per_device']}",
                    NAMES[method],
                    NO_ESTIMATE if old is None else f"{step_ms(old):.2f}",
                    *cells,
                )
            )
    versions = sorted({versions_of(one) for one in (*before.values(), *after.values())})
    lines += [
        "",
        "Columns from `after` on are of the program as it is now, shares are of its step. Each "
        "file in `benchmarks/results/compiled/` (`before`, `after`) holds its command. "
        f"Compiled by: {'; '.join(versions) or 'nothing yet'}.",
    ]
    return "\n".join(lines)


def between(page: str, name: str, content: str) -> str:
    """The page with new content between the markers of this name."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    parts = re.split(f"({re.escape(begin)}|{re.escape(end)})", page)
    if parts[1::2] != [begin, end]:
        raise UserError(f"the page must have {begin} and {end} once each, in this order")
    return f"{parts[0]}{begin}\n{content}\n{end}{parts[4]}"


def write(page: pathlib.Path, accelerator: pathlib.Path, compiled_for: pathlib.Path) -> None:
    """Writes both tables into the page.

    Args:
      page: has the markers of both.
      accelerator: folder of the results of `accelerator.py`.
      compiled_for: folder with those of `compiled.py` in `before` and `after`.
    """
    before, after = (read_all(compiled_for / name) for name in ("before", "after"))
    estimates = estimates_of(after, TOPOLOGY, NETWORK)
    text = page.read_text("utf-8")
    text = between(text, "accelerator", measured_table(read_all(accelerator), estimates))
    text = between(text, "compiled", compiled_table(before, after))
    write_text(page, text)
    print(f"wrote {page}")
