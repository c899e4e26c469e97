"""Networks in Flax Linen; `api.find` is the only door, and only this folder imports Flax."""

from sop_jax.models import api as api
from sop_jax.models.fast import whitening_filters as whitening_filters
