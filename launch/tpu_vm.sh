#!/usr/bin/env bash
# A job on Cloud TPU VMs: one slice, one process on each of its hosts.
#
#   launch/tpu_vm.sh create|copy|install|status|logs|stop|delete [options]
#   launch/tpu_vm.sh run|resume [options] COMMAND...
#
#   create    makes the slice and waits until it can be used
#   copy      the code of this checkout, to all hosts
#   install   Python, rmjax[tpu] and the bucket, on all hosts
#   run       starts the command on all hosts in the background; it outlives this terminal
#   resume    all of these, as far as they are still to do, and waits until the job has finished; after a preemption
#             it deletes the slice, makes it anew and starts the same command, which continues from its checkpoint
#   status    the slice's state, and each host's job: running, exit N, stopped, interrupted, lost, none
#   logs      the last lines of a host's output (--follow: and those to come; --worker: which host)
#   stop      SIGTERM to the job: it saves and ends
#   delete    the slice and everything on its disks
#
# Options; the variable of the environment in brackets holds the default:
#   --name NAME        [TPU_NAME] of the slice
#   --project ID       [TPU_PROJECT]
#   --zone ZONE        [TPU_ZONE] us-west4-a
#   --type TYPE        [TPU_TYPE] v5litepod-16, v5p-8, v6e-16: gcloud compute tpus accelerator-types list
#   --runtime VERSION  [TPU_RUNTIME] the machine image; chosen by --type if not given
#   --bucket BUCKET    [TPU_BUCKET] mounted at /mnt/bucket on every host: put the job's --workdir there
#   --secrets FILE     [TPU_SECRETS] lines NAME=VALUE (HF_TOKEN=...), mode 600; copied, never on a command line
#   --spot             may be preempted, costs less
#   --reserved         from a reservation
#   --queued           waits in the queue for capacity (queued resources); give it to create, resume, status and delete
#   --valid-for TIME   how long a request may wait in the queue: 6h
#   --create-flag FLAG one more flag for gcloud's create (--create-flag=--network=mine); may be repeated
#   --ssh-flag FLAG    one more flag for gcloud's ssh and scp (--ssh-flag=--internal-ip); may be repeated
#   --worker N|all     whose logs [0]
#   --follow           logs: go on
#   --poll SECONDS     resume and queues: time between two looks [30]
#   --dry-run          prints every command, calls nothing; resume: those of a preemption
#
# Example:
#   export TPU_NAME=judge TPU_PROJECT=my-project TPU_ZONE=us-west4-a TPU_TYPE=v5litepod-16 TPU_BUCKET=my-bucket
#   launch/tpu_vm.sh resume --spot --secrets ~/.rmjax-secrets python -m rmjax.launch gfriend --distributed \
#     --model.path Qwen/Qwen2.5-7B-Instruct --data.path /mnt/bucket/pairs.jsonl --workdir /mnt/bucket/runs/mine
#   launch/tpu_vm.sh logs --follow
#   launch/tpu_vm.sh delete
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=${here%/launch}
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$here/common.sh"

name=${TPU_NAME:-} project=${TPU_PROJECT:-} zone=${TPU_ZONE:-} type=${TPU_TYPE:-} runtime=${TPU_RUNTIME:-}
bucket=${TPU_BUCKET:-} secrets=${TPU_SECRETS:-}
tier='' queued='' valid_for='' worker=0 follow='' poll=30
create_flags=() ssh_flags=() command=()
# What a dry run of resume takes for the answers: a preemption, a new slice, a job that finishes.
dry_states=(PREEMPTED READY READY) dry_jobs=(none 'exit 0')
errors=''

