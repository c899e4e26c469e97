"""Memory is estimated before it is asked for: a size from a file or a field may be anything."""

import os
import pathlib

from sop_jax.errors import UserError

_CGROUP_LIMIT = pathlib.Path("/sys/fs/cgroup/memory.max")  # a container's own limit, or "max"


def require(num_bytes: int, what: str, mend: str) -> None:
    """Raises UserError where the machine has less memory than `what` needs.

    `mend` says what to do about it.
    """
    machine = machine_bytes()
    if machine is not None and num_bytes > machine:
        raise UserError(
            f"{what}: this needs about {num_bytes / 1e9:,.1f} GB, the machine has "
            f"{machine / 1e9:,.1f} GB: {mend}"
        )


def machine_bytes() -> int | None:
    """Memory of this machine, or of the container the program runs in; None where nobody tells."""
    if not hasattr(os, "sysconf"):  # Windows
        return None
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = _CGROUP_LIMIT.read_text().strip() if _CGROUP_LIMIT.exists() else "max"
    return min(physical, int(limit)) if limit.isdigit() else physical
