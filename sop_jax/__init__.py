"""sop_jax: train image classifiers on wrong labels, and name the wrong ones (SOP / SOP+, Liu et
al., ICML 2022).
"""

__version__ = "0.1.0"


def __getattr__(name: str):
    """Loads `SOPClassifier` on first use, so that importing one module of the package does not load
    them all.
    """
    if name == "SOPClassifier":
        from sop_jax.estimator import SOPClassifier

        return SOPClassifier
    raise AttributeError(f"module 'sop_jax' has no attribute {name!r}")
