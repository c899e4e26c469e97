"""Schedules by hand: rates by epoch, and what a step sees of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_optimizer import configured

from sop_jax.errors import UserError
from sop_jax.schedules import SCHEDULES, by_step, fields, learning_rate_at


def rates(**options):
    config = configured(**options)
    return [learning_rate_at(config, epoch) for epoch in range(config.epochs)]


def test_step_drops_at_the_start_of_the_epoch():
    got = rates(schedule="step", learning_rate=0.02, drop_epochs=(4, 8), drop_factor=0.1)
    np.testing.assert_allclose(got, [0.02] * 4 + [0.002] * 4 + [0.0002] * 2, rtol=1e-6)


def test_cosine_starts_at_the_rate_and_heads_for_the_final_one():
    got = rates(schedule="cosine", learning_rate=0.02, final_learning_rate=2e-4)
    np.testing.assert_allclose(got[0], 0.02, rtol=1e-6)
    np.testing.assert_allclose(got[5], 2e-4 + 0.0198 / 2, rtol=1e-6)
    np.testing.assert_allclose(got[9], 2e-4 + 0.0198 * (1 + np.cos(np.pi * 0.9)) / 2, rtol=1e-5)


def test_cosine_keeps_the_last_bit_of_published_runs():
    """Rates of metrics.jsonl of digits_sop.py over six epochs, as first measured."""
    assert rates(schedule="cosine", epochs=6) == [
        0.019999999552965164,
        0.018673650920391083,
        0.015049999579787254,
        0.01009999867528677,
        0.005149999633431435,
        0.0015263486420735717,
    ]


def test_constant():
    assert rates(schedule="constant", learning_rate=0.5) == [0.5] * 10


def test_triangular_rises_and_falls():
    got = rates(schedule="triangular", learning_rate=0.5, warmup=0.2)
    np.testing.assert_allclose(got, [0, 0.25, *(0.5 * np.arange(8, 0, -1) / 8)], rtol=1e-6)


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_a_step_sees_the_rate_of_its_epoch_under_strict_promotion(name):
    config = configured(schedule=name)
    with jax.numpy_dtype_promotion("strict"):
        rate = jax.jit(by_step(config, 0.02, steps_per_epoch=3))
        got = [float(rate(jnp.int32(step))) for step in range(0, 30, 3)]
        np.testing.assert_allclose(got, rates(schedule=name), rtol=1e-5, atol=1e-8)
        if name != "triangular":
            assert float(rate(jnp.int32(13))) == float(rate(jnp.int32(12)))


def test_an_unknown_schedule_is_refused():
    with pytest.raises(UserError, match="did you mean 'cosine'"):
        fields("cosin")
