"""The two-manifold problem: kernel, certificates, concentration and training of deep ReLU networks on two curves.

python -m sop_jax.main --config=configs/theory/two_curves.py --workdir=runs/two_curves

Source: lecture 4 of the ICASSP 2022 short course (Buchanan & Zhu); Wang, Buchanan, Gilboa, Wright 2021.
Measured: TODO
"""

from sop_jax.tasks.two_curves import default


def get_config():
    return default()