parse() {
  local valued='--name --project --zone --type --runtime --bucket --secrets --valid-for --worker --poll'
  while [ $# -gt 0 ]; do
    if takes_value "$valued --create-flag --ssh-flag" "$@"; then
      case $1 in
        --create-flag*) create_flags+=("$argument") ;;
        --ssh-flag*) ssh_flags+=("$argument") ;;
        --valid-for*) valid_for=$argument ;;
        *)
          local variable=${1%%=*}
          printf -v "${variable#--}" %s "$argument"
          ;;
      esac
      shift "$taken"
      continue
    fi
    case $1 in
      --spot | --reserved)
        [ -z "$tier" ] || [ "$tier" = "$1" ] || fail "--spot and --reserved exclude each other: give one"
        tier=$1
        ;;
      --queued) queued=1 ;;
      --follow) follow=1 ;;
      --dry-run) dry_run=1 ;;
      --help | -h) usage "${BASH_SOURCE[0]}" && exit ;;
      --)
        command=("${@:2}")
        return
        ;;
      -*) fail "$(quote "$1"): no such option: see --help" ;;
      *)
        command=("$@")
        return
        ;;
    esac
    shift
  done
}

validate() {
  local word='[a-z]([-a-z0-9]{0,61}[a-z0-9])?'
  check --name "$name" "$word" "lower-case letters, digits and dashes, as in --name judge"
  check --project "$project" "([-a-z0-9.]+:)?$word" "the project's id, as in --project my-project"
  check --zone "$zone" '[a-z]+-[a-z]+[0-9]+-[a-z]' "a zone, as in --zone us-west4-a"
  check --poll "$poll" '[0-9]+(\.[0-9]+)?' "seconds, as in --poll 30"
  check --worker "$worker" '[0-9]+|all' "the number of a host, or all"
  [ -z "$bucket" ] || check --bucket "$bucket" '[a-z0-9][-_.a-z0-9]{1,220}[a-z0-9]' "its name alone, without gs://"
  [ -z "$valid_for" ] || check --valid-for "$valid_for" '[0-9]+[smhd]' "a time, as in --valid-for 6h"
  [ -z "$valid_for" ] || [ -n "$queued" ] || fail "--valid-for $valid_for: only queued requests wait: add --queued"
  [ -z "$secrets" ] || check_secrets "$secrets"
  case $subcommand in
    run | resume)
      [ ${#command[@]} -gt 0 ] || fail "$subcommand needs a command, as in $subcommand python -m rmjax.launch ..."
      refuse_secrets "${command[@]}"
      ;;
    *) [ ${#command[@]} = 0 ] || fail "$subcommand takes no command, but got $(quote "${command[@]}"): see --help" ;;
  esac
  case $subcommand in create | resume) validate_type ;; esac
  [ "$subcommand" != resume ] || [ -n "$bucket" ] ||
    fail "resume without --bucket would lose the checkpoints: give --bucket and a --workdir in /mnt/bucket"
  need gcloud "see https://cloud.google.com/sdk/docs/install"
}

validate_type() {
  check --type "$type" 'v[0-9]+[a-z]*-[0-9]+' "an accelerator type, as in --type v5litepod-16"
  [ -z "$runtime" ] || check --runtime "$runtime" '[a-z0-9][-.a-z0-9]*' "a runtime version, as in v2-alpha-tpuv5-lite"
  [ -n "$runtime" ] || case $type in
    v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
    v5p-*) runtime=v2-alpha-tpuv5 ;;
    v6e-*) runtime=v2-alpha-tpuv6e ;;
    v2-* | v3-* | v4-*) runtime=tpu-ubuntu2204-base ;;
    *) fail "--type $type: no runtime version known for it: give --runtime" ;;
  esac
}

nodes() { act gcloud compute tpus tpu-vm "$1" "$name" --project="$project" --zone="$zone" "${@:2}"; }
queue() { act gcloud compute tpus queued-resources "$1" "$name" --project="$project" --zone="$zone" "${@:2}"; }
send() {
  act gcloud compute tpus tpu-vm scp "$1" "$name:$2" --project="$project" --zone="$zone" --worker=all \
    ${ssh_flags[@]+"${ssh_flags[@]}"}
}
remote() { nodes ssh --worker="$1" ${ssh_flags[@]+"${ssh_flags[@]}"} --command="$2"; }

