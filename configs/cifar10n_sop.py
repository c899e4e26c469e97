"""SOP on CIFAR-10N (human labels), the paper's recipe.

python -m sop_jax.main --config=configs/cifar10n_sop.py --workdir=runs/cifar10n_sop
    --config.data.dir=DIR

Source: settings of CIFAR-10 SOP; the paper gives SOP+ only (Table 4).
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
    config.method.name = "sop"
    config.optimizer.schedule = "step"
    config.optimizer.drop_epochs = (40, 80)
    return config
