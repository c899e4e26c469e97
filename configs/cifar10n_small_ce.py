"""Cross-entropy on 10,000 CIFAR-10N images, worst labels, 16x16, a small ResNet (for a CPU).

python -m sop_jax.main --config=configs/cifar10n_small_ce.py --workdir=runs/cifar10n_small_ce
    --config.data.dir=DIR

Source: ours; same network, augmentation, epochs and schedule as cifar10n_small_sop.
Measured: 50.0 % last epoch, 53.5 % best (diagnostic), issue AUROC .868; one seed, 2 CPU cores
  (benchmarks/results).
"""

from sop_jax.config import default


def get_config():
    config = default()
    config.epochs = 60
    config.eval_every = 5
    config.data.name = "cifar10_n"
    config.data.train_limit = 10_000
    config.data.downsample = 2  # 16x16
    config.noise.kind = "human"
    config.noise.labels = "worst"
    config.augment.flip = False  # as measured
    config.model.width = 32
    config.model.activation = "relu"
    config.method.name = "ce"
    config.optimizer.learning_rate = 0.05
    return config
