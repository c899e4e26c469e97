"""Two photographs with half of their entries corrupted, recovered by a deep image prior without early stopping.

python -m sop_jax.main --config=configs/theory/image_recovery.py --workdir=runs/image_recovery

Source: You, Zhu, Qu, Ma, "Robust recovery via implicit bias of discrepant learning rates for double
over-parameterization", NeurIPS 2020; settings of its released code, reduced for a CPU.
Measured: pending.
"""

from sop_jax.tasks.image_recovery import default


def get_config():
    config = default()
    config.image = "china,flower"
    return config
