"""Cross-entropy on CIFAR-100N (human labels), the paper's recipe.

python -m sop_jax.main --config=configs/cifar100n_ce.py --workdir=runs/cifar100n_ce
    --config.data.dir=DIR

Source: paper Table 4, CIFAR-100N: 55.50 +- .66.
Measured: not measured yet (no GPU was at hand).
"""

from sop_jax.config import default


def get_config():
    config = default()
    config.epochs = 150
    config.data.name = "cifar100_n"
    config.data.validation_fraction = 0.1  # the paper trains SOP on 45,000 images
    config.noise.kind = "human"
    config.noise.labels = "noisy"
    config.model.name = "resnet34"
    config.method.name = "ce"
    config.optimizer.schedule = "step"
    config.optimizer.drop_epochs = (80, 120)
    return config
