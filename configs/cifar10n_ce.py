"""Cross-entropy on CIFAR-10N (human labels), the paper's recipe.

python -m sop_jax.main --config=configs/cifar10n_ce.py --workdir=runs/cifar10n_ce
    --config.data.dir=DIR

Source: paper Table 4, CIFAR-10N worst: 77.69 +- 1.55.
Measured: not measured yet (no GPU was at hand).
"""

from sop_jax.config import default


def get_config():
    config = default()
    config.epochs = 120
    config.data.name = "cifar10_n"
    config.data.validation_fraction = 0.1  # the paper trains SOP on 45,000 images
    config.noise.kind = "human"
    config.noise.labels = "worst"  # aggregate, random1, random2, random3
    config.model.name = "resnet34"
    config.method.name = "ce"
    config.optimizer.schedule = "step"
    config.optimizer.drop_epochs = (40, 80)
    return config
