"""Gradient descent with discrepant learning rates on the linear model, and where its flow ends.

h(theta, u, v) = 1/2 ||J theta + u*u - v*v - y||^2 (SOP paper, eq. 15), with residual rho, is
descended from theta = 0, u = v = gamma by

    theta <- theta - tau J^T rho,  u <- u - 2 alpha tau u*rho,  v <- v + 2 alpha tau v*rho

As tau -> 0, with nu = -integral of rho: theta = J^T nu, u = gamma e^(2 alpha nu) and
v = gamma e^(-2 alpha nu) (eq. 20), so descent ends where

    J J^T nu + gamma^2 (e^(4 alpha nu) - e^(-4 alpha nu)) = y.

A `lane` is one descent, of one problem with one alpha; theta is held by its coordinates z in the
row space of J, basis B = U S (see sparse_linear).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sop_jax.errors import UserError

# Descent stops when ||rho||_inf < TOLERANCE ||y||. At 1e-5 it leaves s up to .014 away from its
# limit where s* is a hundredth of y.
TOLERANCE = 5e-6
STRIDE = 100  # steps between two looks at that rule
BLOCK = 128  # lanes of one program: its state stays in the processor's cache
# steps before the first sorting of lanes into those that stopped and those that go on
FIRST_LEG = 2_000


class Descent(NamedTuple):
    """Where descent stopped, lane by lane. float64."""

    coordinates: np.ndarray  # z [L, r]: theta = V z
    u: np.ndarray  # [L, N]
    v: np.ndarray  # [L, N]
    iterations: np.ndarray  # [L] int
    converged: np.ndarray  # [L] bool: stopped by the rule, not by the cap on iterations

    @property
    def noise(self) -> np.ndarray:
        """s = u*u - v*v [L, N]."""
        return self.u**2 - self.v**2


class Limit(NamedTuple):
    """Where the flow ends, lane by lane. float64."""

    nu: np.ndarray  # [L, N]
    coordinates: np.ndarray  # z = B^T nu [L, r]
    noise: np.ndarray  # s [L, N]
    residual: np.ndarray  # [L], norm of what is left of the equation, relative to ||y||


def residual(basis, observed, z, u, v):
    """rho = B z + u*u - v*v - y [N]."""
    return jnp.sum(basis * z[None, :], axis=-1) + u * u - v * v - observed


def step(basis, observed, alpha, tau, state):
    """One step of eq. 16 on state = (z [r], u [N], v [N])."""
    z, u, v = state
    rho = residual(basis, observed, z, u, v)
    move = 2 * alpha * tau * rho
    return z - tau * jnp.sum(basis * rho[:, None], axis=0), u - move * u, v + move * v


def safe_step(basis: np.ndarray, observed: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """A constant step at which descent is stable: min(.5/||J||^2, .02/(alpha ||y||_inf)) [L]."""
    largest = np.max(np.abs(observed), axis=-1)
    return np.minimum(0.5 / _spectral(basis) ** 2, 0.02 / (alpha * largest))


def _spectral(basis: np.ndarray) -> np.ndarray:
    return np.linalg.norm(basis, ord=2, axis=(-2, -1))


def _step_rule(basis, observed, alpha, step_size):
    """(largest, caution) [L] each; the step is tau = min(largest, caution / ||rho||_inf).

    A step multiplies u by 1 - 2 alpha tau rho where the flow has exp(-2 alpha tau rho). The factors
    differ by 2 (alpha tau rho)^2, which shifts the end point as another gamma would: in figure 2
    the constant step of `safe_step` leaves s up to .05 away from the limit. So alpha tau |rho| is
    kept below .0007, and as the residual falls the step may grow, up to where the curvature 4 alpha
    (u*u + v*v) + ||J||^2 bounds it.
    """
    if step_size is not None:
        return np.full(alpha.shape, step_size), np.full(alpha.shape, np.inf)
    largest = np.minimum(
        0.5 / _spectral(basis) ** 2, 0.1 / (alpha * np.max(np.abs(observed), axis=-1))
    )
    return largest, 0.0007 / alpha


def _advance(basis, observed, alpha, largest, caution, state, iterations, until):
    """One lane from `iterations` on, to the stop rule, a residual not finite, or `until`."""
    enough = TOLERANCE * jnp.linalg.norm(observed)

    def one(_, state):
        size = jnp.max(jnp.abs(residual(basis, observed, *state)))
        return step(basis, observed, alpha, jnp.minimum(largest, caution / size), state)

    def goes_on(carry):
        size = jnp.max(jnp.abs(residual(basis, observed, *carry[0])))
        return (size >= enough) & jnp.isfinite(size) & (carry[1] < until)

    def stride(carry):
        return jax.lax.fori_loop(0, STRIDE, one, carry[0]), carry[1] + STRIDE

    state, iterations = jax.lax.while_loop(goes_on, stride, (state, iterations))
    return state, iterations, jnp.max(jnp.abs(residual(basis, observed, *state))) / enough


# Lanes lie along the LAST axis, so that one vector instruction works on several of them.
_advance_block = jax.jit(
    jax.vmap(_advance, in_axes=(-1, -1, -1, -1, -1, -1, -1, None), out_axes=-1)
)


def descend(
    basis: np.ndarray,
    observed: np.ndarray,
    alpha: np.ndarray,
    log_gamma: float,
    max_iterations: int,
    step_size: float | None = None,
) -> Descent:
    """Gradient descent of L lanes, in legs of doubling length; lanes that stopped are laid aside.

    Args:
      basis: B [L, N, r].
      observed: y [L, N].
      alpha: [L], ratios of learning rates.
      log_gamma: logarithm of the start value.
      max_iterations: cap on the steps of a lane, rounded up to a whole stride.
      step_size: constant tau; None chooses it from the residual (see `_step_rule`).

    Raises:
      UserError: a lane diverged, which only a given step_size brings about.
    """
    last = [np.moveaxis(np.asarray(x, np.float64), 0, -1) for x in (basis, observed, alpha)]
    rule = _step_rule(basis, observed, alpha, step_size)
    num_lanes, num_rows, rank = basis.shape
    z, (u, v) = np.zeros((rank, num_lanes)), np.full((2, num_rows, num_lanes), np.exp(log_gamma))
    iterations, excess = np.zeros(num_lanes, np.int64), np.full(num_lanes, np.inf)
    lanes, until = np.arange(num_lanes), 0
    with jax.enable_x64(True):
        while len(lanes) and until < max_iterations:
            until = min(max(2 * until, FIRST_LEG), max_iterations)
            for block in np.split(lanes, range(BLOCK, len(lanes), BLOCK)):
                padded = np.resize(block, BLOCK)  # one shape, so one compilation
                fixed = [x[..., padded] for x in (*last, *rule)]
                state = tuple(x[..., padded] for x in (z, u, v))
                state, count, over = _advance_block(*fixed, state, iterations[padded], until)
                for store, new in zip(
                    (z, u, v, iterations, excess), (*state, count, over), strict=True
                ):
                    store[..., block] = np.asarray(new)[..., : len(block)]
            if not np.all(np.isfinite(excess)):
                lane = int(np.argmin(np.isfinite(excess)))
                _say_diverged(basis[lane], observed[lane], alpha[lane], step_size)
            lanes = lanes[excess[lanes] >= 1]
    return Descent(z.T, u.T, v.T, iterations, excess < 1)


def _say_diverged(basis, observed, alpha, step_size):
    """Raises the UserError of one lane: basis [N, r], observed [N], alpha."""
    limit = safe_step(basis, observed, alpha)
    bound = 0.02 / (step_size * np.max(np.abs(observed)))
    raise UserError(
        f"config.step_size={step_size:g}: gradient descent diverges at alpha={alpha:g}. The limit "
        f"there is step_size <= min(0.5/||J||^2, 0.02/(alpha ||y||_inf)) = {limit:.3g} (for this "
        f"step: alpha <= {bound:.3g}); lower it, lower config.alpha_max, or leave config.step_size "
        "unset"
    )


def _limit(basis, observed, alpha, log_gamma):
    """Damped Newton method on F(nu) = B B^T nu + 2 gamma^2 sinh(4 alpha nu) - y.

    The Jacobian of F is positive definite.
    """
    gram, scale, gamma_squared = basis @ basis.T, jnp.linalg.norm(observed), jnp.exp(2 * log_gamma)
    shrink = 0.5 ** jnp.arange(25.0)

    def equation(nu):
        return basis @ (basis.T @ nu) + 2 * gamma_squared * jnp.sinh(4 * alpha * nu) - observed

    def newton(carry):
        nu, value, _, count = carry
        # scales the diagonal part to 1
        root = 1 / jnp.sqrt(8 * alpha * gamma_squared * jnp.cosh(4 * alpha * nu))
        matrix = jnp.eye(len(nu)) + root[:, None] * gram * root[None, :]
        direction = -root * jax.scipy.linalg.solve(matrix, root * value, assume_a="pos")
        # A step may not change an exponent by more than 4: sinh would overflow.
        direction = direction * jnp.minimum(1.0, 1 / jnp.max(jnp.abs(alpha * direction)))
        candidates = nu[None, :] + shrink[:, None] * direction[None, :]
        values = jax.vmap(equation)(candidates)
        norms = jnp.linalg.norm(values, axis=1)
        best = jnp.argmin(norms)
        return candidates[best], values[best], norms[best], count + 1

    start = jnp.zeros_like(observed)
    carry = (start, -observed, scale, 0)
    nu, _, norm, _ = jax.lax.while_loop(
        lambda c: (c[2] > 1e-11 * scale) & (c[3] < 500), newton, carry
    )
    return Limit(nu, basis.T @ nu, 2 * gamma_squared * jnp.sinh(4 * alpha * nu), norm / scale)


@jax.jit
def _all_limits(basis, observed, alpha, log_gamma):
    lanes = (basis, observed, alpha)
    return jax.lax.map(lambda lane: _limit(*lane, log_gamma), lanes, batch_size=BLOCK)


def exact_limit(
    basis: np.ndarray, observed: np.ndarray, alpha: np.ndarray, log_gamma: float
) -> Limit:
    """The end of the gradient flow of L lanes; arguments as in `descend`."""
    with jax.enable_x64(True):
        lanes = (np.asarray(x, np.float64) for x in (basis, observed, alpha))
        return Limit(*map(np.asarray, _all_limits(*lanes, float(log_gamma))))
