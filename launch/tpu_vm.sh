#!/usr/bin/env bash
# Trains on a TPU VM or all workers of a TPU pod, installing sop_jax first where that is not done.
#
#   launch/tpu_vm.sh --config=configs/digits_sop.py --workdir=runs/digits_sop \
#     [--config.field=value ...]
#
# A pod: the repository lies in the same place on every worker, --workdir on a disk that all of
# them mount, and
#
#   gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=all \
#     --command='sop_jax/launch/tpu_vm.sh --config=sop_jax/configs/digits_sop.py \
#       --workdir=/mnt/shared/digits_sop'
#
# Workers that start more than 45 s apart (the first installation can do that) end with a line that
# says so; the same command again starts them together. config.batch_size is the batch over all
# chips and must be a multiple of their number.
set -euo pipefail

python=$("$(dirname "${BASH_SOURCE[0]}")/environment.sh" tpu)

# The machine's metadata lists a pod's workers, separated by commas; JAX finds addresses and its own
# place in the list.
metadata=http://metadata.google.internal/computeMetadata/v1/instance/attributes
metadata+=/worker-network-endpoints
flavor='Metadata-Flavor: Google'
endpoints=$(curl --silent --fail --max-time 10 --header "$flavor" "$metadata" || true)
commas=${endpoints//[^,]/}
workers=$((${#commas} + 1))
if ((workers > 1)); then
  set -- "$@" "--config.distributed.num_processes=$workers"
fi
exec "$python" -m sop_jax.main "$@"
