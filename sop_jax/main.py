"""python -m sop_jax.main --config=FILE --workdir=DIR [--config.field=value ...] [--dry_run]

Every mistake of the user ends in one line on standard error, `error: ...`, and exit status 2;
Ctrl-C in 130.
"""

import importlib
import logging
import os
import pathlib
import re
import subprocess
import sys

from ml_collections import ConfigDict

from sop_jax import agreement
from sop_jax.command_line import help_text, parse
from sop_jax.errors import UserError
from sop_jax.process import leave, take_over


def prepare_backend(config: ConfigDict, workdir: pathlib.Path | None, dry_run: bool) -> None:
    """Settings that must stand before JAX is first used: determinism, processes, their cache."""
    if config.get("deterministic"):
        os.environ["XLA_FLAGS"] = (
            f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true"
        )
    if os.environ.get("XLA_FLAGS"):
        _check_xla_flags()
    import jax

    from sop_jax import mesh

    if config.compilation_cache != "off":
        cache = config.compilation_cache or pathlib.Path("~/.cache/sop_jax/xla").expanduser()
        jax.config.update("jax_compilation_cache_dir", str(cache))
        # a run compiles dozens of small programs: kept too, they make a restart a sixth shorter
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
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


def _check_xla_flags() -> None:
    """Raises UserError for flags that XLA does not know: it ends the process itself over them.

    So they are read in a process of their own (0.2 s); anything else that fails there is left to
    JAX's own start.
    """
    program = "from jaxlib import xla_client; xla_client.CompileOptions()"
    child = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, errors="replace"
    )
    reason = re.search(r"parse_flags_from_env\.cc:\d+\] (.*)", child.stderr)
    if child.returncode and reason:
        raise UserError(
            f"the variable XLA_FLAGS={os.environ['XLA_FLAGS']!r} cannot be used: {reason[1]}"
        )


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
        place = f": {where}" if where else ""
        return _fail(
            f"{error.strerror or error}{place}; what is saved is kept, and the same command goes "
            "on from it",
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
    if not sys.flags.safe_path:
        del sys.path[0]  # `python -m` puts the current folder there: no data may run as code
    take_over()
    leave(main())
