"""The hour-glass with skip branches: shapes, batch statistics, reflection, number of weights."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sop_jax import compiler
from sop_jax.models import api
from sop_jax.models.skip_net import SkipNet

KEY = jax.random.key(0)


def count(params) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.fixture(scope="module")
def small():
    """(apply, parameters, input) of two scales."""
    network = SkipNet(width=4, scales=2)
    x = jax.random.uniform(KEY, (1, 16, 16, 5))
    init, apply = (
        jax.jit(f, compiler_options=compiler.options_for_one_run())
        for f in (network.init, network.apply)
    )
    return apply, init(KEY, x), x


def test_image_of_the_inputs_size_strictly_between_0_and_1(small):
    apply, params, x = small
    image = apply(params, x)
    chex.assert_shape(image, (1, 16, 16, 3))
    assert 0 < image.min() < image.max() < 1
    assert set(params) == {"params"}  # no running statistics to be mistaken for the batch's own


def test_parameters_counted_by_hand():
    """Of a scale with D inputs: 1x1 to 4; 3x3 to w; 3x3; 3x3 from w + 4; 1x1; norms.

    Then the 1x1 to the image.
    """

    def expected(width, scales, depth):
        total = width * 3 + 3
        for inputs in [depth] + [width] * (scales - 1):
            convolutions = [
                (1, inputs, 4),
                (9, inputs, width),
                (9, width, width),
                (9, width + 4, width),
                (1, width, width),
            ]
            total += sum(area * a * b + b + 2 * b for area, a, b in convolutions) + 2 * (width + 4)
        return total

    for width, scales, depth in ((4, 2, 5), (128, 5, 32)):
        network = SkipNet(width=width, scales=scales)
        shapes = jax.eval_shape(network.init, KEY, jnp.zeros((1, 64, 64, depth)))
        assert count(shapes) == expected(width, scales, depth)


def test_the_norm_undoes_scale_and_shift_of_the_input(small):
    """Every branch begins with a convolution and a norm of the batch's own statistics."""
    apply, params, x = small
    before, after = apply(params, x), apply(params, 3 * x)
    np.testing.assert_allclose(before, after, atol=2e-3)  # but for the norm's epsilon
    assert np.abs(apply(params, x**2) - before).max() > 2e-2


def test_rows_and_columns_are_treated_alike(small):
    """Kernels and input transposed give the transposed image, so padding and strides agree."""
    apply, params, x = small
    transposed = jax.tree.map(lambda leaf: leaf.swapaxes(0, 1) if leaf.ndim == 4 else leaf, params)
    plain, other = apply(params, x), apply(transposed, x.swapaxes(1, 2))
    np.testing.assert_allclose(other, plain.swapaxes(1, 2), atol=1e-5)
    assert np.abs(apply(transposed, x) - plain).max() > 1e-3  # the kernels are not symmetric


def test_a_constant_input_is_not_disturbed_at_the_borders(small):
    """With reflection a constant stays constant (zeros around it would show as a frame)."""
    apply, params, x = small
    image = apply(params, jnp.ones_like(x))
    np.testing.assert_allclose(image, jnp.broadcast_to(image[:, 8:9, 8:9], image.shape), atol=1e-4)


def test_it_is_no_classifier():
    assert not any("skip" in name for name in api.NETWORKS)
