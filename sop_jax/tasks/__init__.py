"""Kinds of experiment, one file each with `run(config, workdir, dry_run)`; `config.task` names the
file.

Each also has `default()`, its fields, and `check(config)`; the main task's stand in
`sop_jax/config.py`.
"""
