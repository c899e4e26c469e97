"""Cross-entropy: the non-robust baseline, and the template for a method without state."""

import optax

from sop_jax.methods.base import Method, Problem, of_example_loss


def make(problem: Problem) -> Method:
    """Plain cross-entropy -log p_y on the weak view."""
    del problem
    return of_example_loss(optax.softmax_cross_entropy_with_integer_labels)
