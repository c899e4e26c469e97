"""Mean +- std over seeds, one line a setting.

python -m sop_jax.compare RUN_DIR... [--out=FILE.json]
"""

import argparse
import json
import statistics
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from sop_jax.config import OPEN_GROUPS, default, flatten
from sop_jax.errors import UserError
from sop_jax.exit_status import exit_status
from sop_jax.files import write_json
from sop_jax.general import FITTED
from sop_jax.run_folder import group_folders, number, read_config_and_summary
from sop_jax.settings import CHOICES, RENAMED, choose, complete, described, idle

METRICS = {  # summary.json -> column heading
    "test_accuracy_last": "test_accuracy_last",
    "test_accuracy_best": "test_accuracy_best (diagnostic)",
    "label_issue_auroc": "label_issue_auroc",
    "label_issue_auprc": "label_issue_auprc",
    "label_issue_f1": "label_issue_f1",
    "noise_rate_actual": "noise_rate_actual",
    "noise_rate_estimated": "noise_rate_estimated",
    "label_accuracy_after": "label_accuracy_after",
    "images_per_second": "images_per_second",
}
NAMES = ("dataset", "noise", "network", "method")  # of a group
SEEDS = ("seed", "noise.seed")  # repeats of one setting differ in these
WHEREABOUTS = (  # beginnings of the fields without influence on the numbers
    "data.dir",
    "compilation_cache",
    "checkpoint_every",
    "distributed.",
    "num_seeds",
    "seeds_by",
)
OPEN = tuple(f"{group}." for group in OPEN_GROUPS)  # parts whose fields depend on a choice

Setting = dict[str, Any]  # a configuration by dotted field names
Group = dict[str, Any]  # see `compare`


def compare(workdirs: list[str]) -> tuple[list[Group], list[str]]:
    """Groups finished runs by everything in their configuration but the seed.

    A run of several seeds counts as so many. A field that a run is too old, or too new, to have
    stands at its default or, where that is unknown, at the one value that it has in the other runs
    of the same names.

    Returns:
        (groups, warnings). A group has dataset, noise, method, network, differs (the other fields
        in which it is not like groups of the same four names), runs, seeds, n, and metrics: {name:
        {mean, std, n}}, where std is the sample standard deviation (ddof=1; None for n = 1) and
        mean is None where no run knows the value.

    Raises:
        UserError: a run is missing, unfinished or damaged.
    """
    settings, summaries = {}, {}
    for workdir in dict.fromkeys(own for given in workdirs for own in _seeds(given)):
        config, summary = read_config_and_summary(Path(workdir))
        settings[workdir], summaries[workdir] = _completed(flatten(config)), summary
    _fill_absent(list(settings.values()))
    members: dict[str, list[str]] = {}
    for workdir, setting in settings.items():
        rest = {name: value for name, value in setting.items() if _matters(name)}
        members.setdefault(json.dumps(rest, sort_keys=True), []).append(workdir)

    groups, warnings = [], []
    for rest, runs in members.items():
        seeds = [tuple(settings[run].get(name) for name in SEEDS) for run in runs]
        group = {
            **_names(settings[runs[0]]),
            "differs": json.loads(rest),
            "n": len(runs),
            "runs": runs,
            "seeds": [seed for seed, _ in seeds],
            "metrics": {name: _statistics(name, runs, summaries) for name in METRICS},
        }
        groups.append(group)
        for seed, count in Counter(seeds).items():
            if count > 1:
                twice = ", ".join(run for run, own in zip(runs, seeds, strict=True) if own == seed)
                warnings.append(f"seed {seed[0]} occurs {count} times in one group: {twice}")
    _keep_differences(groups)
    groups.sort(key=lambda group: (*_key(group), json.dumps(group["differs"])))
    return groups, warnings


def markdown(groups: list[Group]) -> str:
    """Returns the groups as a Markdown table, accuracies as fractions."""
    header = ["dataset", "noise", "method", "network", "differs in", "n", "seeds"]
    header += METRICS.values()
    if not any(group["differs"] for group in groups):
        header.remove("differs in")
    lines = [header, ["---"] * len(header)]
    for group in groups:
        differs = [f"{name}={_text(value)}" for name, value in group["differs"].items()]
        cells = {name: group[name] for name in NAMES}
        cells |= {"n": str(group["n"]), "seeds": ", ".join(map(str, group["seeds"]))}
        cells["differs in"] = ", ".join(differs)
        for name, value in group["metrics"].items():
            cells[METRICS[name]] = _cell(name, value, group["n"])
        lines.append([cells[column].replace("|", "\\|") for column in header])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m sop_jax.compare", description=__doc__)
    parser.add_argument(
        "run_dirs", nargs="+", metavar="RUN_DIR", help="--workdir of a finished run"
    )
    parser.add_argument("--out", metavar="FILE.json", help="write the same numbers as JSON")
    options = parser.parse_args(arguments)
    return exit_status(lambda: _print(options.run_dirs, options.out))


