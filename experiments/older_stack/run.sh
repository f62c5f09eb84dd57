#!/usr/bin/env bash
# The lower floors on the stack that a GPU box may have: ./run.sh [DIRECTORY OF THE VENV]
set -euo pipefail
root="$(cd "$(dirname "$0")/../.." && pwd)"
venv="${1:-${TMPDIR:-/tmp}/autoprune-older-stack}"
test -x "$venv/bin/python" || {
    python3 -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet "torch==2.11.*" "torchvision==0.26.*" \
        "transformers==5.17.0" "peft==0.21.2" accelerate safetensors scikit-learn scipy pillow \
        numpy pydantic pyyaml psutil datasets pytest pytest-xdist hypothesis
}
export PYTHONPATH="$root" HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
cd "$root"
"$venv/bin/python" -m pytest -q -n 2 tests/models tests/pruning tests/cost tests/data \
    tests/recovery tests/zoo
