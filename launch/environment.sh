#!/usr/bin/env bash
# Prints the Python of a virtual environment that has sop_jax, for gpu.sh and tpu_vm.sh.
#
#   launch/environment.sh gpu|tpu
#
# The first call makes the environment and installs into it, as does one after a change of
# pyproject.toml. Variables:
#   SOP_JAX_VENV   its folder (default: .venv/gpu or .venv/tpu in the repository)
#   PYTHON         the Python to make it with, 3.11 or newer (default: the first of those below)
set -euo pipefail

extra=${1:?usage: launch/environment.sh gpu|tpu}
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${SOP_JAX_VENV:-$repository/.venv/$extra}
installed=$venv/.sop_jax_$extra

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

if [[ ! $installed -nt $repository/pyproject.toml ]]; then
  if [[ ! -x $venv/bin/python ]]; then
    for python in ${PYTHON:-python3.12 python3.11 python3.13 python3}; do
      new_enough "$python" && break
      python=
    done
    if [[ -z $python ]]; then
      echo "error: no Python 3.11 or newer; install one (apt install python3.11-venv)" \
        "or name it: PYTHON=..." >&2
      exit 2
    fi
    "$python" -m venv "$venv" >&2
  fi
  "$venv/bin/python" -m pip install --quiet --editable "$repository[$extra]" >&2
  touch "$installed"
fi
echo "$venv/bin/python"
