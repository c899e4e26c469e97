"""Kinds of experiment, one file each with `run(config, workdir, dry_run)`; `config.task` names the file."""
