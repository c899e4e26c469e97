"""SOP paper, figure 2: gradient descent with discrepant learning rates against the convex program; Proposition 3.2.

python -m sop_jax.main --config=configs/theory/linear_figure2.py --workdir=runs/linear_figure2

Source: Liu et al. 2022, section 3.2.
Measured: TO COME
"""

from sop_jax.tasks.linear_recovery import default


def get_config():
    config = default()
    config.figure = "figure2"
    return config
