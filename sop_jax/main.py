"""Command line: python -m sop_jax.main --config=FILE --workdir=DIR [--config.field=value ...]
[--dry_run].

Every mistake of the user ends in one line on standard error, `error: ...`, and exit status 2;
Ctrl-C in 130.
"""

import importlib
import inspect
import logging
import os
import pathlib
import pkgutil
import re
import runpy
import sys
import traceback
from types import ModuleType
from typing import NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from sop_jax import agreement, tasks
from sop_jax import config as configs
from sop_jax.errors import UserError, suggestion
from sop_jax.process import leave, take_over

EXAMPLE = "python -m sop_jax.main --config=configs/digits_sop.py --workdir=runs/digits_sop"
TYPES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    tuple: "a list such as (40,80)",
    str: "text",
}


class Command(NamedTuple):
    """A command line that has been read and checked."""

    config: ConfigDict  # locked
    workdir: pathlib.Path | None  # None only for a dry run
    dry_run: bool


def help_text() -> str:
    """What `--help` prints: the flags, and every field of the config with its default and its
    comment.
    """
    source = inspect.getsource(configs.base) + inspect.getsource(configs.default)
    fields = [line.strip() for line in source.splitlines()]
    return "\n".join(
        [
            f"usage: {EXAMPLE} [--config.field=value ...] [--dry_run]",
            "  --config=FILE         config file, see configs/",
            "  --workdir=DIR         folder of the run: made if absent, resumed if it holds this run",
            "  --dry_run             print the resolved config, shapes and memory; write nothing (needs no --workdir)",
            "  --config.field=value  override one field of the config, for example --config.noise.rate=0.4",
            "fields, their defaults and meanings:",
            *(
                f"  --{line}"
                for line in fields
                if line.startswith("config.") and "ConfigDict()" not in line
            ),
            "other tasks have fields of their own: see configs/theory/, and --dry_run with one of them",
        ]
    )


def parse(argv: list[str]) -> Command:
    """Reads the command line, program name first, and the config file; every mistake becomes a
    UserError.
    """
    own = flags.FlagValues()
    config_file = flags.DEFINE_string("config", None, "", flag_values=own)
    workdir = flags.DEFINE_string("workdir", None, "", flag_values=own)
    dry_run = flags.DEFINE_bool("dry_run", False, "", flag_values=own)
    own.set_gnu_getopt(True)
    try:
        overrides = own(argv, known_only=True)
    except flags.Error as error:
        raise UserError(error) from None
    if not config_file.value:
        raise UserError(f"--config=FILE is missing; for example {EXAMPLE}")
    if not workdir.value and not dry_run.value:
        raise UserError(f"--workdir=DIR is missing; for example {EXAMPLE}")
    config = load_file(config_file.value)
    task = config.get("task", "classify")
    fields = _fields(task)
    configs.check_fields(config, fields.default())
    config = _override(config, overrides)
    if config.task != task:
        _fields(config.task)
        raise UserError(
            f"config.task={config.task!r} cannot be set on the command line: the other fields of "
            f"--config={config_file.value} are those of {task!r}; name a config file of that task"
        )
    fields.check(config)
    return Command(config, pathlib.Path(workdir.value) if workdir.value else None, dry_run.value)


def _fields(task: str) -> ModuleType:
    """The module with the task's `default()` and `check(config)`: for the main task one that
    imports nothing slow.
    """
    known = sorted(module.name for module in pkgutil.iter_modules(tasks.__path__))
    if task not in known:
        raise UserError(
            f"config.task={task!r} is unknown{suggestion(task, known)}; choose from "
            f"{', '.join(known)}"
        )
    return configs if task == "classify" else importlib.import_module(f"sop_jax.tasks.{task}")