def _print(workdirs: list[str], out: str | None) -> None:
    groups, warnings = compare(workdirs)
    print(markdown(groups))
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if out:
        _write(Path(out), {"groups": groups, "warnings": warnings})


def _seeds(workdir: str) -> list[str]:
    """The folders of a run's seeds: the run itself, unless it trained several."""
    folder = Path(workdir)
    _, summary = read_config_and_summary(folder)
    if "seeds" not in summary:
        return [workdir]
    return [str(own) for own in group_folders(folder, summary)]


def _matters(name: str) -> bool:
    """Whether runs that differ in this field are of different groups."""
    return name not in SEEDS and not name.startswith(WHEREABOUTS)


def _completed(saved: Setting) -> Setting:
    """A saved configuration as today's code would write it.

    Fields that it lacks stand at their defaults, those renamed since under their new names. A field
    of another method, network or optimiser says nothing and is left out, as does a field of a view
    that no method asks for; one whose default follows from the data or the noise stays absent.
    Configurations of other tasks, and of choices
    that are unknown today, stay as they are.
    """
    if saved.get("task", "classify") != "classify":
        return saved
    chosen = {choice.field: saved[choice.field] for choice in CHOICES if choice.field in saved}
    try:
        config = complete(choose(default(), chosen)[0])
    except UserError:
        return saved
    fields, without = described(config), idle(config)
    setting = {}
    for name, field in fields.items():
        if field.default is not None or not (name.startswith(OPEN) or name in FITTED):
            value = field.default
            setting[name] = list(value) if isinstance(value, tuple) else value  # as JSON has it
    for name, value in saved.items():
        new = RENAMED.get(name, name)
        if new in fields or not new.startswith(OPEN):
            setting[new] = value
    return {name: value for name, value in setting.items() if name not in without}


def _fill_absent(settings: list[Setting]) -> None:
    """Gives a field that a run lacks the one value it has in the other runs of the same names."""
    values: dict[tuple[str, ...], dict[str, list]] = {}
    for setting in settings:
        of_names = values.setdefault(_key(_names(setting)), {})
        for name, value in setting.items():
            seen = of_names.setdefault(name, [])
            if value not in seen:
                seen.append(value)
    for setting in settings:
        for name, seen in values[_key(_names(setting))].items():
            if len(seen) == 1:
                setting.setdefault(name, seen[0])


def _names(setting: Setting) -> dict[str, str]:
    """Returns how a group is called: its data set, noise, method and network."""
    kind = str(setting.get("noise.kind"))
    details = {"none": "", "human": setting.get("noise.labels")}
    detail = details.get(kind, setting.get("noise.rate"))
    return {
        "dataset": str(setting.get("data.name")),
        "noise": kind if detail in ("", None) else f"{kind} {detail}",
        "method": str(setting.get("method.name")),
        "network": str(setting.get("model.name")),
    }


def _key(names: dict[str, Any]) -> tuple[str, ...]:
    return tuple(names[name] for name in NAMES)


def _keep_differences(groups: list[Group]) -> None:
    """Reduces `differs`, a whole configuration, to what tells groups of the same names apart."""
    absent = "(absent)"
    varying = []
    for group in groups:
        others = [other["differs"] for other in groups if _key(other) == _key(group)]
        kept = {}
        for name in sorted({name for other in others for name in other}):
            if len({_text(other.get(name, absent)) for other in others}) > 1:
                kept[name] = group["differs"].get(name, absent)
        varying.append(kept)
    for group, kept in zip(groups, varying, strict=True):
        group["differs"] = kept


def _statistics(name: str, runs: list[str], summaries: dict[str, dict]) -> dict:
    values = [number(summaries[run], name, Path(run) / "summary.json") for run in runs]
    known = [value for value in values if value is not None]
    std = statistics.stdev(known) if len(known) > 1 else None
    return {"mean": statistics.fmean(known) if known else None, "std": std, "n": len(known)}


def _cell(name: str, value: dict, n: int) -> str:
    if value["mean"] is None:
        return "–"
    form = ",.0f" if name == "images_per_second" else ".4f"
    text = f"{value['mean']:{form}}"
    text += "" if value["std"] is None else f" +- {value['std']:{form}}"
    return text if value["n"] == n else f"{text} (n={value['n']})"


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _write(path: Path, content: dict) -> None:
    if path.exists() and not path.is_file():
        raise UserError(f"--out={path}: is there and no file; name another one")
    try:
        write_json(path, content)
    except OSError as error:
        raise UserError(f"--out={path}: cannot be written ({error})") from error


if __name__ == "__main__":
    sys.exit(main())
