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
_GPU_STEPS = {
    # From jaxlib 0.9 on it ran for tens of minutes at some users', and crashed. What it would gain
    # here is not measured: no GPU was at hand (benchmarks/accelerator.py compares both).
    "xla_gpu_experimental_enable_fusion_autotuner": False,
}
_STEPS = {"cpu": _CPU_STEPS, "gpu": _GPU_STEPS}
# Left at XLA's defaults, since the compiled H100 program shows no reason to touch them: the
# autotuning level (4: cuDNN's algorithms are timed and checked) and the command buffers, which take
# up the fusions, cuDNN's convolutions and copies of a scan's body from 5 nodes on; a step of ours
# has hundreds.

# An initialiser runs once, and LLVM's optimisations take three times as long as all the rest of it.
_CPU_ONCE = {"xla_backend_optimization_level": 0}


def options_for_steps(platform: str | None = None) -> dict | None:
    """`compiler_options` of `jax.jit` for programs that run many times, on this kind of device.

    Args:
      platform: as devices name it; None: that of the process.
    """
    platform = platform or jax.default_backend()
    options = _STEPS.get(platform)
    return options if options and _known(platform) else None


def options_for_one_run() -> dict | None:
    """`compiler_options` of `jax.jit` for programs that run once."""
    return _CPU_ONCE if jax.default_backend() == "cpu" else None


@functools.cache
def _known(platform: str) -> bool:
    """Whether this XLA has the options: some are experimental, and it refuses unknown ones."""
    try:
        jax.jit(lambda: 0, compiler_options=_STEPS[platform])()
    except jax.errors.JaxRuntimeError:
        return False
    return True
