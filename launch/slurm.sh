#!/usr/bin/env bash
# A job on a Slurm cluster: one process on each node, or with --per-gpu on each GPU. After a preemption, or shortly
# before its time is over, it saves, goes back to the queue and continues.
#
#   launch/slurm.sh submit [options] COMMAND...      sbatch
#   launch/slurm.sh status|logs|cancel JOB
#   sbatch [sbatch's options] launch/slurm.sh job COMMAND...   the same by hand, from the checkout
#
# Options of submit:
#   --name NAME --nodes N --time D-HH:MM:SS --partition P --account A --qos Q   as sbatch's
#   --gpus N        GPUs on each node [8]
#   --cpus N        cores for each process
#   --per-gpu       a process for each GPU, not for each node
#   --venv DIR      the environment with rmjax, on a disk that all nodes see [.venv]
#   --secrets FILE  lines NAME=VALUE (HF_TOKEN=...), mode 600, on a disk that all nodes see; never on a command line
#   --dry-run       prints the commands, calls nothing
#
# A process gets JAX_COORDINATOR_ADDRESS (the first node), JAX_NUM_PROCESSES and JAX_PROCESS_ID (with --per-gpu
# also JAX_LOCAL_DEVICE_IDS) for --distributed. The workdir belongs on a disk that all nodes see.
#
# Example:
#   launch/slurm.sh submit --nodes 2 --gpus 8 --time 1-00:00:00 --secrets ~/.rmjax-secrets \
#     python -m rmjax.launch gfriend --distributed --data.path pairs.jsonl --workdir runs/mine
#
#SBATCH --job-name=rmjax
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=rmjax-%j.log
#SBATCH --signal=B:TERM@180
set -euo pipefail
# A batch job runs a copy of this script elsewhere; it is told the checkout, or started in it.
root=${RMJAX_ROOT:-${SLURM_SUBMIT_DIR:-}}
[ -n "${SLURM_JOB_ID:-}" ] && [ -f "$root/launch/common.sh" ] ||
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$root/launch/common.sh"

submit() {
  local name=rmjax nodes=1 time='' partition='' account='' qos='' gpus=8 cpus='' venv=$root/.venv secrets='' per_gpu=''
  local options=() tasks=1 word='[A-Za-z0-9][-A-Za-z0-9_.,]*'
  while [ $# -gt 0 ]; do
    if takes_value "--name --nodes --time --partition --account --qos --gpus --cpus --venv --secrets" "$@"; then
      local variable=${1%%=*}
      printf -v "${variable#--}" %s "$argument"
      shift "$taken"
      continue
    fi
    case $1 in
      --per-gpu) per_gpu=1 ;;
      --dry-run) dry_run=1 ;;
      -h | --help) usage "${BASH_SOURCE[0]}" && exit ;;
      --)
        shift
        break
        ;;
      -*) fail "$(quote "$1"): no such option: see --help" ;;
      *) break ;;
    esac
    shift
  done
  [ $# -gt 0 ] || fail "submit needs a command: launch/slurm.sh submit python -m rmjax.launch ..."
  refuse_secrets "$@"
  check --name "$name" "$word" "letters, digits, dots, dashes"
  check --nodes "$nodes" '[1-9][0-9]*' "a number, as in --nodes 2"
  check --gpus "$gpus" '[1-9][0-9]*' "GPUs on each node, as in --gpus 8"
  [ -z "$cpus" ] || check --cpus "$cpus" '[1-9][0-9]*' "cores, as in --cpus 16"
  [ -z "$time" ] || check --time "$time" '([0-9]+-)?[0-9]+(:[0-9]+){0,2}' "a time, as in --time 1-00:00:00"
  [ -z "$partition" ] || check --partition "$partition" "$word" "a name"
  [ -z "$account" ] || check --account "$account" "$word" "a name"
  [ -z "$qos" ] || check --qos "$qos" "$word" "a name"
  [ -z "$secrets" ] || check_secrets "$secrets"
  venv=$(absolute "$venv") secrets=${secrets:+$(absolute "$secrets")}
  [ -n "$dry_run" ] || [ -x "$venv/bin/python" ] ||
    fail "--venv $(quote "$venv") has no python: make it with python3 -m venv, then pip install -e '.[cuda]' in it"
  need sbatch "run this on the cluster's login node"
  [ -z "$per_gpu" ] || tasks=$gpus
  options=(--job-name="$name" --nodes="$nodes" --ntasks-per-node="$tasks" --gpus-per-node="$gpus")
  [ -z "$cpus" ] || options+=(--cpus-per-task="$cpus")
  [ -z "$time" ] || options+=(--time="$time")
  [ -z "$partition" ] || options+=(--partition="$partition")
  [ -z "$account" ] || options+=(--account="$account")
  [ -z "$qos" ] || options+=(--qos="$qos")
  cd "$root"
  act env RMJAX_ROOT="$root" RMJAX_VENV="$venv" RMJAX_SECRETS="$secrets" RMJAX_PER_GPU="$per_gpu" \
    sbatch --export=ALL "${options[@]}" "$root/launch/slurm.sh" job "$@"
}

absolute() {
  case $1 in
    /*) printf %s "$1" ;;
    *) printf %s "$PWD/$1" ;;
  esac
}

# In the batch job, on the first node.
job() {
  local hosts port
  [ -n "${SLURM_JOB_NODELIST:-}" ] || fail "job runs in a batch job: use launch/slurm.sh submit"
  refuse_secrets "$@"
  hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
  port=$((20000 + SLURM_JOB_ID % 20000)) # two jobs on one node have two ports
  export JAX_COORDINATOR_ADDRESS=${hosts%%$'\n'*}:$port RMJAX_ROOT=$root
  [ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # srun no longer takes it over
  say "job $SLURM_JOB_ID, start ${SLURM_RESTART_COUNT:-0}, coordinator $JAX_COORDINATOR_ADDRESS"
  # srun hands the signal to every process. One that fails ends the others.
  with_signals srun --kill-on-bad-exit=1 bash "$root/launch/slurm.sh" process "$@"
  if [ -n "$stopped" ]; then
    say "told to end: back to the queue"
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
  fi
  exit "$status"
}

# In each process.
process() {
  export JAX_NUM_PROCESSES=$SLURM_NTASKS JAX_PROCESS_ID=$SLURM_PROCID
  [ -z "${RMJAX_PER_GPU:-}" ] || export JAX_LOCAL_DEVICE_IDS=$SLURM_LOCALID
  [ -z "${RMJAX_SECRETS:-}" ] || load_secrets "$RMJAX_SECRETS"
  [ -z "${RMJAX_VENV:-}" ] || export PATH=$RMJAX_VENV/bin:$PATH
  cd "$root"
  exec "$@"
}

# on_job COMMAND... JOB
on_job() {
  [ "${*: -1}" != --dry-run ] || { dry_run=1 && set -- "${@:1:$#-1}"; }
  check JOB "${*: -1}" '[0-9]+' "the number that submit printed"
  need "$1" "run this on the cluster's login node"
  act "$@"
}

case ${1:-} in
  submit | job | process) "$1" "${@:2}" ;;
  status) on_job squeue --job "${@:2}" ;;
  logs) check JOB "${2:-}" '[0-9]+' "the number that submit printed" && tail -n 100 -F "$root/rmjax-$2.log" ;;
  cancel) on_job scancel "${@:2}" ;;
  '' | -h | --help) usage "${BASH_SOURCE[0]}" ;;
  *) fail "$(quote "$1"): no such subcommand: see --help" ;;
esac
