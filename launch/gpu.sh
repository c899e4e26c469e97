#!/usr/bin/env bash
# Trains on the GPUs of one machine, installing sop_jax first where that has not been done.
#
#   launch/gpu.sh --config=configs/digits_sop.py --workdir=runs/digits_sop \
#     [--config.field=value ...]
#
# One process drives all visible GPUs: the batch is split over them, so config.batch_size must be a
# multiple of their number. CUDA_VISIBLE_DEVICES=0,1 chooses some. The same command goes on with a
# run that was stopped.
# Needs an NVIDIA driver; CUDA comes with the installation. Where that goes: see environment.sh.
set -euo pipefail

python=$("$(dirname "${BASH_SOURCE[0]}")/environment.sh" gpu)
exec "$python" -m sop_jax.main "$@"
