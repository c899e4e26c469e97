"""Data: where examples and their labels come from. `load(config)` is the way in."""

from sop_jax.data.dataset import Dataset, Split, load

__all__ = ["Dataset", "Split", "load"]
