"""XLA options of our programs where its defaults cost time, as measured in benchmarks/NOTES.md."""

import functools

import jax

_CPU_STEPS = {
    # Convolutions by Eigen, as before YNNPACK: of a 3x3 one with 64 channels, YNNPACK takes 2.2
    # times as long forward and 2.4 times for the gradient of the weights (jaxlib 0.10; 0.12 is only
    # as fast forward).
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE",
    # Fewer temporaries alive at a time are fewer fresh pages for the system to clear at every step.
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
}
# An initialiser runs once, and LLVM's optimisations take three times as long as all the rest of it.
_CPU_ONCE = {"xla_backend_optimization_level": 0}


def options_for_steps(platform: str | None = None) -> dict | None:
    """`compiler_options` of `jax.jit` for programs that run many times, on this kind of device.

    Args:
      platform: as devices name it; None: that of the process.
    """
    platform = platform or jax.default_backend()
    return _CPU_STEPS if platform == "cpu" and _known() else None


def options_for_one_run() -> dict | None:
    """`compiler_options` of `jax.jit` for programs that run once."""
    return _CPU_ONCE if jax.default_backend() == "cpu" else None


@functools.cache
def _known() -> bool:
    """Whether this XLA has the options: one is experimental, and without them programs are slow."""
    try:
        jax.jit(lambda: 0, compiler_options=_CPU_STEPS)()
    except jax.errors.JaxRuntimeError:
        return False
    return True
