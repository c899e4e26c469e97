"""Robust image recovery: noise, PSNR, growth of g and h, the step's formula, stepping two ways."""

import chex
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from sop_jax import compiler
from sop_jax.theory import image_fit
from sop_jax.theory.image_fit import DOUBLE, PLAIN_L1, PLAIN_MSE, Settings

SETTINGS = Settings(width=3, scales=1, learning_rate=0.02, alpha=1000.0, plain_learning_rate=0.01)


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """These programs run a few times each: without LLVM's optimisations they are there sooner."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_fit, "options_for_steps", compiler.options_for_one_run)
        yield


@pytest.fixture(scope="module")
def images():
    ramp = np.linspace(0.2, 0.8, 16, dtype=np.float32)
    clean = np.stack(
        [np.tile(ramp, (16, 1)), np.tile(ramp[:, None], (1, 16)), np.full((16, 16), 0.5)], axis=-1
    )
    clean = clean.astype(np.float32)
    return clean, image_fit.corrupt(clean, 0.3, seed=1)


@pytest.fixture(scope="module")
def fits(images, quick_compilation):
    return {name: image_fit.make(name, SETTINGS, *images, seed=0) for name in image_fit.FITS}


@settings(max_examples=20, deadline=None)
@given(rate=st.floats(0, 0.99), seed=st.integers(0, 2**32 - 1))
def test_corruption_hits_its_share_of_the_entries_with_salt_and_pepper_alike(rate, seed):
    clean = np.full((40, 40, 3), 0.25, np.float32)
    noisy = image_fit.corrupt(clean, rate, seed)
    assert noisy.dtype == np.float32 and set(np.unique(noisy)) <= {0, 0.25, 1}
    np.testing.assert_array_equal(noisy, image_fit.corrupt(clean, rate, seed))
    five_sigma = 5 * np.sqrt(rate * (1 - rate) / clean.size) + 1e-9
    assert abs(np.mean(noisy != clean) - rate) <= five_sigma
    assert abs(np.mean(noisy == 1) - np.mean(noisy == 0)) <= 5 * np.sqrt(rate / clean.size) + 1e-9


def test_channels_are_hit_by_themselves():
    hit = image_fit.corrupt(np.full((64, 64, 3), 0.5, np.float32), 0.5, 0) != 0.5
    assert abs(np.mean(hit[..., 0] & hit[..., 1]) - 0.25) < 0.05


def test_psnr_by_hand():
    np.testing.assert_allclose(image_fit.psnr([1.0, 0.01, 1e-4]), [0, 20, 40], atol=1e-12)
    # half of the entries become 0 or 1: of a mid-grey image the error is .5 * .25
    noisy = image_fit.corrupt(np.full((256, 256, 3), 0.5, np.float32), 0.5, 0)
    assert abs(image_fit.psnr(np.mean((noisy - 0.5) ** 2)) - 10 * np.log10(8)) < 0.05


def test_growth_of_the_papers_setting():
    assert image_fit.growth(500, 512, 512) == pytest.approx(1.0025431, abs=1e-6)
    for size in (64, 128, 512):  # and at every size, as alpha is rescaled
        rate = image_fit.rescaled_alpha(500, size, size)
        assert image_fit.growth(rate, size, size) == pytest.approx(image_fit.growth(500, 512, 512))


def test_the_largest_rate_separates_convergence_from_divergence():
    """g alone on the mean of (g*g - 1)^2 over 3HW entries, from near its minimum."""

    def end(rate):
        g = 1.001
        for _ in range(200):
            g -= rate * 4 * g * (g * g - 1) / (3 * 8 * 8)
        return abs(abs(g) - 1)

    limit = image_fit.largest_rate(8, 8)
    assert end(0.95 * limit) < 1e-6
    assert end(1.05 * limit) > 1e-2


def test_g_and_h_start_small_and_follow_the_formula(fits, images):
    fit, (clean, noisy) = fits[DOUBLE], images
    g, h = fit.start.variables["g"], fit.start.variables["h"]
    chex.assert_shape([g, h], (1, 16, 16, 3))
    assert 0.8e-5 < g.std() < 1.2e-5 and 0.8e-5 < h.std() < 1.2e-5 and not np.allclose(g, h)
    state, progress = fit.advance(fit.start, 1)
    # the loss is that of the output, as g*g - h*h is 1e-10: residual r follows from the growth of
    # g, and gives the loss
    scale = 4 * SETTINGS.alpha * SETTINGS.learning_rate / clean.size
    residual = (1 - state.variables["g"] / g) / scale
    np.testing.assert_allclose(state.variables["h"] / h - 1, scale * residual, atol=2e-5)
    np.testing.assert_allclose(np.mean(residual**2), progress.loss[0], rtol=1e-3)
    output = noisy + residual[0]
    assert output.min() > 0 and output.max() < 1
    np.testing.assert_allclose(np.mean((output - clean) ** 2), progress.error[0], rtol=1e-3)


def test_the_network_learns_by_plain_gradient_descent(fits):
    """Its step is the rate times the gradient of the mean squared error, and nothing else.

    Along a step of plain descent the loss falls by learning_rate * ||gradient||^2 = ||step||^2 /
    learning_rate.
    """
    fit = fits[DOUBLE]
    losses, steps, state = [], [], fit.start
    for _ in range(2):
        # the same input noise
        after, progress = fit.advance(state._replace(iteration=jnp.zeros((), jnp.int32)), 1)
        change = jax.tree.map(jnp.subtract, after.variables["network"], state.variables["network"])
        steps.append(sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(change)))
        losses.append(float(progress.loss[0]))
        state = after
    np.testing.assert_allclose(
        losses[0] - losses[1], np.mean(steps) / SETTINGS.learning_rate, rtol=0.05
    )


def test_all_fits_start_from_one_network_and_only_the_doubled_one_has_g_and_h(fits):
    assert set(fits[DOUBLE].start.variables) == {"network", "g", "h"}
    for name in (PLAIN_L1, PLAIN_MSE):
        assert set(fits[name].start.variables) == {"network"}
        chex.assert_trees_all_equal(
            fits[name].start.variables["network"], fits[DOUBLE].start.variables["network"]
        )
    errors = [fit.advance(fit.start, 1)[1].error[0] for fit in fits.values()]
    np.testing.assert_allclose(errors, errors[0], rtol=1e-6)  # the same input noise too


def test_losses_are_the_mean_absolute_and_squared_error(fits, images):
    """On equal outputs, entries within 1, l1 lies between the squared error and its root."""
    l1, mse = (fits[name].advance(fits[name].start, 1)[1].loss[0] for name in (PLAIN_L1, PLAIN_MSE))
    assert mse < l1 <= np.sqrt(mse) + 1e-6


def test_losses_fall(fits):
    for fit in fits.values():
        _, progress = fit.advance(fit.start, 25)
        chex.assert_shape([progress.loss, progress.error], (25,))
        assert progress.loss[-5:].mean() < progress.loss[:5].mean()


def test_a_state_put_away_and_taken_up_goes_on_bit_by_bit(fits):
    for fit in fits.values():
        straight, progress = fit.advance(fit.start, 4)
        halfway, first = fit.advance(fit.start, 2)
        resumed, second = fit.advance(
            image_fit.from_arrays(image_fit.to_arrays(halfway), fit.start), 2
        )
        chex.assert_trees_all_equal(straight, resumed)
        np.testing.assert_array_equal(progress.error, np.concatenate([first.error, second.error]))
        assert len(np.unique(progress.error)) == 4


def test_one_program_of_many_iterations_gives_what_single_steps_give():
    """The way of GPU and TPU against the CPU's, on descent of (g*g - h*h - .5)^2."""

    def step(state, _=None):
        loss, slope = jax.value_and_grad(lambda v: (image_fit.sparse_part(v) - 0.5) ** 2)(
            state.variables
        )
        variables = jax.tree.map(lambda x, dx: x - 0.1 * dx, state.variables, slope)
        return image_fit.State(variables, (), state.iteration + 1), image_fit.Progress(
            loss, variables["g"]
        )

    start = image_fit.State(
        {"g": jnp.asarray(0.1), "h": jnp.asarray(0.2)}, (), jnp.zeros((), jnp.int32)
    )
    single, looped = (
        image_fit.step_by_step(step)(start, 12),
        image_fit.in_one_program(step)(start, 12),
    )
    chex.assert_trees_all_close(single, looped, rtol=1e-4)
    state, progress = looped
    assert (
        state.iteration == 12
        and progress.loss.shape == (12,)
        and progress.loss[0] == pytest.approx(0.2809)
    )
    assert all(isinstance(series, np.ndarray) for series in (*progress, *single[1]))


def test_images_of_a_state(fits):
    parts = fits[DOUBLE].images(fits[DOUBLE].start)
    assert set(parts) == {"recovered", "sparse"} and set(
        fits[PLAIN_L1].images(fits[PLAIN_L1].start)
    ) == {"recovered"}
    chex.assert_shape(list(parts.values()), (16, 16, 3))
    variables = {"g": jnp.asarray([0.5, 0.0]), "h": jnp.asarray([0.1, 0.7])}
    np.testing.assert_allclose(image_fit.sparse_part(variables), [0.24, -0.49], rtol=1e-6)
