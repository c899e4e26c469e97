"""Several processes of one run start from the same facts, and where one fails all end with a line.

They talk through the key-value store of JAX's coordination service, which is there before any
device is, needs no port of its own, and has no public name (orbax reaches it in the same way).
A single process has nothing to agree on: then every function here returns at once.
"""

import contextlib
import hashlib
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from sop_jax.config import flatten
from sop_jax.errors import UserError

JOIN_SECONDS = 45.0  # that the processes may start apart
# without a sign of life, after which a process is taken for dead; XLA waits for 100 and then aborts
SILENT_SECONDS = 40.0
FAREWELL_SECONDS = 8.0  # that a process which failed waits for the others to end
# fields that name places on a machine, or the process itself
MAY_DIFFER = (
    "distributed.coordinator",
    "distributed.process_id",
    "compilation_cache",
    "data.dir",
)

_FACTS, _ALIVE, _ENDED, _FAILED = (
    f"sop_jax/{name}" for name in ("facts/", "watch/alive/", "ended/", "watch/failed")
)
_AGAIN = "start all again with the same command, and they go on from the last checkpoint"


class Group(NamedTuple):
    """The processes of this run, as the coordination service knows them."""

    client: Any  # of the key-value store: jaxlib's DistributedRuntimeClient
    process: int  # number of this one
    count: int


_group: Group | None = None  # None: a single process
_speaking = threading.Lock()  # taken for good by the thread that says this process's last line


def join(initialize: Callable[[], None]) -> None:
    """Joins the processes of the run and watches them from then on.

    The process ends with one line and status 2 where the others do not come in `JOIN_SECONDS`,
    later where one of them fails (`announce`) or gives no sign of life for `SILENT_SECONDS`.

    Args:
      initialize: calls `jax.distributed.initialize`, which XLA aborts on a failure; so the line
        must come first.
    """
    global _group
    late = threading.Timer(
        JOIN_SECONDS,
        _end,
        [
            f"the processes of this run did not all come within {JOIN_SECONDS:.0f} s: one was not "
            "started, ended with an error of its own, or has another config.distributed"
        ],
    )
    late.daemon = True
    late.start()
    try:
        initialize()
    finally:
        late.cancel()
    from jax._src import distributed

    state = distributed.global_state
    if state.num_processes < 2:
        return
    _group = Group(state.client, state.process_id, state.num_processes)
    threading.Thread(target=_watch, args=[_group], name="processes", daemon=True).start()
    sys.excepthook = _after_exception


def require_same(facts: Mapping[str, object], topic: str) -> None:
    """Compares facts between the processes; it returns when all of them have come and agree.

    Args:
      facts: name -> value; values are compared as their text.
      topic: tells one exchange from another; every process has the same ones in the same order.

    Raises:
      UserError: in every process, naming the first fact that differs and both values.
    """
    if _group is None:
        return
    own = json.dumps({name: str(value) for name, value in facts.items()})
    _group.client.key_value_set(f"{_FACTS}{topic}/{_group.process}", own)
    first = json.loads(_wait_for(_group, f"{_FACTS}{topic}/0"))
    for process in range(1, _group.count):
        other = json.loads(_wait_for(_group, f"{_FACTS}{topic}/{process}"))
        for name in {**first, **other}:
            if first.get(name) != other.get(name):
                raise UserError(
                    f"{name} differs between the processes: {first.get(name)} in process 0, "
                    f"{other.get(name)} in process {process}; start all with the same"
                )


def facts_of(config: ConfigDict) -> dict[str, object]:
    """The fields in which the processes of a run must agree: all but those of one machine."""
    fields = flatten(config)
    return {f"config.{name}": fields[name] for name in fields if name not in MAY_DIFFER}


