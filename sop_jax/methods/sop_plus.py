"""SOP+: SOP with a second, strongly augmented view and class balance (Liu et al. 2022, section
4.1).
"""

import dataclasses

import jax

from sop_jax.methods import sop
from sop_jax.methods.base import LossOut, Method


def make(
    *,
    num_classes: int,
    variant: str = "paper",
    learning_rate_u: float = 10.0,
    learning_rate_v: float = 10.0,
    mse_weight: float = 1.0,
    consistency_weight: float = 0.9,
    balance_weight: float = 0.1,
    init_std: float = 1e-8,
    v_dtype: str = "float32",
) -> Method:
    """SOP+ as a `Method`: both views go through the network in one pass, so batch-norm sees
    both.
    """
    plain = sop.make(
        num_classes=num_classes,
        variant=variant,
        learning_rate_u=learning_rate_u,
        learning_rate_v=learning_rate_v,
        init_std=init_std,
        v_dtype=v_dtype,
    )

    def loss(forward, batch, rows, shared, key):
        size, views, *shape = batch.image.shape
        # The views stay interleaved [B*V], so each device holds both views of its own examples.
        logits, model_state = forward(0, batch.image.reshape(size * views, *shape))
        weak, strong = logits.reshape(size, views, -1).swapaxes(0, 1)
        value = sop.sop_plus_loss(
            weak,
            strong,
            jax.nn.one_hot(batch.label, num_classes),
            rows["u"],
            rows["v"],
            consistency_weight=consistency_weight,
            balance_weight=balance_weight,
            variant=variant,
            mse_weight=mse_weight,
            weights=batch.weight,
        )
        return value, LossOut(weak, (model_state,))

    return dataclasses.replace(plain, loss=loss, num_views=2)
