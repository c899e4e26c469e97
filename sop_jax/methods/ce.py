"""Cross-entropy: the non-robust baseline, and the template for a new method."""

import jax.numpy as jnp
import optax

from sop_jax.methods.base import LossOut, Method


def make(*, num_classes: int) -> Method:
    """Plain cross-entropy on the weak view (methods.md, 1.1)."""
    del num_classes

    def loss(forward, batch, rows, shared, key):
        logits, model_state = forward(0, batch.image[:, 0])
        each = optax.softmax_cross_entropy_with_integer_labels(logits, batch.label)
        return jnp.sum(batch.weight * each) / batch.label.shape[0], LossOut(logits, (model_state,))

    return Method(loss=loss)
