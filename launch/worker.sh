#!/usr/bin/env bash
# Runs on a worker: a host of a TPU slice, or a container. tpu_vm.sh and gke/ call it; people seldom do.
#
#   worker.sh install [BUCKET]       Python and rmjax into ~/rmjax-env; the bucket at /mnt/bucket
#   worker.sh start ID COMMAND...    the command in the background, its output in ~/rmjax-job/log
#   worker.sh state [ID]             one line: none, running, other, lost, stopped, interrupted or exit N
#   worker.sh log LINES [follow]
#   worker.sh stop                   SIGTERM: the job saves and ends
#   worker.sh foreground COMMAND...  the command here; 143, not 0, if it ended because it was told to
#
# ID is that of the command: the same command continues its job, another one is told apart.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$here/common.sh"
job=$HOME/rmjax-job
venv=$HOME/rmjax-env
secrets=$HOME/rmjax-secrets
mount=/mnt/bucket

install() {
  if ! command -v uv >/dev/null; then # images have Python 3.10; uv brings a newer one
    PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --user --quiet uv
  fi
  export PATH=$HOME/.local/bin:$PATH
  [ -x "$venv/bin/python" ] || uv venv --quiet --python 3.12 "$venv"
  uv pip install --quiet --python "$venv/bin/python" -e "${here%/launch}[tpu]"
  [ -z "${1:-}" ] || mount_bucket "$1"
}

mount_bucket() {
  local apt=(sudo apt-get -o DPkg::Lock::Timeout=600) key=/usr/share/keyrings/cloud.google.asc
  ! mountpoint -q "$mount" || return 0
  if ! command -v gcsfuse >/dev/null; then
    curl -fsS https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee "$key" >/dev/null
    echo "deb [signed-by=$key] https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -cs) main" |
      sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
    "${apt[@]}" update -q
    "${apt[@]}" install -q -y gcsfuse
  fi
  sudo mkdir -p "$mount"
  sudo chown "$(id -u):$(id -g)" "$mount"
  gcsfuse --implicit-dirs "$1" "$mount"
}

# A number of a process may belong to another one after a restart of the machine.
running() {
  [ -f "$job/pid" ] && grep -qszx supervise "/proc/$(cat "$job/pid")/cmdline"
}

state() {
  if [ ! -f "$job/id" ]; then
    echo none
  elif [ -n "${1:-}" ] && [ "$1" != "$(cat "$job/id")" ]; then
    if running; then echo other; else echo none; fi
  elif running; then
    echo running
  elif [ -f "$job/status" ]; then
    cat "$job/status"
  else
    echo lost
  fi
}

start() {
  local id=$1
  shift
  case $(state "$id") in
    running) return 0 ;; # ssh repeats a command whose connection broke
    other) fail "another command is running on $(hostname): stop it first" ;;
  esac
  mkdir -p "$job"
  rm -f "$job/status" "$job/pid" "$job/asked"
  printf '%s' "$id" >"$job/id"
  setsid nohup bash "$here/worker.sh" supervise "$@" </dev/null >>"$job/log" 2>&1 &
  echo $! >"$job/pid"
  for _ in {1..100}; do
    ! running && [ ! -f "$job/status" ] || return 0
    sleep 0.05
  done
  fail "the job did not start on $(hostname): see ~/rmjax-job/log there"
}

supervise() {
  [ ! -f "$secrets" ] || load_secrets "$secrets"
  export PATH=$venv/bin:$PATH
  cd "$here/.."
  with_signals "$@"
  if [ -z "$stopped" ]; then
    echo "exit $status" >"$job/status.new"
  elif [ -f "$job/asked" ]; then
    echo stopped >"$job/status.new"
  else
    echo interrupted >"$job/status.new" # the machine is going down
  fi
  mv "$job/status.new" "$job/status"
}

case ${1:-} in
  install) install "${2:-}" ;;
  start) start "${@:2}" ;;
  state) echo "rmjax-job $(state "${2:-}")" ;;
  log)
    [ -f "$job/log" ] || fail "no job was started on $(hostname): see the run command"
    tail -n "$2" ${3:+-f} "$job/log"
    ;;
  stop)
    if running; then
      touch "$job/asked"
      kill -TERM "$(cat "$job/pid")"
    fi
    ;;
  supervise) supervise "${@:2}" ;;
  foreground)
    with_signals "${@:2}"
    [ -z "$stopped" ] || exit 143 # Kubernetes takes 0 for finished
    exit "$status"
    ;;
  -h | --help) usage "${BASH_SOURCE[0]}" ;;
  *) fail "worker.sh $(quote "${1:-}"): no such command: see --help" ;;
esac
