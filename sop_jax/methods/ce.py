"""Cross-entropy: the non-robust baseline, and the template for a new method."""

import optax

from sop_jax.methods.base import Method, of_example_loss


def make(*, num_classes: int) -> Method:
    """Plain cross-entropy on the weak view (methods.md, 1.1)."""
    del num_classes
    return of_example_loss(optax.softmax_cross_entropy_with_integer_labels)
