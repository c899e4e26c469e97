"""Robust image recovery: a deep image prior with double over-parameterisation.

Source: You, Zhu, Qu, Ma, NeurIPS 2020 (arXiv 2006.08857), section 3, and its released code.

An image y = x + s with sparse gross errors s is fitted by phi(theta) + g*g - h*h: the network phi,
which takes to natural images first, models x, and g*g - h*h, started near zero, models s. Network,
g and h learn by plain gradient descent on the mean squared error, g and h `alpha` times as fast.
The plain prior fits phi(theta) alone to y and in the end takes in the errors too.

Everywhere an image is float32 [H, W, 3] in [0, 1].
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sop_jax.compiler import options_for_one_run, options_for_steps
from sop_jax.models.skip_net import SkipNet

FITS = DOUBLE, PLAIN_L1, PLAIN_MSE = ("double", "plain_l1", "plain_mse")
INPUT_DEPTH = 32  # channels of the network's fixed random input, uniform in [0, INPUT_RANGE]
INPUT_RANGE = 0.1
INPUT_NOISE = 1 / 30  # standard deviation of what is added to the input, anew at every iteration
START = 1e-5  # standard deviation of g and h at the start: at zero itself they would never move
ALPHA_PIXELS = 512 * 512  # the size at which `alpha` is stated, that of the paper's images


def corrupt(image: np.ndarray, rate: float, seed: int) -> np.ndarray:
    """Salt-and-pepper noise: an entry [H, W, 3] becomes, with probability `rate`, 0 or 1."""
    rng = np.random.default_rng(seed)
    hit, salt = rng.random(image.shape) < rate, rng.random(image.shape) < 0.5
    return np.where(hit, salt, image).astype(np.float32)


def psnr(mean_squared_error: Any) -> np.ndarray:
    """Peak signal-to-noise ratio in dB of images in [0, 1]: 10 log10(1 / mse)."""
    return -10 * np.log10(np.asarray(mean_squared_error, np.float64))


def rescaled_alpha(alpha: float, height: int, width: int) -> float:
    """`alpha`, stated for 512x512 pixels, such that g and h grow as fast on this size."""
    return alpha * height * width / ALPHA_PIXELS


def growth(rate: float, height: int, width: int) -> float:
    """Factor by which g grows in an iteration at residual 1, with a rate of alpha * tau.

    The gradient of the mean of (g*g - s)^2 over 3HW entries is 4 g r / (3HW): 1.0025 in the paper's
    setting.
    """
    return 1 + 4 * rate / (3 * height * width)


def largest_rate(height: int, width: int) -> float:
    """The rate of g and h, alpha * tau, above which descent is unstable.

    The mean of (g*g - s)^2 over 3HW entries has curvature 8 s / (3HW) in g at its minimum, and |s|
    <= 1; descent needs rate * curvature < 2.
    """
    return 3 * height * width / 4


def sparse_part(variables: Any) -> jax.Array:
    """The errors as modelled, g*g - h*h."""
    return variables["g"] ** 2 - variables["h"] ** 2


class Settings(NamedTuple):
    """What a fit is apart from its image; `alpha` is already rescaled to the image's size."""

    width: int
    scales: int
    learning_rate: float
    alpha: float
    plain_learning_rate: float


class State(NamedTuple):
    """All that changes in a fit."""

    variables: Any  # "network", its parameters; if doubled also "g" and "h" [1, H, W, 3]
    opt_state: Any
    iteration: jax.Array  # int32, iterations done


class Progress(NamedTuple):
    """Of each iteration, float32 [n]; of the output before its update, on its noisy input."""

    loss: np.ndarray
    error: np.ndarray  # mean squared error of the network's output to the clean image


class Step(Protocol):
    def __call__(self, state: State, _: None = None) -> tuple[State, Progress]:
        """One iteration; its Progress holds scalars."""


class Advance(Protocol):
    def __call__(self, state: State, iterations: int) -> tuple[State, Progress]:
        """`iterations` of them."""


class Images(Protocol):
    def __call__(self, state: State) -> dict[str, jax.Array]:
        """ "recovered", the network's output on the input without noise, float32 [H, W, 3].

        If doubled also "sparse" [H, W, 3], what is modelled as errors.
        """


class Fit(NamedTuple):
    """One fit of one image."""

    start: State  # before the first iteration
    advance: Advance
    images: Images
    limit: str  # what keeps descent from diverging, in words