pause() { [ -n "$dry_run" ] || sleep "$poll"; }

# look nodes|queue: sets state; MISSING if there is none, UNKNOWN if gcloud could not tell (its error is in $errors).
look() {
  local format=state
  [ "$1" = nodes ] || format=state.state
  if [ -n "$dry_run" ]; then
    "$1" describe "--format=value($format)"
    state=ACTIVE
    [ "$1" = queue ] || { state=${dry_states[0]} && dry_states=("${dry_states[@]:1}"); }
  elif state=$("$1" describe "--format=value($format)" 2>"$errors"); then
    [ -n "$state" ] || state=UNKNOWN
  elif grep -qiE 'NOT_FOUND|not found' "$errors"; then
    state=MISSING
  else
    state=UNKNOWN
  fi
}

await_queue() {
  while look queue; do
    case $state in
      ACTIVE) return ;;
      FAILED | SUSPENDED | SUSPENDING | DELETING | MISSING)
        fail "the request for $name is $state: delete it, then create it again (launch/tpu_vm.sh delete --queued)"
        ;;
    esac
    say "the request for $name is $state"
    pause
  done
}

create() {
  local flags=(--accelerator-type="$type" ${tier:+"$tier"} ${create_flags[@]+"${create_flags[@]}"})
  if [ -z "$queued" ]; then
    nodes create --version="$runtime" "${flags[@]}"
  else
    queue create --node-id="$name" --runtime-version="$runtime" ${valid_for:+--valid-until-duration="$valid_for"} \
      "${flags[@]}" && await_queue
  fi
}

delete() {
  if [ -n "$queued" ]; then queue delete --force --quiet; else nodes delete --quiet; fi
}

# Steps of copy, install and run are joined by &&: where resume calls them in a condition, bash ignores set -e.
copy() {
  local archive=$root/build/launch/$name.tar.gz
  act mkdir -p "$root/build/launch" &&
    act tar -C "$root" --exclude=__pycache__ -czf "$archive" \
      LICENSE README.md pyproject.toml setup.py configs launch rmjax &&
    send "$archive" rmjax.tar.gz &&
    remote all 'rm -rf rmjax && mkdir rmjax && tar -xzf rmjax.tar.gz -C rmjax'
}

install() { remote all "bash rmjax/launch/worker.sh install${bucket:+ $bucket}"; }

run() {
  # scp keeps the mode of the file
  { [ -z "$secrets" ] || send "$secrets" rmjax-secrets; } &&
    remote all "bash rmjax/launch/worker.sh start $id $(quote "${command[@]}")"
}

# What every host says about its job, one line each: sets jobs.
look_jobs() {
  local ask="if [ -f rmjax/launch/worker.sh ]; then bash rmjax/launch/worker.sh state $1; else echo rmjax-job none; fi"
  if [ -n "$dry_run" ]; then
    remote all "$ask"
    jobs=${dry_jobs[0]} && dry_jobs=("${dry_jobs[@]:1}")
  else
    jobs=$(remote all "$ask" | sed -n 's/^.*rmjax-job //p' | sort -u) && [ -n "$jobs" ]
  fi
}

status() {
  local node
  look nodes
  node=$state
  [ "$node" != UNKNOWN ] || fail "gcloud: $(tail -n 1 "$errors")"
  [ -n "$dry_run" ] || echo "$name: $node"
  if [ -n "$queued" ]; then
    look queue
    [ -n "$dry_run" ] || echo "its request: $state"
  fi
  [ "$node" != READY ] || remote all "bash rmjax/launch/worker.sh state"
}

