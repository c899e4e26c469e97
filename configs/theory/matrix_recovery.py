"""Low-rank matrices with 10 % of their entries corrupted, recovered without knowing rank or sparsity.

python -m sop_jax.main --config=configs/theory/matrix_recovery.py --workdir=runs/matrix_recovery

Source: You, Zhu, Qu, Ma, "Robust recovery via implicit bias of discrepant learning rates for double
over-parameterization", NeurIPS 2020, section 2.
Measured: pending.
"""

from sop_jax.tasks.image_recovery import default


def get_config():
    config = default()
    config.problem = "matrix"
    return config
