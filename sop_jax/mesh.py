"""The device mesh and its two shardings: rows are split over the devices, all else is copied."""

import functools
import os

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from sop_jax.agreement import join
from sop_jax.errors import UserError

AXIS = "data"
CLUSTER_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "COORDINATOR_ADDRESS")


def initialize_processes(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Joins the processes of a run where the config or the standard cluster variables name some.

    Must run before any other use of JAX. A single process needs no call and gets none.
    """
    if coordinator is not None or num_processes is not None:
        join(functools.partial(jax.distributed.initialize, coordinator, num_processes, process_id))
    elif any(name in os.environ for name in CLUSTER_VARIABLES):
        join(jax.distributed.initialize)


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """A one-axis mesh over `devices` (default: all visible ones).

    The axis is Auto: on JAX's default Explicit axes the look-up `table[index]` raises.
    """
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def platform(mesh: Mesh) -> str:
    """What its devices are: 'cpu', 'gpu' or 'tpu'."""
    return mesh.devices.flat[0].platform


def by_rows(mesh: Mesh) -> NamedSharding:
    """Sharding that splits the leading dimension (rows of a table, a batch) over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def by_batch(mesh: Mesh) -> NamedSharding:
    """Sharding of an index array [S, B]: every device holds its part of each batch."""
    return NamedSharding(mesh, PartitionSpec(None, AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding that puts a full copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def put(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """Places a host array, known in full to every process, on the mesh."""
    array = np.asarray(array)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def fetch(tree):
    """Copies a tree of arrays to the host in full, also where other processes hold part of it."""

    def to_host(x: jax.Array) -> np.ndarray:
        if x.is_fully_addressable or x.is_fully_replicated:
            return np.asarray(x)
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(x, tiled=True))

    return jax.tree.map(to_host, tree)


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raises UserError unless the global batch splits evenly over the devices."""
    devices = mesh.devices.size
    if batch_size % devices:
        raise UserError(
            f"batch_size={batch_size} is not divisible by the {devices} devices; "
            f"set --config.batch_size={nearest_batch_size(batch_size, devices)}"
        )


def nearest_batch_size(batch_size: int, devices: int) -> int:
    """The multiple of the devices, at least one each, that is nearest to a global batch size."""
    return devices * max(1, round(batch_size / devices))
