"""The two-manifold problem: kernel, certificates and training of ReLU networks on two curves.

python -m sop_jax.main --config=configs/theory/two_curves.py --workdir=runs/two_curves

Source: lecture 4 of the ICASSP 2022 short course (Buchanan & Zhu); Wang, Buchanan, Gilboa, Wright
2021.
Measured: every entry of the reference tables of kernel and certificates (within half a last digit;
benchmarks/results/two_curves.json). Accuracy on the whole winding curves (m = 4, d = .3; width 512,
50 samples a curve, mean of 5 seeds) after 60, 200 and 600 steps: depth 1 .54 .52 .52, depth 2 .67
.80 .90, depth 5 .74 .92 .97, depth 10 .82 .93 .96, where the samples limit it: 200 a curve give
depth 10 .99 after 200 steps (3 seeds).
"""

from sop_jax.tasks.two_curves import default


def get_config():
    return default()
