"""SOP: sparse over-parameterisation (Liu, Zhu, Qu, You, ICML 2022; arXiv 2202.14026).

The noise of example i is modelled as s_i = u_i*u_i*y_i - v_i*v_i*(1-y_i), where y_i is the one-hot
GIVEN label, and is added to the network's prediction. Two variants:

  'paper'     Algorithm 1: u learns from the cross-entropy alone, v from the squared error alone;
              after each update u and v are projected onto [-1, 1].
  'official'  the published code of today: u learns from both terms; nothing is projected, the
              squares are clipped to [0, 1] in the loss, so an entry beyond the bound has no
              gradient; SOP+'s balance term uses the corrected prediction q instead of p.

'paper' is the default everywhere. In both, v gets no gradient from the cross-entropy (which would
grow it on every example, clean or not), and the one-hot prediction in the squared error passes
none to the network.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import chex
import jax
import jax.numpy as jnp
import optax

from sop_jax.errors import UserError, suggestion
from sop_jax.fields import SIZE
from sop_jax.methods.base import (
    LossOut,
    Method,
    Problem,
    Rows,
    check_one_row_each,
)

EPS = 1e-4  # floor of the corrected prediction (published code)
VARIANTS = ("paper", "official")
PUBLISHED_RATE = 10.0  # of v where the noise is symmetric
# The largest that was measured good (digits, 60 epochs). Beyond it u and v grow on right labels
# too: on 12 to 30 epochs of digits 60 and 100 flagged more and more of them, and on 30 epochs of
# photographs u at 40 ranked wrong labels worse than u at 10 (one seed each).
LARGEST_RATE = 20.0
SATURATION = 0.63  # share of the epochs after which v may have reached 1
stop = jax.lax.stop_gradient


def _clamp(x: jax.Array, low: float, high: float) -> jax.Array:
    """Clips with the whole gradient at the bounds, as torch does; jnp.clip passes half of it."""
    return jnp.where(x < low, low, jnp.where(x > high, high, x))


def _noise(
    targets: jax.Array, u: jax.Array, v: jax.Array, variant: str
) -> tuple[jax.Array, jax.Array]:
    """U = u*u*y and V = v*v*(1-y), both [B, K]; their difference U - V is s (paper, eq. 4)."""
    on_given, elsewhere = u * u * targets, v * v * (1 - targets)
    if variant == "official":
        on_given, elsewhere = _clamp(on_given, 0.0, 1.0), _clamp(elsewhere, 0.0, 1.0)
    return on_given, elsewhere


def _corrected(probs: jax.Array, on_given: jax.Array, elsewhere: jax.Array) -> jax.Array:
    """q = phi(p + U - sg(V)) [B, K]: floored at EPS and normalised (paper, section 2.2)."""
    q = jnp.maximum(probs + on_given - stop(elsewhere), EPS)
    return _clamp(q / jnp.sum(q, axis=-1, keepdims=True), EPS, 1.0)


def _wide(x: jax.Array) -> jax.Array:
    """At least float32: u and v start near 1e-8, below the smallest float16."""
    return x.astype(x.dtype if x.dtype == jnp.float64 else jnp.float32)


def _check(logits, targets, u, v, weights, variant):
    if variant not in VARIANTS:
        raise UserError(
            f"variant={variant!r} is unknown{suggestion(variant, VARIANTS)}; "
            f"choose from {', '.join(VARIANTS)}"
        )
    chex.assert_rank(logits, 2)
    chex.assert_equal_shape([logits, targets, v])
    chex.assert_shape(u, (logits.shape[0], 1))
    if weights is not None:
        chex.assert_shape(weights, (logits.shape[0],))


def sop_loss(
    logits: jax.Array,
    targets: jax.Array,
    u: jax.Array,
    v: jax.Array,
    *,
    variant: str = "paper",
    mse_weight: float = 1.0,
    weights: jax.Array | None = None,
    batch_size: int | None = None,
) -> jax.Array:
    """The SOP loss of one batch (Algorithm 1): CE(q, y) + mse_weight * ||hard(z) + U - V - y||^2.

    hard(z) is the one-hot argmax of z, without gradient.

    Args:
      logits: [B, K] float. targets: [B, K], one-hot of the given labels.
      u: [B, 1] and v: [B, K], the gathered rows of the batch, float32 or wider.
      variant: 'paper' or 'official', see the module's docstring.
      mse_weight: weight of the squared error; where u takes no gradient from it, a factor on v's
        learning rate.
      weights: [B], 1 for a real row and 0 for padding (default: all real).
      batch_size: nominal batch size that the sum over rows is divided by (default: B).

    Returns:
      A scalar, float32 (float64 if the inputs are).

    Raises:
      UserError: unknown variant. AssertionError: shapes that do not fit.
    """
    _check(logits, targets, u, v, weights, variant)
    return _total(_sop_terms(logits, targets, u, v, variant, mse_weight)[0], weights, batch_size)


def _sop_terms(logits, targets, u, v, variant, mse_weight):
    """(loss of each row [B], corrected prediction q [B, K], prediction p [B, K])."""
    logits, targets, u, v = _wide(logits), _wide(targets), _wide(u), _wide(v)
    on_given, elsewhere = _noise(targets, u, v, variant)
    probs = jax.nn.softmax(logits)
    q = _corrected(probs, on_given, elsewhere)
    cross_entropy = -jnp.sum(targets * jnp.log(q), axis=-1)
    hard = jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1], dtype=logits.dtype)
    on_given_for_v = stop(on_given) if variant == "paper" else on_given
    squared_error = jnp.sum((hard + on_given_for_v - elsewhere - targets) ** 2, axis=-1)
    return cross_entropy + mse_weight * squared_error, q, probs


def _total(each: jax.Array, weights: jax.Array | None, batch_size: int | None) -> jax.Array:
    """Sum over real rows divided by the nominal batch size."""
    total = jnp.sum(each if weights is None else weights * each)
    return total / (each.shape[0] if batch_size is None else batch_size)


def sop_plus_loss(
    logits_weak: jax.Array,
    logits_strong: jax.Array,
    targets: jax.Array,
    u: jax.Array,
    v: jax.Array,
    *,
    consistency_weight: float = 0.9,
    balance_weight: float = 0.1,
    class_prior: Sequence[float] | None = None,
    variant: str = "paper",
    mse_weight: float = 1.0,
    weights: jax.Array | None = None,
    batch_size: int | None = None,
) -> jax.Array:
    """SOP on the weak view + lambda_C * consistency + lambda_B * class balance (section 4.1).

    Consistency is KL(sg(softmax z_weak) || softmax z_strong). Balance is -sum_k prior_k log(mean_b
    p_k), with the mean over the real rows of the batch; the 'official' variant has q there instead
    of p, so that it reaches u.

    Args:
      logits_weak, logits_strong: [B, K], the two views of the same images.
      class_prior: [K], expected class frequencies (default: uniform).
      The others as in `sop_loss`.

    Returns:
      A scalar, float32 (float64 if the inputs are).
    """
    _check(logits_weak, targets, u, v, weights, variant)
    chex.assert_equal_shape([logits_weak, logits_strong])
    num_rows, num_classes = logits_weak.shape
    each, q, probs = _sop_terms(logits_weak, targets, u, v, variant, mse_weight)
    consistency = optax.losses.kl_divergence(jax.nn.log_softmax(_wide(logits_strong)), stop(probs))
    sop = _total(each + consistency_weight * consistency, weights, batch_size)

    weights = (
        jnp.ones((num_rows, 1), q.dtype) if weights is None else weights[:, None].astype(q.dtype)
    )
    mean = jnp.sum(weights * (q if variant == "official" else probs), axis=0) / jnp.maximum(
        jnp.sum(weights), 1.0
    )
    prior = (
        jnp.full((num_classes,), 1 / num_classes)
        if class_prior is None
        else jnp.asarray(class_prior)
    )
    balance = -jnp.sum(prior * jnp.log(_clamp(mean, EPS, 1.0)))
    return sop + balance_weight * balance


def init_rows(
    key: jax.Array, num_rows: int, num_classes: int, std: float = 1e-8, v_dtype: str = "float32"
) -> Rows:
    """u [N, 1] and v [N, K], independent normal draws of standard deviation `std` (appendix A).

    v is stored as `v_dtype`. bfloat16 has float32's exponents, so it holds 1e-8; rounded to its 8
    bits once an epoch, an entry that grows by a third or more an epoch reaches 1 within a quarter
    of an epoch of when float32 would.
    """
    key_u, key_v = jax.random.split(key)
    return {
        "u": std * jax.random.normal(key_u, (num_rows, 1)),
        "v": (std * jax.random.normal(key_v, (num_rows, num_classes))).astype(v_dtype),
    }


def project(rows: Rows) -> Rows:
    """Projects u and v onto the box [-1, 1] (Algorithm 1, last line)."""
    ones = jax.tree.map(jnp.ones_like, rows)
    return optax.projections.projection_box(rows, jax.tree.map(jnp.negative, ones), ones)


def noise_estimate(rows: Rows, labels: jax.Array, num_classes: int) -> jax.Array:
    """s = U - V [n, K], given label minus estimated clean label (paper, equation 4).

    Args:
      rows: {"u": [n, 1], "v": [n, K]}, one row for each label. labels: the given ones, int32 [n].

    Returns:
      float [n, K] in [-1, 1]: at least 0 at the given label and at most 0 elsewhere.

    Raises:
      UserError: `rows` has not one row for each label, as the padded table of a training state.
    """
    check_one_row_each(rows, labels)
    targets = jax.nn.one_hot(labels, num_classes)
    on_given, elsewhere = _noise(targets, rows["u"], rows["v"], "official")
    return on_given - elsewhere


def diagnostics(rows: Rows, labels: jax.Array) -> dict[str, jax.Array]:
    """u_squared [n], and v_squared [n], the largest of each row's squares."""
    check_one_row_each(rows, labels)
    return {
        "u_squared": rows["u"][:, 0] ** 2,
        "v_squared": jnp.max(rows["v"] ** 2, axis=-1),
    }


