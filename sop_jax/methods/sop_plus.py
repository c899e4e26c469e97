"""SOP+: SOP with a second, strong view and class balance (Liu et al. 2022, section 4.1)."""

import dataclasses
from typing import Annotated, Literal

import jax

from sop_jax.fields import SIZE
from sop_jax.methods import sop
from sop_jax.methods.base import LossOut, Method, Problem


def make(
    problem: Problem,
    *,
    variant: Literal["paper", "official"] = "paper",
    learning_rate_u: Annotated[float | None, SIZE] = None,
    learning_rate_v: Annotated[float | None, SIZE] = None,
    mse_weight: Annotated[float, SIZE] = 1.0,
    consistency_weight: Annotated[float, SIZE] = 0.9,
    balance_weight: Annotated[float, SIZE] = 0.1,
    init_std: Annotated[float, SIZE] = 1e-8,
    v_dtype: Literal["float32", "bfloat16"] = "float32",
) -> Method:
    """SOP+: both views go through the network in one pass, so batch-norm sees both.

    Args:
      variant: Algorithm 1 with projection, or the published code
      learning_rate_u: of u, at a batch of 128; unset: as published, more on few epochs
      learning_rate_v: of v, at a batch of 128; unset: as published, more on few epochs
      mse_weight: weight of the squared-error term
      consistency_weight: lambda_C, of the distance between the predictions of both views
      balance_weight: lambda_B, of the distance of the mean prediction from the uniform one
      init_std: standard deviation of the initial u and v
      v_dtype: how v is stored; bfloat16 takes half the memory
    """
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