def fingerprint(arrays: Iterable[np.ndarray]) -> str:
    """Hash of numbers and texts with their shapes and dtypes; "" in a single process."""
    if _group is None:
        return ""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Tells the others of an exception in the block, before any clean-up that may wait for them."""
    try:
        yield
    except BaseException as error:
        _tell(_reason(error))
        raise


def announce(message: str) -> None:
    """Makes the other processes end with this one, whose one line `message` the caller prints next.

    It returns when they have ended, or after `FAREWELL_SECONDS`: the first process carries the
    coordination service, and XLA aborts the others where that goes before them. It never returns
    where this process's last line was already said.
    """
    if _group is None:
        return
    _speaking.acquire()
    _tell(message)
    _leave(_group)


def _watch(group: Group) -> None:
    """Gives signs of life and looks for those of the others, once a second until JAX shuts down."""
    now = time.monotonic()
    seen = {process: ("", now) for process in range(group.count) if process != group.process}
    for beat in range(sys.maxsize):
        try:
            group.client.key_value_set(f"{_ALIVE}{group.process}", str(beat), allow_overwrite=True)
            words = dict(group.client.key_value_dir_get("sop_jax/watch/"))
        except Exception:  # the service has ended: after its process, or with us, at the very end
            return
        if _FAILED in words:
            process, message = json.loads(words[_FAILED])
            if process == group.process:  # its main thread ends it, unless a clean-up hangs
                time.sleep(FAREWELL_SECONDS)
                _end(message)
            _end(f"process {process}: {message}")
        now = time.monotonic()
        for process, (last, since) in seen.items():
            alive = words.get(f"{_ALIVE}{process}", "")
            if alive != last:
                seen[process] = (alive, now)
            elif now - since > SILENT_SECONDS:
                silent = (
                    f"process {process} of this run gave no sign of life for "
                    f"{SILENT_SECONDS:.0f} s; {_AGAIN}"
                )
                _tell(silent)
                _end(silent)
        time.sleep(1.0)


def _wait_for(group: Group, key: str) -> str:
    """The value of a key, however long it takes: `_watch` ends this process if it cannot come."""
    while True:
        try:
            return group.client.blocking_key_value_get(key, 10_000)
        except Exception as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise


def _tell(message: str) -> None:
    """Leaves word that this process has failed; the first to do so is heard."""
    if _group is None:
        return
    with contextlib.suppress(Exception):  # there is one already, or nobody left to hear it
        _group.client.key_value_set(_FAILED, json.dumps([_group.process, message]))


def _leave(group: Group) -> None:
    """Says that this process is gone; the first one waits until the others have said so."""
    with contextlib.suppress(Exception):
        if group.process != 0:
            group.client.key_value_set(f"{_ENDED}{group.process}", "")
            return
        until = time.monotonic() + FAREWELL_SECONDS
        while time.monotonic() < until:
            if len(group.client.key_value_dir_get(_ENDED)) == group.count - 1:
                time.sleep(0.5)  # between their saying so and their end
                return
            time.sleep(0.1)


def _end(message: str) -> None:
    """Ends the process with one line, from any thread; files are whole at any moment."""
    _speaking.acquire()
    os.write(2, f"error: {' '.join(message.split())}\n".encode())
    if _group is not None:
        _leave(_group)
    os._exit(2)


def _broken(error: BaseException) -> bool:
    """Whether a collective failed, as it does where another process is gone."""
    return re.search("gloo|nccl", str(error), re.IGNORECASE) is not None


def _reason(error: BaseException) -> str:
    """What the other processes are told of an exception."""
    if _broken(error):
        return f"a process of this run ended without a word; {_AGAIN}"
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def _after_exception(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """What `sys.excepthook` does: a collective that broke has a line, any other error its trace."""
    if _broken(error):
        time.sleep(
            2.0
        )  # where the process that broke it said why, `_watch` ends this one with that
        _tell(_reason(error))
        _end(_reason(error))
    announce(_reason(error))
    sys.__excepthook__(kind, error, trace)
    sys.stderr.flush()
    os._exit(1)
