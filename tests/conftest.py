"""Eight virtual CPU devices, and a strict JAX: no rank or dtype is promoted without saying so.

Programs that several tests need are compiled once a session, also over the workers of pytest-xdist:
they share a cache, which goes with the session.
"""

import atexit
import os
import shutil
import tempfile

if "SOP_JAX_TEST_CACHE" not in os.environ:  # the workers inherit it
    os.environ["SOP_JAX_TEST_CACHE"] = tempfile.mkdtemp(prefix="sop_jax_tests_")
    atexit.register(shutil.rmtree, os.environ["SOP_JAX_TEST_CACHE"], ignore_errors=True)
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ["JAX_PLATFORMS"] = "cpu"

import pathlib

import jax
import numpy as np
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_compilation_cache_dir", os.environ["SOP_JAX_TEST_CACHE"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

GOLDEN = pathlib.Path(__file__).parent / "golden"


@pytest.fixture
def golden():
    """golden("sop_mid") -> dict of arrays computed with the authors' code (shared/golden)."""
    return lambda name: dict(np.load(GOLDEN / f"{name}.npz"))


@pytest.fixture
def promoting_libraries():
    """Not strict, for libraries whose own code promotes dtypes.

    flax's BatchNorm takes bfloat16 inputs with float32 statistics, optax's Muon raises a float to
    the power of an int32 count.
    """
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(params=[np.float64, np.float32], ids=["float64", "float32"])
def precision(request):
    """(dtype, tolerance relative to the largest entry), with 64-bit JAX switched on for float64."""
    with jax.enable_x64(request.param == np.float64):
        yield request.param, 1e-10 if request.param == np.float64 else 1e-5


def assert_match(actual, expected, tolerance):
    """max|a - b| <= tolerance * max|b|, the project's definition of a match."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    error, scale = np.max(np.abs(actual - expected)), np.max(np.abs(expected))
    assert error <= tolerance * scale, f"max error {error:.3g}, allowed {tolerance * scale:.3g}"
