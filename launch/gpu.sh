#!/usr/bin/env bash
# Installs rmjax with CUDA wheels into a virtual environment and runs a job on this machine's GPUs.
#
#   launch/gpu.sh [options] NAME [--field value ...]
#
#   --venv DIR      the environment, made if it is not there [.venv]
#   --cuda 12|13    the wheels' CUDA: 13 needs driver 580 or newer (nvidia-smi shows it) [13]
#   --secrets FILE  lines NAME=VALUE (HF_TOKEN=...), mode 600; never on a command line
#   --dry-run       prints the commands, calls nothing
#
# All GPUs of the machine share the job in one process; CUDA_VISIBLE_DEVICES chooses fewer. Many machines: slurm.sh.
#
# Example:
#   launch/gpu.sh gfriend --model.path DIR --data.path pairs.jsonl --model.dtype bfloat16 --workdir runs/mine
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$here/common.sh"
root=${here%/launch}

venv=$root/.venv cuda=13 secrets=''
while [ $# -gt 0 ]; do
  if takes_value "--venv --cuda --secrets" "$@"; then
    option=${1%%=*}
    printf -v "${option#--}" %s "$argument"
    shift "$taken"
    continue
  fi
  case $1 in
    --dry-run) dry_run=1 ;;
    -h | --help) usage "${BASH_SOURCE[0]}" && exit ;;
    -*) fail "$(quote "$1"): no such option before the job's name: see --help" ;;
    *) break ;;
  esac
  shift
done
[ $# -gt 0 ] || fail "no job: launch/gpu.sh NAME --field value; python -m rmjax.launch --help lists the names"
check --cuda "$cuda" '12|13' "12 or 13"
refuse_secrets "$@"
[ -z "$secrets" ] || check_secrets "$secrets"
need nvidia-smi "there is no NVIDIA driver here; without a GPU: python -m rmjax.launch $(quote "$@")"
need python3 "rmjax needs Python 3.11 or newer"

python=$venv/bin/python
if [ ! -x "$python" ]; then
  [ -n "$dry_run" ] || python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "python3 is $(python3 --version): put Python 3.11 or newer first on PATH, or give --venv"
  act python3 -m venv "$venv"
fi
if [ "$cuda" = 13 ]; then
  act "$python" -m pip install -q -e "${root}[cuda]"
else
  act "$python" -m pip install -q -e "$root" 'jax[cuda12]'
fi
# JAX would go on without a word on the CPU.
act env JAX_PLATFORMS=cuda "$python" -c 'import jax; jax.devices()' ||
  fail "JAX finds no GPU: is the driver new enough for CUDA $cuda? nvidia-smi shows it; --cuda 12 needs an older one"
[ -z "$secrets" ] || [ -n "$dry_run" ] || load_secrets "$secrets"
[ -n "$dry_run" ] || exec "$python" -m rmjax.launch "$@"
act "$python" -m rmjax.launch "$@"
