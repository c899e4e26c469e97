"""SOP on CIFAR-100, the paper's recipe.

python -m sop_jax.main --config=configs/cifar100_sop.py --workdir=runs/cifar100_sop
    --config.data.dir=DIR

Source: paper Table 1 and table A.1, CIFAR-100 symmetric 40 %: 70.12 +- .57; drops at 80, 120 as its
  text says.
Measured: not measured yet (no GPU was at hand).
"""

from sop_jax.config import default


def get_config():
    config = default()
    config.epochs = 150
    config.data.name = "cifar100"
    config.data.validation_fraction = 0.1  # the paper trains SOP on 45,000 images
    config.noise.kind = "symmetric"  # inclusive, as published; asymmetric picks its own row rates
    config.noise.rate = 0.4
    config.model.name = "resnet34"
    config.method.name = "sop"
    config.optimizer.schedule = "step"
    config.optimizer.drop_epochs = (80, 120)
    return config
