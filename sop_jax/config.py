"""The config of a run: its defaults, the checks between its fields, and its dotted names.

A config file (see `configs/`) calls `default()`, overrides a few fields and returns the result; the
command line overrides single fields (`--config.noise.rate=0.4`). `general.FIELDS` says what every
field means; those that belong to one method, network, optimiser or schedule stand with it, and
`settings.complete` adds them to config.method, config.model and config.optimizer.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from sop_jax.errors import UserError, suggestion
from sop_jax.fields import Field
from sop_jax.general import BASE, FIELDS

# Parts of the config in which a choice brings fields of its own, see `settings.complete`.
OPEN_GROUPS = ("model", "method", "optimizer")


def _build(fields: Sequence[Field]) -> ConfigDict:
    config = ConfigDict()
    for field in fields:
        *groups, name = field.name.split(".")
        part = config
        for group in groups:
            if group not in part:
                part[group] = ConfigDict()
            part = part[group]
        part[name] = field.initial()
    return config


def base(task: str) -> ConfigDict:
    """Returns the fields that every task has; a task's `default()` adds its own."""
    config = _build(BASE)
    config.task = task
    return config


def default() -> ConfigDict:
    """Returns the main task's defaults: every field that does not belong to one choice alone."""
    return _build(FIELDS)


def flatten(tree: Mapping | ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Dotted names and values of a nested mapping's leaves: {"seed": 0, "noise.rate": 0.4, ...}."""
    flat = {}
    for name, value in tree.items():
        if isinstance(value, Mapping | ConfigDict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def group_of(config: ConfigDict, field: str) -> tuple[ConfigDict, str]:
    """The part of the config that holds a field, and its name there.

    'noise.rate' -> (config.noise, 'rate').
    """
    *groups, name = field.split(".")
    for group in groups:
        config = config[group]
    return config, name


def check_fields(config: ConfigDict, wanted: ConfigDict, open_groups: Sequence[str] = ()) -> None:
    """Raises UserError unless the config has the fields of `wanted`, its task's, and no others.

    Parts named in `open_groups` may have more.
    """
    names, wanted_names = list(flatten(config)), list(flatten(wanted))
    for name in names:
        if name not in wanted_names and name.split(".")[0] not in open_groups:
            raise UserError(
                f"config.{name} is unknown{suggestion(name, wanted_names)}; see the default() of "
                f"the task {wanted.task}"
            )
    for name in wanted_names:
        if name not in names:
            raise UserError(
                f"config.{name} is missing; a config file starts from the default() of its task "
                "(sop_jax.config has the main task's)"
            )


def require(ok: bool, field: str, value: object, wanted: str) -> None:
    """Raises UserError naming the field unless `ok`; `wanted` says what it must be."""
    if not ok:
        raise UserError(f"config.{field}={value!r} is not allowed: {wanted}")


def at_least(config: ConfigDict, lowest: float, *fields: str) -> None:
    """Raises UserError unless each field is finite and at least `lowest`, or is not set."""
    for field in fields:
        group, name = group_of(config, field)
        ok = group[name] is None or lowest <= group[name] < math.inf
        require(ok, field, group[name], f"it must be a finite number of at least {lowest}")


def one_of(config: ConfigDict, field: str, choices: Sequence[str]) -> None:
    """Raises UserError unless the field is one of the choices."""
    group, name = group_of(config, field)
    if group[name] not in choices:
        raise UserError(
            f"config.{field}={group[name]!r} is unknown{suggestion(str(group[name]), choices)}; "
            f"choose from {', '.join(choices)}"
        )


def check(config: ConfigDict) -> None:
    """Raises UserError naming the first field that cannot be right, alone or with another.

    What belongs to a method, network, optimiser or schedule is checked by `settings.check`, and
    what needs the data or the devices where those are known.
    """
    check_fields(config, default(), OPEN_GROUPS)
    for field in FIELDS:
        group, name = group_of(config, field.name)
        field.checked(field.name, group[name])
    for field, ok, wanted in _rules(config):
        group, name = group_of(config, field)
        require(ok, field, group[name], wanted)


def _rules(config: ConfigDict) -> list[tuple[str, bool, str]]:
    """(field, whether it is right, what it must be), for what one field alone does not show."""
    data, noise, processes = config.data, config.noise, config.distributed
    number, of = processes.process_id, processes.num_processes
    return [
        (
            "num_seeds",
            config.seed + config.num_seeds <= 2**32,
            f"seeds are counted up from config.seed={config.seed} and must stay below 2**32",
        ),
        (
            "noise.rate",
            noise.kind not in ("none", "human") or noise.rate == 0,
            f"noise.kind={noise.kind!r} has no rate; set noise.kind=symmetric or another kind, or "
            "leave the rate at 0",
        ),
        (
            "noise.labels",
            noise.kind == "human" or noise.labels is None,
            f"it names human labels, but noise.kind={noise.kind!r}; set --config.noise.kind=human",
        ),
        ("data.validation_fraction", data.validation_fraction < 1, "it must lie in [0, 1)"),
        (
            "data.path",
            data.name != "npz" or data.path is not None,
            "data.name='npz' needs the file: --config.data.path=FILE.npz",
        ),
        (
            "data.path",
            data.name == "npz" or data.path is None,
            f"it is the file of data.name='npz', but data.name={data.name!r}; set "
            "--config.data.name=npz",
        ),
        (
            "augment.alternating_flip",
            config.augment.flip is not False or not config.augment.alternating_flip,
            "it says when to flip, so it needs augment.flip=true",
        ),
        ("optimizer.ema", config.optimizer.ema < 1, "it must lie in [0, 1)"),
        (
            "distributed.process_id",
            number is None or of is not None,
            "it is the number of a process among distributed.num_processes; set that too",
        ),
        (
            "distributed.process_id",
            number is None or number < (of or 0),
            f"it must lie below distributed.num_processes={of}",
        ),
    ]


def each_seed(config: ConfigDict) -> list[ConfigDict]:
    """The config of each of its `num_seeds` seeds, as a run of one seed: what its folder holds."""
    copies = [config.copy_and_resolve_references() for _ in range(config.num_seeds)]
    for number, copy in enumerate(copies):
        copy.update(seed=config.seed + number, num_seeds=1)
    return copies


def differences(
    saved: Mapping, config: ConfigDict, defaults: ConfigDict
) -> list[tuple[str, object, object]]:
    """(field, saved value, new value) of the config's fields that differ from a saved config.

    A field that is not saved stands at its default, one that the config no longer has is passed
    over.
    """
    old = {**flatten(defaults), **flatten(saved)}
    found = []
    for name, new in flatten(config).items():
        was, new = _as_saved(old.get(name)), _as_saved(new)
        if was != new:
            found.append((name, was, new))
    return found


def _as_saved(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value  # JSON has no tuples