def published_learning_rates(
    num_classes: int, asymmetric: bool, variant: str
) -> tuple[float, float]:
    """(lr_u, lr_v) at B = 128 of the paper's table A.1; 'official': those of the code's README."""
    if num_classes < 100:
        return (10.0, 100.0) if asymmetric else (10.0, 10.0)
    if asymmetric:
        return (0.1, 100.0) if variant == "official" else (1.0, 100.0)
    return 1.0, 10.0


def rate_of_length(epochs: int, init_std: float) -> float:
    """The rate, at a batch of 128, with which v reaches 1 after SATURATION of a run's epochs.

    An entry of v whose class the network predicts against the label has the gradient -4v while it
    is small, (1 - v*v)^2 differentiated, so that an epoch multiplies it by 1 + 4*rate/128. From
    init_std it is at 1 after -ln(init_std) / ln(1 + rate/32) epochs; set to SATURATION * epochs and
    solved for the rate that is 32 * (exp(-ln(init_std) / (SATURATION * epochs)) - 1): 20 at 60
    epochs from 1e-8, and below the published 10 from 108 on.

    Args:
      epochs: of the run, at least 1.
      init_std: where u and v start.

    Returns:
      At most LARGEST_RATE, which shorter runs get (60 epochs and less from 1e-8), to four digits;
      PUBLISHED_RATE for one epoch, in which nothing grows and which stands for an unknown length.
    """
    if epochs == 1:
        return PUBLISHED_RATE
    way = -math.log(init_std) if init_std > 0 else math.inf
    growth = min(way / (SATURATION * epochs), math.log1p(LARGEST_RATE / 32))
    return float(f"{32 * math.expm1(growth):.4g}")


