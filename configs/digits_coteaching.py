"""Co-teaching on scikit-learn's embedded digits, 40 % of whose labels are wrong.

python -m sop_jax.main --config=configs/digits_coteaching.py --workdir=runs/digits_coteaching

Source: ours; same network, augmentation, epochs, rate and schedule as digits_sop.
Measured: not measured yet.
"""

from sop_jax.config import default


def get_config():
    config = default()
    config.epochs = 60
    config.noise.kind = "symmetric_exclusive"
    config.noise.rate = 0.4
    config.method.name = "coteaching"
    config.method.forget_rate = 0.4  # the noise rate, known here
    config.method.gradual_epochs = 10
    return config
