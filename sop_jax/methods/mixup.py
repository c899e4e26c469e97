"""mixup: training on convex mixtures of two examples and of their labels.

Zhang, Cisse, Dauphin, Lopez-Paz, ICLR 2018, arXiv 1710.09412: x' = c x_i + (1 - c) x_j with label
c y_i + (1 - c) y_j, where c ~ Beta(alpha, alpha). One c is drawn for a batch and its examples are
mixed with the same batch in another order, as in the published code.
"""

from typing import Annotated

import jax
import jax.numpy as jnp
import optax

from sop_jax.fields import Bounds
from sop_jax.methods.base import Batch, LossOut, Method, Problem, batch_mean


def partners(batch: Batch, key: jax.Array) -> jax.Array:
    """With whom each entry is mixed: int32 [B], a uniform permutation of the batch's real examples.

    An example's draws follow from its row, so the permutation does not depend on the order of the
    batch. A padded entry is mixed with a padded one.
    """
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, batch.index)
    draws = jax.vmap(lambda own: jax.random.uniform(own, (2,)))(keys)
    draws = jnp.where(batch.weight[:, None] > 0, draws, 1.0)  # real draws are below 1
    places, order = jnp.argsort(draws[:, 0]), jnp.argsort(draws[:, 1])
    return jnp.zeros_like(order).at[places].set(order)


def mixed_loss(
    logits: jax.Array, labels: jax.Array, others: jax.Array, share: jax.Array
) -> jax.Array:
    """share * CE(z, y) + (1 - share) * CE(z, y') of each example [B].

    Args:
      logits: z [B, K] of the mixed images. labels, others: y and y', int [B].
      share: scalar in [0, 1], the part of the first image.
    """
    own = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    other = optax.softmax_cross_entropy_with_integer_labels(logits, others)
    return share * own + (1 - share) * other


def make(problem: Problem, *, alpha: Annotated[float, Bounds(1e-3, 1e6)] = 1.0) -> Method:
    """mixup of weak views; the paper's CIFAR experiments have alpha = 1, a uniform share.

    Args:
      alpha: of Beta(alpha, alpha); towards 0 nearly plain examples, large: halves
    """
    del problem

    def loss(forward, batch, rows, shared, clock, key):
        key_share, key_partner = jax.random.split(key)
        share = jax.random.beta(key_share, alpha, alpha)
        partner, image = partners(batch, key_partner), batch.image[:, 0]
        logits = forward(0, share * image + (1 - share) * image[partner])
        each = mixed_loss(logits, batch.label, batch.label[partner], share)
        return batch_mean(each, batch.weight), LossOut()

    return Method(loss=loss, plain_view=False)
