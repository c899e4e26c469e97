"""What the benchmarks share: data without meaning, timing in turns, the machine and its rate."""

import argparse
import importlib.metadata
import json
import os
import pathlib
import time
from collections.abc import Callable, Hashable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from sop_jax.data import noise
from sop_jax.data.dataset import Dataset
from sop_jax.data.sources import Split
from sop_jax.files import write_text
from sop_jax.workdir import describe_run


def add_device_flags(parser: argparse.ArgumentParser) -> None:
    """Flags every benchmark has."""
    parser.add_argument("--out", type=pathlib.Path, required=True, help="JSON file to write")
    parser.add_argument(
        "--devices", type=int, default=0, help="how many (0: all; on a CPU that many virtual ones)"
    )


def use_devices(count: int) -> list[jax.Device]:
    """The first `count` devices (0: all), after making as many virtual ones on a CPU.

    To be called before any other JAX.
    """
    if count and "cpu" in os.environ.get("JAX_PLATFORMS", "cpu"):
        jax.config.update("jax_num_cpu_devices", count)
    found = jax.devices()
    if count > len(found):
        raise SystemExit(
            f"--devices={count}: this machine has {len(found)}; ask for at most as many"
        )
    return found[: count or len(found)]


def random_dataset(num_rows: int, num_classes: int, image_size: int) -> Dataset:
    """A data set of random RGB images and labels: what they show does not change a step's speed."""
    rng = np.random.default_rng(0)
    ids = np.arange(num_rows)
    labels = rng.integers(0, num_classes, num_rows).astype(np.int32)
    images = rng.integers(0, 256, (num_rows, image_size, image_size, 3), np.uint8)
    train = Split(images, labels, ids)
    return Dataset(
        name="random",
        train=train,
        test=Split(*(part[:1] for part in train)),
        train_index=ids.astype(np.int32),
        validation_index=ids[:0].astype(np.int32),
        class_names=tuple(str(k) for k in range(num_classes)),
        mean=np.full(3, 0.5, np.float32),
        std=np.full(3, 0.25, np.float32),
        noise=noise.report("none", 0.0, labels, None, num_classes),
    )


def in_turns(
    contestants: Mapping[Hashable, Callable[[], None]],
    rounds: int,
    warm_up: int = 2,
    prepare: Callable[[Hashable], None] | None = None,
) -> dict[Hashable, np.ndarray]:
    """Seconds [rounds] of every contestant, each called once a round.

    Taking turns, in an order that moves on by one every round, all see the same drift of a shared
    or warming machine. A call must return when its work is done; `prepare` is called with the
    contestant's name before each, outside the time.
    """
    names = list(contestants)
    seconds = {name: [] for name in names}
    for turn in range(warm_up + rounds):
        for place in range(len(names)):
            name = names[(turn + place) % len(names)]
            if prepare is not None:
                prepare(name)
            start = time.perf_counter()
            contestants[name]()
            seconds[name].append(time.perf_counter() - start)
    return {name: np.array(values[warm_up:]) for name, values in seconds.items()}


def ratio(above: np.ndarray, below: np.ndarray) -> float:
    """Median over rounds of the ratio of two contestants' seconds: robust against drift."""
    return float(np.median(above / below))


def quartiles(seconds: np.ndarray) -> list[float]:
    """Lower quartile, median and upper quartile in milliseconds."""
    return [float(1e3 * q) for q in np.quantile(seconds, (0.25, 0.5, 0.75))]


def matrix_product_rate(dtype: str) -> float:
    """FLOP/s of a large square matrix product in `dtype` on one device, the ceiling."""
    side = 2048 if jax.default_backend() == "cpu" else 8192
    a = jax.random.normal(jax.random.key(0), (side, side), jnp.dtype(dtype))
    product = jax.jit(lambda x: x @ x)

    def run() -> None:
        jax.block_until_ready(product(a))

    return 2 * side**3 / float(in_turns({"product": run}, rounds=10)["product"].min())


def describe() -> dict:
    """Command, date, commit, devices and versions of this process."""
    about = describe_run()
    versions = about["versions"] | {"torch": _version("torch")}
    return {
        "command": about["command"],
        "started": about["started"],
        "git_commit": about["git_commit"],
        "devices": about["devices"],
        "cpu_count": os.cpu_count(),
        "versions": versions,
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def write(path: pathlib.Path, result: dict) -> None:
    """Writes the result as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(result, indent=1) + "\n")
    print(f"wrote {path}")
