"""The fields that a choice brings: of the method, the network, the optimiser and the schedule.

`config.default()` has the choices alone (config.method.name and the like); a config file may set
fields of what it chooses, and `complete` adds the others with their defaults.
"""

import copy
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ml_collections import ConfigDict

from sop_jax import methods, optimizer, schedules
from sop_jax.config import OPEN_GROUPS, differences, flatten, group_of
from sop_jax.fields import Field, filled, refuse
from sop_jax.general import FIELDS
from sop_jax.methods import Problem
from sop_jax.models import api as models


class Choice(NamedTuple):
    """A field whose value decides which other fields its part of the config has."""

    field: str  # dotted
    what: str  # what it chooses
    names: Callable[[], list[str]]  # all that can be chosen
    fields: Callable[[str], dict[str, Field]]  # the fields of one, bare; UserError if unknown


CHOICES = (
    Choice("model.name", "network", lambda: list(models.NETWORKS), models.fields),
    Choice("method.name", "method", methods.names, methods.fields),
    Choice("optimizer.name", "optimiser", lambda: list(optimizer.OPTIMIZERS), optimizer.fields),
    Choice("optimizer.schedule", "schedule", lambda: list(schedules.SCHEDULES), schedules.fields),
)
# Fields that were called otherwise when an older run folder was written.
RENAMED = {"method.focal_gamma": "method.gamma"}


def _choices(group: str) -> list[Choice]:
    return [choice for choice in CHOICES if choice.field.startswith(f"{group}.")]


def _known(config: ConfigDict, group: str) -> dict[str, Field]:
    """The fields, bare, that a part of the config has with what is chosen in it."""
    known = {}
    for field in FIELDS:
        if field.name.startswith(f"{group}."):
            known[field.name.removeprefix(f"{group}.")] = field
    for choice in _choices(group):
        _, name = group_of(config, choice.field)
        known |= choice.fields(config[group][name])
    return known


def _chosen(config: ConfigDict, group: str) -> str:
    """What is chosen in a part of the config: "optimiser 'sgd' with schedule 'cosine'"."""
    chosen = []
    for choice in _choices(group):
        part, name = group_of(config, choice.field)
        chosen.append(f"{choice.what} {part[name]!r}")
    return " with ".join(chosen)


def check_known(config: ConfigDict, path: str) -> None:
    """Raises UserError if `path` is in model, method or optimizer, but no field of what is chosen.

    The line says whose field it is.
    """
    group, _, name = path.partition(".")
    if group not in OPEN_GROUPS or group not in config or name in _known(config, group):
        return
    owners = {}
    for choice in _choices(group):
        owners |= {other: choice.fields(other) for other in choice.names()}
    refuse(path, _chosen(config, group), _known(config, group), owners)


def complete(config: ConfigDict) -> ConfigDict:
    """The config with exactly the fields of what it chooses, those not given at their defaults.

    Raises:
      UserError: an unknown choice, a field that belongs to another one, or a value that its owner
        refuses.
    """
    config = copy.deepcopy(config)
    for group in OPEN_GROUPS:
        if group in config:
            for name in config[group]:
                check_known(config, f"{group}.{name}")
            config[group] = filled(group, _known(config, group), config[group])
    if "method" in config:
        methods.from_config(config.method, Problem(num_classes=10))
    if "optimizer" in config:
        schedules.by_epoch(config, config.optimizer.learning_rate)
    return config


def choose(config: ConfigDict, chosen: Mapping[str, str]) -> tuple[ConfigDict, list[str]]:
    """A config file's config with other choices than its own, before it is complete.

    Args:
      chosen: {'method.name': 'elr'} and the like.

    Returns:
      The copy, in which fields that only the file's own choice has are left out, and a note on
      each.
    """
    config, notes = copy.deepcopy(config), []
    for field, name in chosen.items():
        part, leaf = group_of(config, field)
        part[leaf] = name
    for group in OPEN_GROUPS:
        known = _known(config, group) if group in config else {}
        foreign = [name for name in config.get(group, {}) if name not in known]
        for name in foreign:
            del config[group][name]
            notes.append(
                f"config.{group}.{name} of the config file is left out: {_chosen(config, group)} "
                "has no such field"
            )
    return config, notes


def described(config: ConfigDict) -> dict[str, Field]:
    """The fields of a complete config, by dotted name; other tasks have theirs without meanings."""
    stated = {field.name: field for field in FIELDS}
    for group in OPEN_GROUPS:
        if group in config:
            own = _known(config, group)
            stated |= {f"{group}.{name}": field for name, field in own.items()}
    found = {}
    for path, value in flatten(config).items():
        part, name = group_of(config, path)
        known = stated.get(path)
        if known is None or known.type is not part.get_type(name):
            known = Field(path, part.get_type(name), value, "")
        found[path] = known
    return found


def text(config: ConfigDict) -> str:
    """A complete config for people to read: one field a line, with its value and meaning."""
    values, lines = flatten(config), []
    for path, field in described(config).items():
        meaning = f"  # {field.meaning}" if field.meaning else ""
        lines.append(f"{path} = {values[path]!r}{meaning}")
    return "\n".join(lines)


def idle(config: ConfigDict) -> set[str]:
    """Fields that the run of a config does not use: a strong view that no method asks for.

    Their values are without influence on any number.
    """
    views = methods.from_config(complete(config).method, Problem(num_classes=10)).views
    return set() if "strong" in views else {"augment.strong", "augment.cutout"}


def changed_fields(saved: Mapping, config: ConfigDict, requested: ConfigDict) -> list[str]:
    """Fields in which `config` departs from a run's saved config, but for those that may differ.

    These may, when a run is resumed: data.dir, the cadences, the place of the cache, what comes
    after training, steps per dispatch, the processes, a `dtype` left to the device, what is `idle`,
    and a larger `epochs`, but for schedules whose earlier rates depend on the length. A field that
    the saved config is too old to have stands at its default, which keeps the older numbers; one
    that it has and the run does not, of another method or of older days, says nothing.

    Args:
      saved: contents of config.json.
      config: the resolved config.
      requested: the same before its open fields were filled in.
    """
    may_differ = {
        "data.dir",
        "eval_every",
        "checkpoint_every",
        "compilation_cache",
        "crossfit_epochs",
        "steps_per_dispatch",
        *idle(config),
    }
    reasons, schedule = {}, config.optimizer.schedule
    if schedule in schedules.OF_THE_LENGTH:
        reasons["epochs"] = f": a {schedule} schedule's earlier rates depend on the length"
    elif config.epochs >= saved.get("epochs", config.epochs):
        may_differ.add("epochs")
    else:
        reasons["epochs"] = ": a run can be made longer, not shorter"
    if requested.dtype == "auto":
        may_differ.add("dtype")
    saved = _renamed(flatten(saved), config)
    asked = flatten(complete(requested))
    changed = []
    for name, old, new in differences(saved, config, _defaults(config)):
        published = name not in saved and asked[name] is None
        if not (published or name in may_differ or name.startswith("distributed.")):
            changed.append(f"{name} (was {old!r}, now {new!r}{reasons.get(name, '')})")
    return changed


def _renamed(saved: dict, config: ConfigDict) -> dict:
    """A flat saved config under today's names."""
    now = flatten(config)
    for old, new in RENAMED.items():
        if old in saved and new in now and new not in saved:
            saved = {**saved, new: saved[old]}
    return saved


def _defaults(config: ConfigDict) -> dict:
    return {path: field.default for path, field in described(config).items()}
