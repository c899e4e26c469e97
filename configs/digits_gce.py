"""GCE on scikit-learn's embedded digits, 40 % of whose labels are wrong.

python -m sop_jax.main --config=configs/digits_gce.py --workdir=runs/digits_gce

Source: ours; same network, augmentation, epochs, rate and schedule as digits_sop;
  q as in the paper.
Measured: not measured yet.
"""

from sop_jax.config import default


def get_config():
    config = default()
    config.epochs = 60
    config.noise.kind = "symmetric_exclusive"
    config.noise.rate = 0.4
    config.method.name = "gce"
    config.method.q = 0.7
    return config
