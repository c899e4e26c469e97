"""SOP on scikit-learn's embedded digits with 40 % symmetric noise."""

from sop_jax.config import default


def get_config():
    config = default()
    config.epochs = 60
    config.batch_size = 64
    config.noise.kind = "symmetric_exclusive"
    config.noise.rate = 0.4
    config.augment.crop_padding = 1
    config.augment.flip = False
    config.method.name = "sop"
    config.method.learning_rate_u = 20.0
    config.method.learning_rate_v = 20.0
    return config
