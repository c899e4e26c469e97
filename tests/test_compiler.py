"""XLA options: known ones change how a program is compiled, unknown ones are left out."""

import chex
import jax
import jax.numpy as jnp

from sop_jax import compiler


def _convolution(images, kernel):
    return jax.lax.conv_general_dilated(
        images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def test_convolutions_of_steps_are_not_left_to_ynnpack_and_give_the_same_numbers():
    images = jax.random.normal(jax.random.key(0), (4, 8, 8, 16))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 16, 16))
    compiled = (
        jax.jit(_convolution, compiler_options=compiler.options_for_steps())
        .lower(images, kernel)
        .compile()
    )
    assert "__ynn_fusion" not in compiled.as_text()
    chex.assert_trees_all_close(
        compiled(images, kernel), jax.jit(_convolution)(images, kernel), rtol=1e-4, atol=1e-4
    )


def test_an_option_that_this_xla_lacks_is_left_out(monkeypatch):
    monkeypatch.setitem(compiler._STEPS, "cpu", {"xla_cpu_no_such_option": "x"})
    compiler._known.cache_clear()
    try:
        assert compiler.options_for_steps() is None
    finally:
        monkeypatch.undo()
        compiler._known.cache_clear()


def test_options_are_those_of_the_programs_platform_not_of_the_process():
    assert compiler.options_for_steps("gpu") == {
        "xla_gpu_experimental_enable_fusion_autotuner": False
    }
    assert compiler.options_for_steps("tpu") is None
    assert compiler.options_for_steps("cpu") == compiler.options_for_steps()
    assert compiler.options_for_steps() is not None


def test_other_platforms_take_xlas_defaults_where_a_program_runs_once(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compiler.options_for_one_run() is None


def test_options_for_one_run_compile():
    doubled = jax.jit(lambda x: 2 * x, compiler_options=compiler.options_for_one_run())
    chex.assert_trees_all_close(doubled(jnp.arange(3.0)), jnp.array([0.0, 2.0, 4.0]))
