"""Low-rank matrices, 10 % of their entries corrupted, recovered without knowing rank or sparsity.

python -m sop_jax.main --config=configs/theory/matrix_recovery.py --workdir=runs/matrix_recovery

Source: You, Zhu, Qu, Ma, "Robust recovery via implicit bias of discrepant learning rates for double
over-parameterization", NeurIPS 2020, section 2.
Measured: 10 matrices, relative error at most 1.8e-2, 2.7e-3 and 9.4e-4 (median 5.7e-3, 8.1e-4,
3.8e-4) from gamma = 1e-3, 1e-6 and 1e-9; from 1e-6 it fell in every one of the 60,000 iterations.
One minute on a CPU.
"""

from sop_jax.tasks.image_recovery import default


def get_config():
    config = default()
    config.problem = "matrix"
    return config
