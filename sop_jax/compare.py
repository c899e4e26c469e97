"""Mean +- std over seeds, one row a setting: `python -m sop_jax.compare RUN_DIR...
[--out=FILE.json]`.
"""

import argparse
import json
import statistics
import sys
from collections import Counter
from pathlib import Path

from sop_jax.errors import UserError
from sop_jax.run_folder import flatten, number, read_config_and_summary, seed_folders

METRICS = {  # summary.json -> column heading
    "test_accuracy_last": "test_accuracy_last",
    "test_accuracy_best": "test_accuracy_best (diagnostic)",
    "label_issue_auroc": "label_issue_auroc",
    "label_issue_auprc": "label_issue_auprc",
    "label_issue_f1": "label_issue_f1",
    "noise_rate_actual": "noise_rate_actual",
    "images_per_second": "images_per_second",
}
SEEDS = ("seed", "noise.seed")  # repeats of one setting differ in these
WHEREABOUTS = (  # no influence on the numbers
    "data.dir", "compilation_cache", "checkpoint_every", "distributed.", "num_seeds", "seeds_by",
)  # fmt: skip


def compare(workdirs: list[str]) -> tuple[list[dict], list[str]]:
    """Groups finished runs by everything in their configuration but the seed; a run of several
    seeds counts as so many.

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
        settings[workdir], summaries[workdir] = flatten(config), summary
    members = {}
    for workdir, setting in settings.items():
        rest = {
            key: value
            for key, value in setting.items()
            if key not in SEEDS and not key.startswith(WHEREABOUTS)
        }
        members.setdefault(json.dumps(rest, sort_keys=True), []).append(workdir)

    groups, warnings = [], []
    for rest, runs in members.items():
        seeds = [tuple(settings[run].get(key) for key in SEEDS) for run in runs]
        group = {
            **_names(settings[runs[0]]),
            "differs": json.loads(rest),
            "n": len(runs),
            "runs": runs,
        }
        group["seeds"] = [seed for seed, _ in seeds]
        group["metrics"] = {name: _statistics(name, runs, summaries) for name in METRICS}
        groups.append(group)
        for seed, count in Counter(seeds).items():
            if count > 1:
                twice = ", ".join(run for run, own in zip(runs, seeds, strict=True) if own == seed)
                warnings.append(f"seed {seed[0]} occurs {count} times in one group: {twice}")
    _keep_differences(groups)
    groups.sort(key=lambda group: (*_key(group), json.dumps(group["differs"])))
    return groups, warnings


def markdown(groups: list[dict]) -> str:
    """Returns the groups as a Markdown table, accuracies as fractions."""
    header = [
        "dataset",
        "noise",
        "method",
        "network",
        "differs in",
        "n",
        "seeds",
        *METRICS.values(),
    ]
    if not any(group["differs"] for group in groups):
        header.remove("differs in")
    lines = [header, ["---"] * len(header)]
    for group in groups:
        cells = {**group, "n": str(group["n"]), "seeds": ", ".join(map(str, group["seeds"]))}
        cells["differs in"] = ", ".join(
            f"{key}={_text(value)}" for key, value in group["differs"].items()
        )
        cells |= {
            METRICS[name]: _cell(name, value, group["n"])
            for name, value in group["metrics"].items()
        }
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
    try:
        groups, warnings = compare(options.run_dirs)
        print(markdown(groups))
        for warning in warnings:
            print(f"warning: {warning}", file=sys.stderr)
        if options.out:
            _write(Path(options.out), {"groups": groups, "warnings": warnings})
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _seeds(workdir: str) -> list[str]:
    """The folders of a run's seeds: the run itself, unless it trained several."""
    _, summary = read_config_and_summary(Path(workdir))
    return (
        [str(own) for own in seed_folders(Path(workdir), summary["seeds"])]
        if "seeds" in summary
        else [workdir]
    )


def _names(setting: dict) -> dict[str, str]:
    """Returns how a group is called: its data set, noise, method and network."""
    kind, method = str(setting.get("noise.kind")), str(setting.get("method.name"))
    details = {"none": "", "human": setting.get("noise.labels")}
    detail = details.get(kind, setting.get("noise.rate"))
    variant = f" ({setting.get('method.variant')})" if method.startswith("sop") else ""
    network = str(setting.get("model.name"))
    return {
        "dataset": str(setting.get("data.name")),
        "noise": kind if detail in ("", None) else f"{kind} {detail}",
        "method": method + variant,
        "network": f"{network} width {setting.get('model.width')}"
        if network == "small_resnet"
        else network,
    }


def _key(group: dict) -> tuple[str, ...]:
    return group["dataset"], group["noise"], group["network"], group["method"]


def _keep_differences(groups: list[dict]) -> None:
    """Reduces `differs` from a whole configuration to the fields in which groups of the same names
    disagree.
    """
    absent = "(absent)"
    for group in groups:
        others = [other["differs"] for other in groups if _key(other) == _key(group)]
        fields = sorted({field for other in others for field in other})
        varying = [
            field
            for field in fields
            if len({_text(other.get(field, absent)) for other in others}) > 1
        ]
        group["varying"] = {field: group["differs"].get(field, absent) for field in varying}
    for group in groups:
        group["differs"] = group.pop("varying")


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
    try:
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out={path}: cannot be written ({error})") from error


if __name__ == "__main__":
    sys.exit(main())
