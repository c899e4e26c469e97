"""Two photographs, half of their entries corrupted, by a deep image prior without early stopping.

python -m sop_jax.main --config=configs/theory/image_recovery.py --workdir=runs/image_recovery

Source: You, Zhu, Qu, Ma, "Robust recovery via implicit bias of discrepant learning rates for double
over-parameterization", NeurIPS 2020; settings of its released code, reduced for a CPU: 64x64
pixels, width 32, 4 scales, and g and h 24 times as fast (1.06-fold an iteration at residual 1), so
that they settle in 3,000 iterations.

The settings of the released code, for a GPU: --config.size=416 --config.width=128 --config.scales=5
--config.alpha=500 --config.iterations=150000 --config.iterations_per_part=30000 (416, as the
photographs are 427 pixels high). Not run.

Measured: PSNR of the last iteration (best): china 7.44 dB corrupted, 23.09 (23.27) recovered, plain
prior 7.74 (22.02) with l1 and 7.75 (15.02) with MSE; flower 7.45, 24.65 (24.94), 8.11 (23.19), 7.72
(14.81). One seed, 7 minutes on 2 CPU cores, shared at times with tests.
"""

from sop_jax.tasks.image_recovery import default


def get_config():
    config = default()
    config.image = "china,flower"
    return config
