"""Train image classifiers on wrong labels and name the wrong ones (SOP, SOP+: Liu et al. 2022).

`SOPClassifier` is the estimator; the parts of an own training loop are in the modules `methods`,
`table`, `optimizer` and `models`; `python -m sop_jax.main --help` is the command line.
"""

from typing import TYPE_CHECKING, Any

from sop_jax.errors import UserError

if TYPE_CHECKING:
    from sop_jax.estimator import SOPClassifier

__version__ = "0.1.0"
__all__ = ["SOPClassifier", "UserError", "__version__"]


def __getattr__(name: str) -> Any:
    """Loads `SOPClassifier` on first use: importing one module must not load them all."""
    if name == "SOPClassifier":
        from sop_jax.estimator import SOPClassifier

        return SOPClassifier
    raise AttributeError(f"module 'sop_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, whether loaded yet or not."""
    return sorted(__all__)
