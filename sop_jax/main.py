"""Command line: python -m sop_jax.main --config=FILE --workdir=DIR [--config.field=value ...] [--dry_run]."""

import importlib
import logging
import os
import pathlib
import sys

from absl import flags
from ml_collections import ConfigDict, config_flags

from sop_jax import config as configs
from sop_jax.errors import UserError

CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, see configs/.", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: made if absent, resumed if it holds this run.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the resolved config, shapes and memory; train nothing.")


def parse(argv: list[str]) -> tuple[ConfigDict, pathlib.Path]:
    """Reads flags and the config file; every mistake in them becomes a UserError."""
    try:
        rest = flags.FLAGS(argv)[1:]
    except flags.UnrecognizedFlagError as error:
        raise UserError(f"unknown flag --{error.flagname}{_did_you_mean(error.flagname)}") from None
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(error) from None
    if rest:
        raise UserError(f"unexpected argument {rest[0]!r}; fields are set as --config.field=value")
    if CONFIG.value is None or WORKDIR.value is None:
        missing = "--config=configs/digits_sop.py" if CONFIG.value is None else "--workdir=runs/NAME"
        raise UserError(f"a flag is missing, for example {missing}; see --help")
    config = CONFIG.value
    configs.check(config)
    return config, pathlib.Path(WORKDIR.value)


def _did_you_mean(flag: str) -> str:
    if not flag.startswith("config."):
        return configs.suggestion(flag, ["config", "workdir", "dry_run"])
    return configs.suggestion(flag.removeprefix("config."), configs.field_names(configs.default()))


def prepare_backend(config: ConfigDict) -> None:
    """Settings that must stand before JAX is first used: determinism, processes, compilation cache."""
    if config.deterministic:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true"
    import jax

    from sop_jax import mesh

    if config.compilation_cache != "off":
        cache = config.compilation_cache or pathlib.Path("~/.cache/sop_jax/xla").expanduser()
        jax.config.update("jax_compilation_cache_dir", str(cache))
    d = config.distributed
    mesh.initialize_processes(d.coordinator, d.num_processes, d.process_id)


def main(argv: list[str] | None = None) -> int:
    """Runs the task of the config; returns the exit status, 0 or 2 after one line on standard error."""
    logging.basicConfig(format="%(levelname)s: %(message)s")
    try:
        config, workdir = parse(sys.argv if argv is None else argv)
        prepare_backend(config)
        task = importlib.import_module(f"sop_jax.tasks.{config.task}")
        task.run(config, workdir, DRY_RUN.value)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
