"""Checkpoints with Orbax: all that training changes, verified by hash; the last two, and the best.

Flipped bits inside a stored array can restore silently, so the sha256 of all leaves is stored
beside them and checked. A step that fails is moved to `bad_checkpoints/` before an older one is
tried: left in place, Orbax would silently skip later saves of that step.
"""

import contextlib
import functools
import hashlib
import json
import logging
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from sop_jax.errors import UserError
from sop_jax.mesh import fetch

log = logging.getLogger("sop_jax")


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(tree: Any) -> Any:
    """Typed keys as their integers, so that every leaf is an ordinary array."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x, tree)


def _by_name(tree: Any) -> dict[str, Any]:
    """Leaves by their path ("params/0/Dense_0/bias"), the same for a tuple, a list and a dict."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}


def _with_leaves_of(tree: Any, named: dict[str, Any]) -> Any:
    """`tree` with the leaf of the same name in the place of each of its own."""
    own = _by_name(tree)
    if own.keys() != named.keys():
        raise ValueError(f"it has not the arrays of this run: {min(own.keys() ^ named.keys())}")
    return jax.tree.unflatten(jax.tree.structure(tree), [named[name] for name in own])


def digest(state: Any, meta: dict) -> str:
    """sha256 hex of every leaf's path, dtype, shape and bytes, and of `meta`."""
    total = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(fetch(_plain(state))):
        total.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        total.update(np.ascontiguousarray(leaf))
    return total.hexdigest()


def all_finite(state: Any) -> bool:
    """Whether every number in the state is finite."""
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(fetch(_plain(state))))


def _manager(folder: pathlib.Path, keep: int) -> ocp.CheckpointManager:
    return ocp.CheckpointManager(
        folder,
        item_handlers={
            "state": ocp.StandardCheckpointHandler(),
            "meta": ocp.JsonCheckpointHandler(),
        },
        options=ocp.CheckpointManagerOptions(
            preservation_policy=policies.LatestN(keep), cleanup_tmp_directories=True
        ),
    )


def _drop_late_answers() -> None:
    """Keeps quiet what comes of the reads that were under way when another one failed.

    Orbax gives them up and closes their event loop; TensorStore's threads answer all the same, and
    Python would print an error for each, below the last line of a run that succeeded.
    """
    before = sys.unraisablehook
    if getattr(before, "func", None) is not _report_unless_late:
        sys.unraisablehook = functools.partial(_report_unless_late, before)


def _report_unless_late(report: Callable[[Any], None], unraisable: Any) -> None:
    late = ("Event loop is closed", "Encountered error while reading array")
    if not str(unraisable.exc_value).startswith(late):
        report(unraisable)


class Checkpoints:
    """The last two of a run in `workdir/checkpoints/<step>`, the best in `checkpoints/best/<step>`.

    The best has a manager of its own: Orbax's metrics would do it in one, but a damaged metrics
    file then stops the manager from opening at all. Saves are asynchronous; call `close` at the
    end.
    """

    def __init__(self, workdir: pathlib.Path):
        self._root = pathlib.Path(workdir).absolute() / "checkpoints"
        self._bad = self._root.parent / "bad_checkpoints"
        self._last = _manager(self._root, keep=2)
        self._best = _manager(self._root / "best", keep=1)

    def save(self, state: Any, meta: dict, best: bool = False) -> None:
        """Starts saving `state` under its step.

        Args:
          state: a TrainState. It is copied first: the caller may donate it while the files are
            being written.
          meta: JSON values saved beside it.
          best: whether its validation accuracy is the best so far.

        Raises:
          UserError: the disk is full, or this save or the one before it failed.
        """
        self._check_room(state)
        state = jax.tree.map(jnp.copy, state)
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            meta=ocp.args.JsonSave({**meta, "sha256": digest(state, meta)}),
        )
        with self._writing():
            for manager in (self._last, self._best) if best else (self._last,):
                if int(state.step) not in manager.all_steps():
                    manager.save(int(state.step), args=args, force=True)

    def _check_room(self, state: Any) -> None:
        """Raises UserError where the disk is too full for the state, before Orbax begins.

        A save that runs out of disk in the middle ends in pages of its threads' errors.
        """
        needed = 1.1 * sum(x.nbytes for x in jax.tree.leaves(_plain(state))) + 2**20
        free = shutil.disk_usage(self._root).free
        if free < needed:
            raise UserError(
                f"no room for the checkpoint of step {int(state.step)}: {self._root} has "
                f"{free / 2**20:.1f} MiB free of the {needed / 2**20:.1f} it may take; make room, "
                "and the same command goes on from the checkpoint before"
            )

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # TensorStore reports a full disk as a ValueError
            reason = "the disk is full" if "No space left" in str(error) else str(error)[:300]
            if isinstance(error, TimeoutError):  # Orbax measures by the clock of the wall
                reason = "it took longer than Orbax waits, or this machine's clock was set forward"
            raise UserError(
                f"a checkpoint cannot be written to {self._root} ({reason}); mend that, and the "
                "same command goes on from the checkpoint before"
            ) from error

    def restore(self, abstract: Any) -> tuple[Any, dict] | None:
        """The newest checkpoint that is whole, as (state, meta), or None where there is none.

        Args:
          abstract: the state as ShapeDtypeStructs with the shardings wanted now, on any number of
            devices.
        """
        _drop_late_answers()
        for step in sorted(self._last.all_steps(), reverse=True):
            try:
                return self._read(step, abstract)
            except Exception as error:  # Orbax and TensorStore raise many kinds for damaged files
                lines = str(error).strip().splitlines() or [type(error).__name__]
                log.warning(
                    "checkpoint %d is damaged (%s); moved to %s, trying the one before",
                    step,
                    lines[0][:200],
                    self._bad,
                )
                self._set_aside(step)
        return None

    def _read(self, step: int, abstract: Any) -> tuple[Any, dict]:
        """(state, meta) of a step; raises whatever a damaged file leads to.

        The arrays are matched by name, in the structure that was stored: a version that wrote other
        tuples, or none where there is an empty one now, wrote the same arrays.
        """
        stored = self._last.item_metadata(step)["state"]
        wanted = _with_leaves_of(jax.tree.map(lambda _: 0, stored.tree), _by_name(abstract))
        restored = self._last.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(wanted), meta=ocp.args.JsonRestore()
            ),
        )
        state = _with_leaves_of(abstract, _by_name(restored["state"]))
        # Without its array_metadatas/ a checkpoint is whole but for the type of the keys.
        state = jax.tree.map(
            lambda x, own: jax.random.wrap_key_data(x) if _is_key(own) and not _is_key(x) else x,
            state,
            abstract,
        )
        meta = dict(restored["meta"])
        stored_sha256 = meta.pop("sha256", "")
        if digest(state, meta) != stored_sha256:
            raise ValueError("its contents do not have the hash stored with them")
        return state, meta

    def _set_aside(self, step: int) -> None:
        if jax.process_index() == 0:
            self._bad.mkdir(exist_ok=True)
            target = self._bad / str(step)
            shutil.rmtree(target, ignore_errors=True)
            shutil.move(self._root / str(step), target)
        self._last.reload()

    def close(self) -> None:
        """Waits until everything is on disk."""
        with self._writing():
            for manager in (self._last, self._best):
                manager.wait_until_finished()
                manager.close()


def has_checkpoint(workdir: pathlib.Path) -> bool:
    """Whether the folder of a run holds a checkpoint, whole or not."""
    return any(path.name.isdigit() for path in (workdir / "checkpoints").glob("*"))
