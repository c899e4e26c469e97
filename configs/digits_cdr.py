"""CDR on scikit-learn's embedded digits, 40 % of whose labels are wrong.

python -m sop_jax.main --config=configs/digits_cdr.py --workdir=runs/digits_cdr

Source: ours; same network, augmentation, epochs, rate and schedule as digits_sop.
Measured: not measured yet.
"""

from sop_jax.config import default


def get_config():
    config = default()
    config.epochs = 60
    config.noise.kind = "symmetric_exclusive"
    config.noise.rate = 0.4
    config.method.name = "cdr"
    config.method.noise_rate = 0.4  # known here
    return config