# The slice is gone: another one.
rebuild() {
  if [ -n "$queued" ]; then
    look queue
    case $state in
      MISSING) ;;
      UNKNOWN) return ;;
      ACCEPTED | CREATING | PROVISIONING | WAITING_FOR_RESOURCES)
        await_queue
        return
        ;;
      *) delete ;;
    esac
  elif [ "$state" != MISSING ]; then
    delete
  fi
  if [ -n "$dry_run" ]; then
    create
  elif ! { (create) 2>&1 1>&3 | tee "$errors.create" >&2; } 3>&1; then
    grep -qiE 'no more capacity|insufficient capacity|stockout' "$errors.create" || exit 1
    say "no capacity: another try in $poll seconds (--queued waits in the queue of Cloud TPU)"
    pause
  fi
}

# The slice is there: 0 when the job has finished, 1 to look again.
attend() {
  local line=$'\n'
  if ! look_jobs "$id"; then
    again "the hosts of $name do not answer: see launch/tpu_vm.sh status"
    return 1
  fi
  case $line$jobs$line in
    *"${line}other$line"*) fail "another command is running on $name: stop it, or wait for it" ;;
    "${line}exit 0$line") return 0 ;;
    "${line}running$line" | "${line}exit 0${line}running$line")
      failures=0
      pause
      ;;
    "${line}none${line}running$line") remote all "bash rmjax/launch/worker.sh stop" ;;
    *"${line}none$line"*)
      { copy && install && run && failures=0; } || again "the hosts of $name cannot be set up: the error is above"
      ;;
    *)
      # Something ended. That may be the first sign of a preemption, so the slice is looked at once more.
      failures=$((failures + 1))
      if [ "$failures" -lt 2 ]; then pause; else ended; fi
      ;;
  esac
  return 1
}

ended() {
  case $'\n'$jobs in
    *$'\nexit '[1-9]* | *$'\nstopped'*)
      remote all "bash rmjax/launch/worker.sh log 20; bash rmjax/launch/worker.sh stop" >&2 || true
      fail "the job on $name ended (${jobs//$'\n'/, }): its last lines are above; mend it, then repeat the command"
      ;;
  esac
  say "the hosts of $name were restarted (${jobs//$'\n'/, }): the job goes on"
  { install && run && failures=0; } || again "the hosts of $name cannot be set up: the error is above"
}

# again ERROR: another look later, or after 20 of them in vain the error.
again() {
  failures=$((failures + 1))
  [ "$failures" -lt 20 ] || fail "$1"
  say "not yet: $1"
  pause
}

resume() {
  local failures=0
  while look nodes; do
    case $state in
      READY) ! attend || break ;;
      PREEMPTED | TERMINATED | MISSING)
        say "$name is $state"
        failures=0
        rebuild
        ;;
      UNKNOWN) again "gcloud does not tell the state of $name: $(tail -n 1 "$errors")" ;;
      STOPPED | SUSPENDED | HIDDEN) fail "$name is $state: start it or delete it, then repeat" ;;
      *)
        say "$name is $state"
        pause
        ;;
    esac
  done
  say "the job on $name has finished; the slice still costs: launch/tpu_vm.sh delete"
}

subcommand=${1:-}
case $subcommand in
  create | copy | install | run | resume | status | logs | stop | delete) ;;
  '' | -h | --help) usage "${BASH_SOURCE[0]}" && exit ;;
  *) fail "$(quote "$subcommand"): no such subcommand: see --help" ;;
esac
parse "${@:2}"
validate
# The same command has the same id, wherever it is started from.
id=$(printf '%s\0' ${command[@]+"${command[@]}"} | cksum | cut -d' ' -f1)
errors=$(mktemp)
trap 'rm -f "$errors" "$errors.create"' EXIT
[ "$subcommand" = resume ] || dry_states=(READY)
case $subcommand in
  logs) remote "$worker" "bash rmjax/launch/worker.sh log 100${follow:+ follow}" ;;
  stop) remote all "bash rmjax/launch/worker.sh stop" ;;
  *) "$subcommand" ;;
esac
