"""The fast recipe's parts together: whitening, Muon, averaged parameters, a run that learns."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_loop import assert_same_end, metrics, tiny

from sop_jax import evaluate, methods, models, optimizer
from sop_jax.config import default
from sop_jax.data import sources
from sop_jax.data.augment import normalise
from sop_jax.methods.base import Batch
from sop_jax.models import fast
from sop_jax.settings import complete
from sop_jax.state import init_state
from sop_jax.step import make_step
from sop_jax.tasks import classify


def correlated_images(channels, seed=0):
    """Smooth random colour images, their pixels correlated in space and between channels."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(60, 13, 13, channels)).cumsum(axis=1).cumsum(axis=2) @ rng.normal(
        size=(channels,) * 2
    )
    return np.clip(128 + 6 * noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "images", [sources.digits().train.images[:200], correlated_images(3)], ids=["grey", "colour"]
)
def test_filters_whiten_patches(images, monkeypatch):
    channels = images.shape[-1]
    mean, std = [0.4] * channels, [0.25] * channels
    filters = fast.whitening_filters(images, mean, std, eps=1e-9)
    assert filters.shape == (2, 2, channels, 8 * channels) and filters.dtype == np.float32
    np.testing.assert_array_equal(filters[..., : 4 * channels], -filters[..., 4 * channels :])
    output = jax.lax.conv_general_dilated(
        normalise(images, mean, std),
        filters,
        (1, 1),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    covariance = np.cov(
        np.asarray(output[..., : 4 * channels], np.float64).reshape(-1, 4 * channels).T, bias=True
    )
    np.testing.assert_allclose(covariance, np.eye(4 * channels), atol=1e-3)
    monkeypatch.setattr(fast, "_CHUNK", 7)  # however the images are divided
    np.testing.assert_allclose(
        fast.whitening_filters(images, mean, std, eps=1e-9), filters, rtol=1e-3, atol=1e-3
    )


def test_faint_directions_are_not_blown_up():
    grey = np.repeat(correlated_images(1), 3, axis=-1)  # the channels are equal: eigenvalues of 0
    assert np.abs(fast.whitening_filters(grey, [0.5] * 3, [0.25] * 3)).max() <= 1 / np.sqrt(5e-4)


def test_kernels_start_as_the_identity():
    kernel = fast.identity_start(jax.random.key(0), (3, 3, 4, 6))
    images = jax.random.normal(jax.random.key(1), (2, 5, 5, 4))
    output = jax.lax.conv_general_dilated(
        images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_array_equal(output[..., :4], images)
    assert np.abs(kernel[..., 4:]).min() > 0


def make_state(sample, config, num_classes=4):
    """A state and a jitted CE step of fast_net on 8x8 grey images.

    `sample` hands over the images to whiten; None: that layer is trained.
    """
    config = complete(config)
    method = methods.find("ce")(num_classes=num_classes)
    fitted = sample is not None
    model = models.find("fast_net", num_classes, sample=sample, width=4, whitening=fitted)
    optimiser = optimizer.make_optimizer(optimizer.network_optimizer(config, 3), {}, 16)
    state = init_state(
        jax.random.key(0), method, model, optimiser, (8, 8, 1), jnp.zeros(16, int), num_classes
    )
    return model, state, jax.jit(make_step(method, model, optimiser, 3))


def batch(seed=0):
    images = jax.random.normal(jax.random.key(seed), (16, 1, 8, 8, 1))
    return Batch(images, jnp.arange(16) % 4, jnp.arange(16, dtype=jnp.int32), jnp.ones(16))


def fast_config(**fields):
    config = default()
    config.epochs = 4
    config.optimizer.update(
        {"name": "muon", "learning_rate": 0.5, "schedule": "constant", **fields}
    )
    return config


def test_filters_are_fixed_and_live_in_the_state():
    sample = models.Sample(sources.digits().train.images[:100], (0.3,), (0.4,))
    filters = fast.whitening_filters(*sample)
    model, state, step = make_state(lambda: sample, fast_config())
    after, _ = step(state, batch())
    np.testing.assert_array_equal(after.model_state[0]["Whitening_0"]["kernel"], filters)
    assert "kernel" not in state.params[0]["Whitening_0"]
    bias = "FastBias_0"
    assert np.any(
        after.params[0]["Whitening_0"][bias]["bias"] != state.params[0]["Whitening_0"][bias]["bias"]
    )
    # what predicts later has no images to compute filters from
    rebuilt = models.find("fast_net", 4, width=4)
    images = batch().image[:, 0]
    for one, two in zip(
        model.apply(after.params[0], after.model_state[0], images, False),
        rebuilt.apply(after.params[0], after.model_state[0], images, False),
        strict=True,
    ):
        jax.tree.map(np.testing.assert_array_equal, one, two)


def test_without_whitening_the_same_layer_is_trained():
    _, state, step = make_state(None, fast_config())
    after, _ = step(state, batch())
    assert state.params[0]["Whitening_0"]["kernel"].shape == (2, 2, 1, 8)
    assert np.any(
        after.params[0]["Whitening_0"]["kernel"] != state.params[0]["Whitening_0"]["kernel"]
    )
    assert "Whitening_0" not in state.model_state[0]


def test_evaluation_takes_the_averaged_parameters():
    _, state, step = make_state(None, fast_config())
    assert evaluate.evaluation_params(state) is state.params
    _, state, step = make_state(None, fast_config(ema=0.9))
    jax.tree.map(np.testing.assert_array_equal, evaluate.evaluation_params(state), state.params)
    expected = state.params
    for t in range(3):
        state, _ = step(state, batch(t))
        kept = min(0.9, (1 + t) / (10 + t))
        expected = jax.tree.map(
            lambda old, new, kept=kept: kept * old + (1 - kept) * new, expected, state.params
        )
    got = evaluate.evaluation_params(state)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, expected)
    assert not np.allclose(jax.tree.leaves(got)[0], jax.tree.leaves(state.params)[0])


def recipe(epochs):
    config = tiny(
        epochs=epochs,
        data__train_limit=960,
        model__name="fast_net",
        model__width=8,
        method__name="sop_plus",
        augment__strong="weak",
        augment__flip=True,
        augment__alternating_flip=True,
        augment__cutout=2,
    )
    config.optimizer.update(
        name="muon",
        learning_rate=0.03,
        muon_learning_rate=0.1,
        nesterov=True,
        schedule="triangular",
        ema=0.9,
    )
    return config


@pytest.mark.slow
def test_the_recipe_learns_and_goes_on_exactly(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    classify.run(recipe(4), whole)
    assert metrics(whole)[-1]["test_accuracy"] > 0.3  # chance is 0.1
    shutil.copytree(whole, cut)  # what a run leaves that is killed in its last epoch
    (cut / "summary.json").unlink()
    shutil.rmtree(cut / "checkpoints" / "108")
    classify.run(recipe(4), cut)
    assert_same_end(whole, cut)
