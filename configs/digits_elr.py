"""ELR on scikit-learn's embedded digits, 40 % of whose labels are wrong.

python -m sop_jax.main --config=configs/digits_elr.py --workdir=runs/digits_elr

Source: ours; same network, augmentation, epochs, rate and schedule as digits_sop;
  targets as published for CIFAR-10.
Measured: not measured yet.
"""

from sop_jax.config import default


def get_config():
    config = default()
    config.epochs = 60
    config.noise.kind = "symmetric_exclusive"
    config.noise.rate = 0.4
    config.method.name = "elr"
    config.method.momentum = 0.7
    config.method.weight = 3.0
    return config