def make(name: str, settings: Settings, clean: np.ndarray, observed: np.ndarray, seed: int) -> Fit:
    """The fit called `name`, one of FITS, of `observed` [H, W, 3]; `clean` only measures it.

    'double' is plain SGD at `learning_rate` and alpha * `learning_rate` on the mean squared error;
    'plain_l1' and 'plain_mse' are Adam, the usual optimiser of the deep image prior, on the mean
    absolute and squared error. The three start from the same network and see the same input noise.
    """
    network = SkipNet(width=settings.width, scales=settings.scales)
    clean, observed = jnp.asarray(clean)[None], jnp.asarray(observed)[None]
    keys = jax.random.split(jax.random.key(seed), 5)
    fixed_input = INPUT_RANGE * jax.random.uniform(keys[0], (*observed.shape[:3], INPUT_DEPTH))
    init = jax.jit(network.init, compiler_options=options_for_one_run())
    variables = {"network": init(keys[1], fixed_input)}
    if name == DOUBLE:
        variables["g"] = START * jax.random.normal(keys[2], observed.shape)
        variables["h"] = START * jax.random.normal(keys[3], observed.shape)
        slow = optax.sgd(settings.learning_rate)
        fast = optax.sgd(settings.alpha * settings.learning_rate)
        parts = {"network": slow, "g": fast, "h": fast}
        optimizer = optax.multi_transform(parts, {part: part for part in parts})
    else:
        optimizer = optax.adam(settings.plain_learning_rate)

    def step(state: State, _: None = None) -> tuple[State, Progress]:
        noise = jax.random.normal(jax.random.fold_in(keys[4], state.iteration), fixed_input.shape)

        def objective(variables):
            image = network.apply(variables["network"], fixed_input + INPUT_NOISE * noise)
            residual = image - observed + (sparse_part(variables) if name == DOUBLE else 0)
            return jnp.mean(jnp.abs(residual) if name == PLAIN_L1 else residual**2), image

        (loss, image), grads = jax.value_and_grad(objective, has_aux=True)(state.variables)
        with jax.numpy_dtype_promotion("standard"):  # optax's Adam has powers float ** int32
            updates, opt_state = optimizer.update(grads, state.opt_state)
        variables = optax.apply_updates(state.variables, updates)
        error = jnp.mean((image - clean) ** 2)
        return State(variables, opt_state, state.iteration + 1), Progress(loss, error)

    @functools.partial(jax.jit, compiler_options=options_for_steps())
    def images(state: State) -> dict[str, jax.Array]:
        parts = {"recovered": network.apply(state.variables["network"], fixed_input)[0]}
        return parts | ({"sparse": sparse_part(state.variables)[0]} if name == DOUBLE else {})

    advance = step_by_step(step) if jax.default_backend() == "cpu" else in_one_program(step)
    start = State(variables, optimizer.init(variables), jnp.zeros((), jnp.int32))
    return Fit(start, advance, images, _limit(name, settings, *observed.shape[1:3]))


def _limit(name: str, settings: Settings, height: int, width: int) -> str:
    if name != DOUBLE:
        return f"lower config.plain_learning_rate={settings.plain_learning_rate:g}"
    rate = settings.alpha * settings.learning_rate
    largest = largest_rate(height, width)
    return (
        f"g and h learn at {rate:.4g}, which must stay below 3HW/4 = {largest:.4g} (lower "
        f"config.alpha), and the network at config.learning_rate={settings.learning_rate:g} "
        "(lower it too)"
    )


def to_arrays(state: State) -> dict[str, np.ndarray]:
    """The leaves of the state by number, for a file."""
    leaves = jax.tree.leaves(state)
    return {f"state_{number}": np.asarray(leaf) for number, leaf in enumerate(leaves)}


def from_arrays(arrays: Mapping[str, np.ndarray], like: State) -> State:
    """The state that `to_arrays` took apart, of the structure of `like`, bit by bit."""
    leaves, structure = jax.tree.flatten(like)
    saved = [jnp.asarray(arrays[f"state_{number}"]) for number in range(len(leaves))]
    return jax.tree.unflatten(structure, saved)


def step_by_step(step: Step) -> Advance:
    """One call an iteration: XLA's CPU convolutions are many times slower inside a loop."""
    one = jax.jit(step, compiler_options=options_for_steps())

    def advance(state: State, iterations: int) -> tuple[State, Progress]:
        history = []
        for _ in range(iterations):
            state, progress = one(state)
            history.append(progress)
        series = zip(*history, strict=True)
        return state, Progress(*(np.asarray(jnp.stack(values)) for values in series))

    return advance


def in_one_program(step: Step) -> Advance:
    """One program for all iterations, for GPU and TPU."""
    many = jax.jit(
        lambda state, iterations: jax.lax.scan(step, state, length=iterations), static_argnums=1
    )

    def advance(state: State, iterations: int) -> tuple[State, Progress]:
        state, progress = many(state, iterations)
        return state, Progress(*map(np.asarray, progress))

    return advance
