#!/usr/bin/env bash
# Runs a command as N processes on this machine that work as one (JAX on the CPU, collectives by gloo).
#
#   launch/local_processes.sh [--logs DIR] [--grace SECONDS] [--dry-run] N COMMAND...
#
# It sets three variables for each process and nothing else; a command with --distributed reads them:
#   JAX_COORDINATOR_ADDRESS  localhost and a free port
#   JAX_NUM_PROCESSES        N
#   JAX_PROCESS_ID           0 to N-1
# Process 0 writes to this terminal, and each process to DIR/process-I.log (a new temporary folder if not given).
# When one process fails, the others get SIGTERM, and after --grace seconds (20) SIGKILL; the status is that of the
# one that failed first, and its last lines are shown. SIGTERM and SIGINT go on to all: jobs save and end.
#
# Example:
#   launch/local_processes.sh 2 python -m rmjax.launch gfriend --distributed --workdir runs/two
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$here/common.sh"

logs='' grace=20
while [ $# -gt 0 ]; do
  if takes_value "--logs --grace" "$@"; then
    case $1 in
      --logs*) logs=$argument ;;
      *) grace=$argument ;;
    esac
    shift "$taken"
    continue
  fi
  case $1 in
    --dry-run) dry_run=1 ;;
    -h | --help) usage "${BASH_SOURCE[0]}" && exit ;;
    -*) fail "$(quote "$1"): no such option: see --help" ;;
    *) break ;;
  esac
  shift
done
count=${1:-}
check N "$count" '[1-9][0-9]{0,2}' "the number of processes comes first: launch/local_processes.sh 2 COMMAND..."
check --grace "$grace" '[0-9]{1,2}' "whole seconds, at most 99"
shift
[ $# -gt 0 ] || fail "no command: launch/local_processes.sh $count python -m rmjax.launch ..."
refuse_secrets "$@"
if [ -n "$dry_run" ]; then
  for ((i = 0; i < count; i++)); do
    act env JAX_COORDINATOR_ADDRESS=localhost:PORT JAX_NUM_PROCESSES="$count" JAX_PROCESS_ID="$i" "$@"
  done
  exit
fi
command -v "$1" >/dev/null || fail "$(quote "$1"): no such program: activate the environment that has it"
python=$(command -v python3 || command -v python) || fail "python3 is not installed: it finds a free port"
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])')
if [ -z "$logs" ]; then logs=$(mktemp -d "${TMPDIR:-/tmp}/rmjax-processes.XXXXXX"); fi
mkdir -p "$logs" || fail "--logs $(quote "$logs"): cannot be made: give another folder"

pids=() told=''
# A process is the leader of its own group, so that Ctrl-C reaches only this script. TERM goes to the process,
# which knows what to do with what it has started; INT (as from a terminal) and KILL to all of the group.
tell() {
  local i
  for i in "${!pids[@]}"; do
    [ -n "${ended[i]:-}" ] || kill "-$1" -- "$([ "$1" = TERM ] || echo -)${pids[i]}" 2>/dev/null || true
  done
}
# shellcheck disable=SC2329 # the traps call it
forward() {
  told=$1
  tell "$1"
}
ended=() # statuses by process
trap 'forward TERM' TERM
trap 'forward INT' INT
trap 'tell KILL' EXIT

for ((i = 0; i < count; i++)); do
  export JAX_COORDINATOR_ADDRESS=localhost:$port JAX_NUM_PROCESSES=$count JAX_PROCESS_ID=$i
  : >"$logs/process-$i.log"
  set -m
  "$@" </dev/null >"$logs/process-$i.log" 2>&1 &
  pids[i]=$!
  set +m
done
[ -z "$told" ] || tell "$told" # it came before all had started
say "$count processes at localhost:$port; logs: $logs"

exec 3<"$logs/process-0.log"
first='' status=0 deadline=''
while [ ${#ended[@]} -lt "$count" ]; do
  for ((i = 0; i < count; i++)); do
    if [ -n "${ended[i]:-}" ] || kill -0 "${pids[i]}" 2>/dev/null; then continue; fi
    ended[i]=0
    wait "${pids[i]}" 2>/dev/null || ended[i]=$?
    kill -KILL -- "-${pids[i]}" 2>/dev/null || true # what it has left behind
    if [ "${ended[i]}" != 0 ] && [ -z "$first" ]; then
      first=$i status=${ended[i]}
      [ -n "$told" ] || say "process $i ended with status $status: ending the others"
      tell TERM
    fi
  done
  if [ -n "$first$told" ]; then
    deadline=${deadline:-$((SECONDS + grace))}
    if [ "$SECONDS" -ge "$deadline" ]; then tell KILL; fi
  fi
  sleep 0.1
  cat <&3 # what process 0 has written since the last look
done
if [ -n "$first" ]; then
  say "last lines of process $first ($logs/process-$first.log):"
  tail -n 20 "$logs/process-$first.log" >&2
  say "error: process $first of $count ended with status $status: its lines are above; the same command continues"
fi
exit "$status"
