"""SOP+: SOP with a second, strong view and class balance (Liu et al. 2022, section 4.1)."""

import dataclasses

import jax

from sop_jax.methods import sop
from sop_jax.methods.base import LossOut, Method, Problem, check_range


def make(
    problem: Problem,
    *,
    variant: str = "paper",
    learning_rate_u: float | None = None,
    learning_rate_v: float | None = None,
    mse_weight: float = 1.0,
    consistency_weight: float = 0.9,
    balance_weight: float = 0.1,
    init_std: float = 1e-8,
    v_dtype: str = "float32",
) -> Method:
    """SOP+: both views go through the network in one pass, so batch-norm sees both.

    Args:
      variant: 'paper' (Algorithm 1, projection) or 'official' (published code)
      learning_rate_u: of u, at a batch of 128; unset: published for the data and noise
      learning_rate_v: of v, at a batch of 128; unset: published for the data and noise
      mse_weight: weight of the squared-error term
      consistency_weight: lambda_C, of the distance between the predictions of both views
      balance_weight: lambda_B, of the distance of the mean prediction from the uniform one
      init_std: standard deviation of the initial u and v
      v_dtype: how v is stored: float32, or bfloat16 for half the memory
    """
    check_range("consistency_weight", consistency_weight, 0)
    check_range("balance_weight", balance_weight, 0)
    plain = sop.make(
        problem,
        variant=variant,
        learning_rate_u=learning_rate_u,
        learning_rate_v=learning_rate_v,
        mse_weight=mse_weight,
        init_std=init_std,
        v_dtype=v_dtype,
    )

    def loss(forward, batch, rows, shared, clock, key):
        size, views, *shape = batch.image.shape
        # The views stay interleaved [B*V], so each device holds both views of its own examples.
        logits = forward(0, batch.image.reshape(size * views, *shape))
        weak, strong = logits.reshape(size, views, -1).swapaxes(0, 1)
        value = sop.sop_plus_loss(
            weak,
            strong,
            jax.nn.one_hot(batch.label, problem.num_classes),
            rows["u"],
            rows["v"],
            consistency_weight=consistency_weight,
            balance_weight=balance_weight,
            variant=variant,
            mse_weight=mse_weight,
            weights=batch.weight,
        )
        return value, LossOut(weak)

    return dataclasses.replace(plain, loss=loss, views=("weak", "strong"))
