#!/usr/bin/env bash
# Installs rmjax with CUDA wheels into a virtual environment and runs a job on this machine's GPUs.
#   launch/gpu.sh gfriend --model.path DIR --data.path pairs.jsonl --model.dtype bfloat16
set -euo pipefail
cd "$(dirname "$0")/.."
[ -d .venv ] || python3 -m venv .venv
# shellcheck disable=SC1091
. .venv/bin/activate
pip install -q -e '.[cuda]'
exec python -m rmjax.launch "$@"
