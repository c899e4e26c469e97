"""Networks in Flax Linen; `find` is the only door, and only this folder imports Flax."""

from sop_jax.models import api as api
from sop_jax.models.api import find as find
from sop_jax.models.api import from_config as from_config
from sop_jax.models.network import Sample as Sample
