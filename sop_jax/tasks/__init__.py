"""Kinds of experiment, one file each; `config.task` names it.

Each has `run(config, workdir, dry_run)`, `default()`, its fields, and
`check(config)`; the main task's stand in `sop_jax/config.py`.
"""
