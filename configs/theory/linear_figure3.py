"""SOP paper, figure 3: the convex program's recovery error over lambda, by sparsity and rank.

python -m sop_jax.main --config=configs/theory/linear_figure3.py --workdir=runs/linear_figure3

Source: Liu et al. 2022, section 3.3.
Measured: r = 20: exact for k = 10, 20 from lambda = .010, .013 on (lambda_0 = .012, .013); k = 20:
exact for r = 10, 40 from .013, .075 on. 10 seconds, 2 CPU cores.
"""

from sop_jax.tasks.linear_recovery import default


def get_config():
    config = default()
    config.figure = "figure3"
    config.num_rows = 100
    config.num_parameters = 150
    config.rank = 20
    config.sparsity = 20
    config.ranks = (10, 20, 40, 60, 80)
    config.sparsities = (10, 20, 40, 60, 80)
    config.trials = 10
    return config
