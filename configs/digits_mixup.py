"""mixup on scikit-learn's embedded digits, 40 % of whose labels are wrong.

python -m sop_jax.main --config=configs/digits_mixup.py --workdir=runs/digits_mixup

Source: ours; same network, augmentation, epochs, rate and schedule as digits_sop;
  alpha as in the paper.
Measured: not measured yet.
"""

from sop_jax.config import default


def get_config():
    config = default()
    config.epochs = 60
    config.noise.kind = "symmetric_exclusive"
    config.noise.rate = 0.4
    config.method.name = "mixup"
    config.method.alpha = 1.0
    return config
