"""SOP+ on CIFAR-10, the paper's recipe.

python -m sop_jax.main --config=configs/cifar10_sop_plus.py --workdir=runs/cifar10_sop_plus
    --config.data.dir=DIR

Source: paper Table 2 and table A.1, CIFAR-10 symmetric 50 %: 95.5, PreAct ResNet-18, 50,000 images.
Measured: not measured yet (no GPU was at hand).
"""

from sop_jax.config import default


def get_config():
    config = default()
    config.epochs = 300
    config.data.name = "cifar10"
    config.noise.kind = "symmetric"  # inclusive, as published; asymmetric picks its own row rates
    config.noise.rate = 0.5
    config.model.name = "preact_resnet18"
    config.method.name = "sop_plus"
    config.optimizer.schedule = "cosine"
    return config