def default_learning_rates(problem: Problem, variant: str, init_std: float) -> tuple[float, float]:
    """(lr_u, lr_v) at B = 128: the published ones, raised where the run is short.

    v's is at least `rate_of_length`; u's is raised in the ratio of that to PUBLISHED_RATE, so that
    the published ratio of both, which depends on the classes, is kept.
    """
    rate_u, rate_v = published_learning_rates(problem.num_classes, problem.asymmetric, variant)
    rate = max(PUBLISHED_RATE, rate_of_length(problem.epochs, init_std))
    return rate_u * rate / PUBLISHED_RATE, max(rate_v, rate)


def make(
    problem: Problem,
    *,
    variant: Literal["paper", "official"] = "paper",
    learning_rate_u: Annotated[float | None, SIZE] = None,
    learning_rate_v: Annotated[float | None, SIZE] = None,
    mse_weight: Annotated[float, SIZE] = 1.0,
    init_std: Annotated[float, SIZE] = 1e-8,
    v_dtype: Literal["float32", "bfloat16"] = "float32",
) -> Method:
    """SOP on the weak view.

    Args:
      variant: Algorithm 1 with projection, or the published code
      learning_rate_u: of u, at a batch of 128; unset: as published, more on few epochs
      learning_rate_v: of v, at a batch of 128; unset: as published, more on few epochs
      mse_weight: weight of the squared-error term
      init_std: standard deviation of the initial u and v
      v_dtype: how v is stored; bfloat16 takes half the memory
    """

    def defaults(problem: Problem) -> dict[str, Any]:
        rates = default_learning_rates(problem, variant, init_std)
        return {"learning_rate_u": rates[0], "learning_rate_v": rates[1]}

    unset = defaults(problem)
    rates = {
        "u": unset["learning_rate_u"] if learning_rate_u is None else learning_rate_u,
        "v": unset["learning_rate_v"] if learning_rate_v is None else learning_rate_v,
    }

    def loss(forward, batch, rows, shared, clock, key):
        logits = forward(0, batch.image[:, 0])
        targets = jax.nn.one_hot(batch.label, problem.num_classes)
        value = sop_loss(
            logits,
            targets,
            rows["u"],
            rows["v"],
            variant=variant,
            mse_weight=mse_weight,
            weights=batch.weight,
        )
        return value, LossOut(logits)

    return Method(
        loss=loss,
        init_rows=lambda key, labels: init_rows(
            key, labels.shape[0], problem.num_classes, init_std, v_dtype
        ),
        row_learning_rates=rates,
        update_rows=lambda rows, out: project(rows) if variant == "paper" else rows,
        noise_estimate=noise_estimate,
        diagnostics=diagnostics,
        defaults=defaults,
    )
