"""SOP+ on CIFAR-100N (human labels), the paper's recipe.

python -m sop_jax.main --config=configs/cifar100n_sop_plus.py --workdir=runs/cifar100n_sop_plus
    --config.data.dir=DIR

Source: paper Table 4, CIFAR-100N: 67.81 +- .23.
Measured: not measured yet (no GPU was at hand).
"""

from sop_jax.config import default


def get_config():
    config = default()
    config.epochs = 300
    config.data.name = "cifar100_n"
    config.noise.kind = "human"
    config.noise.labels = "noisy"
    config.model.name = "preact_resnet18"
    config.method.name = "sop_plus"
    config.optimizer.schedule = "cosine"
    return config
