"""The command line: flags, the config file, and the fields that are overridden.

python -m sop_jax.main --config=FILE --workdir=DIR [--config.field=value ...] [--dry_run]
"""

import argparse
import ast
import importlib
import os
import pathlib
import pkgutil
import re
import runpy
import traceback
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

from ml_collections import ConfigDict

from sop_jax import config as configs
from sop_jax import settings, tasks
from sop_jax.errors import UserError, suggestion
from sop_jax.fields import TYPES, Field
from sop_jax.general import FIELDS

EXAMPLE = "python -m sop_jax.main --config=configs/digits_sop.py --workdir=runs/digits_sop"
_FLAGS = (
    ("--config=FILE", "config file, see configs/"),
    ("--workdir=DIR", "folder of the run: made if absent, resumed if it holds this run"),
    ("--dry_run", "print the resolved config, shapes and memory; write nothing (no --workdir)"),
    ("--config.field=value", "override one field of the config: --config.noise.rate=0.4"),
)
_WORDS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class Command(NamedTuple):
    """A command line that has been read and checked."""

    config: ConfigDict  # locked
    workdir: pathlib.Path | None  # None only for a dry run
    dry_run: bool


def help_text() -> str:
    """What `--help` prints: the flags, and every field with its default and meaning."""
    lines = [f"usage: {EXAMPLE} [--config.field=value ...] [--dry_run]"]
    lines += [f"  {flag:<21} {meaning}" for flag, meaning in _FLAGS]
    lines += ["", "fields, their defaults and meanings:"]
    lines += [_help_line(field.name, field) for field in FIELDS]
    for choice in settings.CHOICES:
        group = choice.field.split(".")[0]
        for name in choice.names():
            own = choice.fields(name).values()
            lines += ["", f"with --config.{choice.field}={name}{':' if own else ': no others'}"]
            lines += [_help_line(f"{group}.{field.name}", field) for field in own]
    lines += ["", "other tasks have fields of their own: see configs/theory/, and --dry_run there"]
    return "\n".join(lines)


def _help_line(path: str, field: Field) -> str:
    return f"  --config.{path} = {field.described()}"


def parse(argv: list[str]) -> Command:
    """Reads the command line, program name first, and the config file.

    Raises:
      UserError: whatever is wrong with either.
    """
    parser = _Parser()
    for name in ("--config", "--workdir"):
        parser.add_argument(name)
    parser.add_argument("--dry_run", nargs="?", const=True, default=False, type=_boolean)
    for field in ("task", *(choice.field for choice in settings.CHOICES)):
        parser.add_argument(f"--config.{field}", dest=field)
    first = vars(parser.parse_known_args(argv[1:])[0])
    if not first["config"]:
        raise UserError(f"--config=FILE is missing; for example {EXAMPLE}")
    if not first["workdir"] and not first["dry_run"]:
        raise UserError(f"--workdir=DIR is missing; for example {EXAMPLE}")
    if first["workdir"]:
        _check_workdir(first["workdir"])
    config = load_file(first["config"])
    task = config.get("task", "classify")
    fields = _fields_of(task)
    configs.check_fields(config, fields.default(), configs.OPEN_GROUPS)
    config = settings.complete(_chosen(config, first))
    config = _override(config, parser, argv)
    if config.task != task:
        _fields_of(config.task)
        raise UserError(
            f"config.task={config.task!r} cannot be set on the command line: the other fields of "
            f"--config={first['config']} are those of {task!r}; name a config file of that task"
        )
    fields.check(config)
    settings.complete(config)
    workdir = pathlib.Path(first["workdir"]) if first["workdir"] else None
    return Command(config.lock(), workdir, first["dry_run"])


def _check_workdir(workdir: str) -> None:
    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", workdir)
    if scheme:
        raise UserError(
            f"--workdir={workdir}: a run writes to a local or mounted folder, not to "
            f"{scheme[0]}; name a folder and copy it afterwards"
        )


def _fields_of(task: str) -> ModuleType:
    """The module with the task's `default()` and `check(config)`."""
    known = sorted(module.name for module in pkgutil.iter_modules(tasks.__path__))
    if task not in known:
        raise UserError(
            f"config.task={task!r} is unknown{suggestion(str(task), known)}; choose from "
            f"{', '.join(known)}"
        )
    return configs if task == "classify" else importlib.import_module(f"sop_jax.tasks.{task}")


