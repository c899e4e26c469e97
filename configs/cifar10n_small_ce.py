"""Cross-entropy on 10,000 CIFAR-10N images with the worst human labels, averaged down to 16x16, a 32-channel small ResNet."""

from sop_jax.config import default


def get_config():
    config = default()
    config.epochs = 60
    config.batch_size = 128
    config.eval_every = 5
    config.data.name = "cifar10_n"
    config.data.train_limit = 10_000
    config.data.downsample = 2
    config.noise.kind = "human"
    config.noise.labels = "worst"
    config.augment.crop_padding = 2
    config.model.width = 32
    config.method.name = "ce"
    config.optimizer.learning_rate = 0.05
    return config