def load_file(path: str) -> ConfigDict:
    """Runs the config file's `get_config`; a UserError names the file and the line of what is wrong
    in it.
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
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename == path
        ]
        line = getattr(error, "lineno", None) or (lines[-1] if lines else None)
        where = path if line is None else f"{path}, line {line}"
        raise UserError(f"--config={where}: {type(error).__name__}: {error}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"--config={path}: get_config() returned {type(config).__name__}; it must return the "
            "ConfigDict that the default() of its task made"
        )
    return config


def _override(config: ConfigDict, argv: list[str]) -> ConfigDict:
    """Applies the `--config.field=value` of a command line that has nothing else left in it; locks
    the config.
    """
    known = configs.field_names(config)
    for name in (
        match[1] for arg in argv if (match := re.match(r"--?(?:no)?config\.([^=]*)", arg))
    ):
        if name not in known:
            raise UserError(
                f"unknown config field --config.{name}{suggestion(name, known)}; "
                "--help and --dry_run list them"
            )
    values = flags.FlagValues()
    values.set_gnu_getopt(True)
    config_flags.DEFINE_config_dict("config", config, "", flag_values=values, sys_argv=argv)
    try:
        rest = values(argv)[1:]
    except flags.UnrecognizedFlagError as error:
        flag = error.flagname
        raise UserError(
            f"unknown flag --{flag}{suggestion(flag, ['config', 'workdir', 'dry_run', *known])}; "
            "--help lists the flags"
        ) from None
    except (flags.Error, TypeError, ValueError) as error:
        match = re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error))
        if match is None:
            raise UserError(error) from None
        group, name = configs.group_of(config, match[1])
        raise UserError(
            f"config.{match[1]}={match[2]!r} has the wrong type: it must be {TYPES[group.get_type(name)]}"
        ) from None
    if rest:
        raise UserError(f"unexpected argument {rest[0]!r}; fields are set as --config.field=value")
    return config


def prepare_backend(config: ConfigDict, workdir: pathlib.Path | None, dry_run: bool) -> None:
    """Settings that must stand before JAX is first used: determinism, processes, their cache."""
    if config.get("deterministic"):
        os.environ["XLA_FLAGS"] = (
            f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true"
        )
    import jax

    from sop_jax import mesh

    if config.compilation_cache != "off":
        cache = config.compilation_cache or pathlib.Path("~/.cache/sop_jax/xla").expanduser()
        jax.config.update("jax_compilation_cache_dir", str(cache))
    try:
        if "distributed" in config:  # the main task's
            d = config.distributed
            mesh.initialize_processes(d.coordinator, d.num_processes, d.process_id)
            folder = workdir and os.path.abspath(workdir)
            asked = agreement.facts_of(config) | {"--workdir": folder, "--dry_run": dry_run}
            agreement.require_same(asked, "the command line")
        jax.devices()
    except UserError:
        raise
    # JAX's plug-ins raise many kinds, a missing one an AssertionError without text
    except Exception as error:
        raise UserError(
            "JAX cannot start (see the variable JAX_PLATFORMS and config.distributed): "
            f"{type(error).__name__}: {error}"
        ) from error


def main(argv: list[str] | None = None) -> int:
    """Runs the task of the config.

    Args:
      argv: the command line, program name first; default sys.argv.

    Returns:
      The exit status: 0, 2 after a mistake of the user or a failing file system, 130 after Ctrl-C.
    """
    argv = sys.argv if argv is None else argv
    logging.basicConfig(format="%(levelname)s: %(message)s")
    # Orbax logs the errors of its threads here and raises them as well
    for library in ("absl", "asyncio"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    command = None
    try:
        if {"--help", "-help", "-h"} & set(argv):
            print(help_text(), flush=True)
            return 0
        command = parse(argv)
        prepare_backend(*command)
        task = importlib.import_module(f"sop_jax.tasks.{command.config.task}")
        task.run(*command)
        sys.stdout.flush()
    except UserError as error:
        return _fail(str(error), 2)
    except OSError as error:  # a full disk, a folder that went away
        # a failing write does not name its file
        where = error.filename or (command and command.workdir)
        return _fail(
            f"{error.strerror or error}{f': {where}' if where else ''}; what is saved is kept, and "
            "the same command goes on from it",
            2,
        )
    except KeyboardInterrupt:
        return _fail("interrupted; the same command goes on from the last checkpoint", 130)
    return 0


def _fail(message: str, status: int) -> int:
    agreement.announce(message)
    print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return status


if __name__ == "__main__":
    take_over()
    leave(main())
