"""SOP paper, figure 4: how often the convex program recovers theta and s, at lambda = 0.1.

python -m sop_jax.main --config=configs/theory/linear_figure4.py --workdir=runs/linear_figure4

Source: Liu et al. 2022, section 3.3.
Measured: the frontier of the reference table (benchmarks/results/linear_figure4.json) to within 3
of 20, and its 20 and 0 from two cells away on. 11 seconds, 2 CPU cores.
"""

from sop_jax.tasks.linear_recovery import default


def get_config():
    config = default()
    config.figure = "figure4"
    config.num_rows = 100
    config.num_parameters = 150
    config.trials = 20
    return config