def load_file(path: str) -> ConfigDict:
    """Runs the config file's `get_config`.

    Raises:
      UserError: naming the file and the line of what is wrong in it.
    """
    if not os.path.isfile(path):
        beside = [file.name for file in pathlib.Path(path).parent.glob("*.py")]
        raise UserError(
            f"--config={path}: no such file{suggestion(os.path.basename(path), beside)}"
        )
    try:
        program = runpy.run_path(path)
        if "get_config" not in program:
            raise UserError(
                f"--config={path}: has no function get_config(); see configs/digits_sop.py"
            )
        config = program["get_config"]()
    except UserError:
        raise
    except Exception as error:  # a config file is a program: it can raise anything
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == path]
        line = getattr(error, "lineno", None) or (lines[-1] if lines else None)
        where = path if line is None else f"{path}, line {line}"
        raise UserError(f"--config={where}: {type(error).__name__}: {error}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"--config={path}: get_config() returned {type(config).__name__}; it must return the "
            "ConfigDict that the default() of its task made"
        )
    return config


def _chosen(config: ConfigDict, first: dict[str, Any]) -> ConfigDict:
    """The file's config with the method, network, optimiser and schedule of the command line.

    The file's fields of its own method that the new one does not have are left out, and said.
    """
    settings.complete(config)
    present = [choice.field for choice in settings.CHOICES if choice.field.split(".")[0] in config]
    config, notes = settings.choose(config, {f: first[f] for f in present if first[f] is not None})
    for note in notes:
        print(note, flush=True)
    return config


class _Parser(argparse.ArgumentParser):
    """Every mistake is a UserError."""

    def __init__(self):
        super().__init__(add_help=False, allow_abbrev=False, exit_on_error=False)

    def error(self, message: str) -> NoReturn:
        raise UserError(message)

    def parse_known_args(self, args: list[str] | None = None, namespace: Any = None) -> Any:
        try:
            return super().parse_known_args(args, namespace)
        except argparse.ArgumentError as error:
            flag = error.argument_name
            raise UserError(f"{flag}: {error.message}") from None


def _override(config: ConfigDict, parser: _Parser, argv: list[str]) -> ConfigDict:
    """Applies the `--config.field=value` of a command line to a complete config."""
    fields = settings.described(config)
    given = {choice.field for choice in settings.CHOICES} | {"task"}
    for path, field in fields.items():
        if path not in given:
            options = {"nargs": "?", "const": "true"} if field.type is bool else {}
            parser.add_argument(f"--config.{path}", dest=path, **options)
    values, unknown = parser.parse_known_args(argv[1:])
    for argument in unknown:
        _refuse(argument, config, list(fields))
    for path, text in vars(values).items():
        if path in fields and text is not None:
            group, name = configs.group_of(config, path)
            group[name] = fields[path].checked(path, _read(path, fields[path].type, text))
    return config


def _refuse(argument: str, config: ConfigDict, known: list[str]) -> NoReturn:
    match = re.match(r"--?config\.([^=]*)", argument)
    if match:
        settings.check_known(config, match[1])
        raise UserError(
            f"unknown config field --config.{match[1]}{suggestion(match[1], known)}; "
            "--help and --dry_run list them"
        )
    if argument.startswith("-"):
        flag = argument.lstrip("-").split("=")[0]
        near = suggestion(flag, ["config", "workdir", "dry_run", *known])
        raise UserError(f"unknown flag --{flag}{near}; --help lists the flags")
    raise UserError(f"unexpected argument {argument!r}; fields are set as --config.field=value")


def _read(path: str, kind: type, text: str) -> Any:
    try:
        return {bool: _boolean, tuple: _tuple}.get(kind, kind)(text)
    except ValueError:
        raise UserError(
            f"config.{path}={text[:80]!r} has the wrong type: it must be {TYPES[kind]}"
        ) from None


def _boolean(text: str) -> bool:
    if text.lower() not in _WORDS:
        raise ValueError(text)
    return _WORDS[text.lower()]


def _tuple(text: str) -> tuple:
    """'(40,80)', '40,80' or '40'; what is no Python literal is one text."""
    try:
        value = ast.literal_eval(text)
    except SyntaxError:
        raise ValueError(text) from None
    except ValueError:
        value = text
    return tuple(value) if isinstance(value, tuple | list) else (value,)
