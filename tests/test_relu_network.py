"""The ReLU network and its descent, by hand; training against what the tangent kernel predicts."""

import jax.numpy as jnp
import numpy as np
import pytest

from sop_jax.theory import curves, curves_training, relu_network, tangent_kernel


def test_initial_weights_have_the_papers_shapes_and_scales():
    weights = relu_network.init(0, 3, 200, 3)
    assert [w.shape for w in weights] == [(3, 200), (200, 200), (200, 200), (200, 1)]
    assert all(w.dtype == jnp.float32 for w in weights)
    for weight, std in zip(weights, [0.1, 0.1, 0.1, 1.0], strict=True):
        assert float(jnp.std(weight)) == pytest.approx(std, rel=0.2)
    assert not np.array_equal(weights[1], weights[2])
    assert [w.shape for w in relu_network.init(0, 3, 7, 1)] == [(3, 7), (7, 1)]


def test_the_network_by_hand():
    weights = [jnp.array([[1.0, -1.0]]), jnp.array([[2.0], [3.0]])]
    np.testing.assert_allclose(
        relu_network.apply(weights, jnp.array([[1.0], [-1.0], [2.0]])), [2, 3, 4]
    )


def test_two_steps_of_descent_by_hand():
    # f = w v x at x = 1, w = 1, v = 2, y = 0: f = 2, loss 2, df/dw = 2, df/dv = 1; rate .1: w = .6,
    # v = 1.8, f = 1.08 then w = .6 - .1*1.08*1.8 = .4056, v = 1.8 - .1*1.08*.6 = 1.7352
    weights = [jnp.array([[1.0]]), jnp.array([[2.0]])]
    sample, grid = (
        (jnp.array([[1.0]]), jnp.array([0.0])),
        (jnp.array([[1.0], [2.0]]), jnp.array([1.0, -1.0])),
    )
    run = relu_network.descend(weights, sample, grid, 0.1, steps=2, every=1)
    np.testing.assert_allclose(run.loss, [2.0, 1.08**2 / 2], rtol=1e-6)
    np.testing.assert_allclose(run.grid_accuracy, [0.5, 0.5])
    after = relu_network.descend(weights, sample, grid, 0.1, steps=3, every=3)
    assert after.loss[2] == pytest.approx((0.4056 * 1.7352) ** 2 / 2, rel=1e-5)
    assert after.grid_accuracy.shape == (1,)


@pytest.mark.parametrize(
    ("losses", "lost"),
    [
        ([1.0, 0.5], False),
        ([0.9, 0.8, 0.7], False),
        ([1.0, 1.5, 1.2], False),
        ([1.0, 50.0, 0.1], False),
        ([1.0, 50.0, 0.5], True),
        ([1.0, 2.5], True),
        ([1.0, np.inf], True),
        ([1.0, np.nan, 0.1], True),
        ([np.nan], True),
    ],
)
def test_divergence_is_noticed(losses, lost):
    assert relu_network.diverged(jnp.array(losses)) is lost


def test_descent_is_stable_below_the_limit_and_not_above():
    pair, settings = (
        curves.named("circles-1"),
        {"depth": 2, "width": 256, "samples": 10, "grid": 20},
    )
    limit = curves_training.train(pair, **settings, steps=20, every=20, factor=1.0, seeds=[0])[
        "limit"
    ][0]
    below, above, far = (
        curves_training.train(pair, **settings, steps=20, every=20, factor=times * limit, seeds=[0])
        for times in (0.9, 2.5, 20.0)
    )
    assert np.all(below["loss"] <= below["loss"][0, 0] * 1.001) and not below["diverged"][0]
    assert above["loss"].max() > 1.5 * above["loss"][0, 0]
    assert (
        far["diverged"][0]
        and np.isnan(far["grid_accuracy"]).all()
        and np.isnan(far["sample_accuracy"]).all()
    )


def test_training_is_repeatable_and_seeds_differ():
    pair = curves.named("winding-1-0.3")
    settings = {
        "depth": 2,
        "width": 32,
        "samples": 8,
        "grid": 10,
        "steps": 4,
        "every": 2,
        "factor": 1.0,
    }
    first, again = (curves_training.train(pair, **settings, seeds=[5, 6]) for _ in range(2))
    np.testing.assert_array_equal(first["loss"], again["loss"])
    assert first["loss"].shape == (2, 4) and first["grid_accuracy"].shape == (2, 2)
    assert not np.array_equal(first["loss"][0], first["loss"][1])


def test_the_prediction_starts_at_the_loss_and_follows_the_eigenvalues():
    pair = curves.named("winding-4-0.3")
    arrays = curves_training.linearised(
        pair, depth=2, width=1024, samples=10, steps=50, factor=1.0, seed=0
    )
    for kind in ("flow", "descent"):
        assert arrays[kind][0] == pytest.approx(arrays["loss"][0], rel=1e-5)
        np.testing.assert_allclose(arrays["loss"], arrays[kind], rtol=0.1)
    # a single sample: f - y falls by 1 - rate * Theta a step
    weights = relu_network.init(1, 2, 64, 1)
    x, y = jnp.array([[1.0, 0.0]]), jnp.array([1.0])
    rate = 0.2 / float(sum(tangent_kernel.empirical(weights, x, x))[0, 0])
    error = float(relu_network.apply(weights, x)[0] - 1)
    run = relu_network.descend(weights, (x, y), (x, y), rate, steps=2, every=2)
    assert float(run.loss[1]) == pytest.approx(0.5 * (error * (1 - 0.2)) ** 2, rel=0.1)


@pytest.mark.slow
def test_a_network_of_width_4096_follows_its_linearisation():
    pair = curves.named("winding-4-0.3")
    arrays = curves_training.linearised(
        pair, depth=2, width=4096, samples=50, steps=50, factor=1.0, seed=1
    )
    np.testing.assert_allclose(arrays["loss"], arrays["flow"], rtol=0.1)


@pytest.mark.slow
def test_depth_is_the_resource():
    final = {}
    for depth in (1, 2, 10):
        arrays = curves_training.train(
            curves.named("winding-4-0.3"),
            depth=depth,
            width=512,
            samples=50,
            grid=400,
            steps=200,
            every=20,
            factor=1.0,
            seeds=range(3),
        )
        final[depth] = arrays["grid_accuracy"][:, -1].mean()
    assert final[1] < 0.6 and final[1] + 0.1 < final[2] and final[2] + 0.1 < final[10]
