#!/usr/bin/env bash
# A job on TPUs in GKE: fills in jobset.yaml and hands it to kubectl.
#
#   launch/gke/job.sh render|submit [options] COMMAND...   the manifest on the terminal; or into the cluster
#   launch/gke/job.sh status|logs|delete [--name NAME] [--namespace NAMESPACE]
#   launch/gke/job.sh secret --secret NAME FILE            a Secret from lines NAME=VALUE; FILE has mode 600
#
# Options; the variable of the environment in brackets holds the default:
#   --name NAME             [GKE_NAME] of the job
#   --namespace NAMESPACE   [GKE_NAMESPACE, or default]
#   --image IMAGE           [GKE_IMAGE] made by launch/gke/Dockerfile
#   --bucket BUCKET         [GKE_BUCKET] mounted at /mnt/bucket in every pod: put the job's --workdir there
#   --tpu v5e|v5p|v6e       [GKE_TPU]
#   --topology AxB[xC]      [GKE_TOPOLOGY] of the slice: 4x4, or of v5p 2x2x2
#   --chips N               chips on each host, where it is not 8 (v5e and v6e 2x4), 1 (1x1), or 4 (all others)
#   --service-account NAME  of Kubernetes, with access to the bucket [default]
#   --secret NAME           a Secret of the namespace whose entries become variables of the environment (HF_TOKEN)
#   --restarts N            after failures; preemptions are not counted [3]
#   --spot                  on spot nodes
#   --follow                logs: go on
#   --dry-run               prints the manifest and the kubectl commands, calls nothing
#
# Example:
#   launch/gke/job.sh secret --secret rmjax-tokens ~/.rmjax-secrets
#   launch/gke/job.sh submit --name judge --image us-docker.pkg.dev/p/r/rmjax:1 --bucket my-bucket \
#     --tpu v5e --topology 4x4 --secret rmjax-tokens python -m rmjax.launch gfriend --distributed \
#     --data.path /mnt/bucket/pairs.jsonl --workdir /mnt/bucket/runs/mine
#   launch/gke/job.sh logs --name judge --follow
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=${here%/launch/gke}
# shellcheck source-path=SCRIPTDIR source=../common.sh
. "$here/../common.sh"

name=${GKE_NAME:-} namespace=${GKE_NAMESPACE:-default} image=${GKE_IMAGE:-} bucket=${GKE_BUCKET:-}
tpu=${GKE_TPU:-} topology=${GKE_TOPOLOGY:-} chips='' service_account=default secret='' restarts=3 spot='' follow=''
command=()

parse() {
  local variable
  local valued='--name --namespace --image --bucket --tpu --topology --chips --service-account --secret --restarts'
  while [ $# -gt 0 ]; do
    if takes_value "$valued" "$@"; then
      variable=${1%%=*} variable=${variable#--}
      printf -v "${variable//-/_}" %s "$argument"
      shift "$taken"
      continue
    fi
    case $1 in
      --spot) spot=1 ;;
      --follow) follow=1 ;;
      --dry-run) dry_run=1 ;;
      -h | --help) usage "${BASH_SOURCE[0]}" && exit ;;
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

label='[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?' # short, because names of pods are made of it

validate() {
  check --namespace "$namespace" "$label" "lower-case letters, digits and dashes"
  need kubectl "see https://kubernetes.io/docs/tasks/tools"
  [ -z "$secret" ] || check --secret "$secret" "$label" "the name of a Secret, not its content"
  [ "$subcommand" = secret ] || check --name "$name" "$label" "at most 40 lower-case letters, digits and dashes"
  case $subcommand in
    render | submit) ;;
    secret) return ;;
    *)
      [ ${#command[@]} = 0 ] || fail "$subcommand takes no command, but got $(quote "${command[@]}"): see --help"
      return
      ;;
  esac
  [ ${#command[@]} -gt 0 ] || fail "$subcommand needs a command, as in $subcommand python -m rmjax.launch ..."
  refuse_secrets "${command[@]}"
  check --image "$image" '[a-z0-9][-a-zA-Z0-9_./:@]*' "an image, as in us-docker.pkg.dev/project/repository/rmjax:1"
  check --bucket "$bucket" '[a-z0-9][-_.a-z0-9]{1,220}[a-z0-9]' "its name alone, without gs://"
  check --service-account "$service_account" '[a-z0-9]([-a-z0-9.]*[a-z0-9])?' "a service account of Kubernetes"
  check --restarts "$restarts" '[0-9]{1,4}' "a number, as in --restarts 3"
  slice
}

# Sets accelerator, chips (on a host) and hosts.
slice() {
  check --tpu "$tpu" 'v5e|v5p|v6e' "one of v5e, v5p, v6e"
  local shape='1x1|2x2|2x4|4x4|4x8|8x8|8x16|16x16' fix='' usual=4 all
  fix="one of ${shape//|/, }"
  case $tpu in
    v5e) accelerator='tpu-v5-lite-podslice' ;;
    v6e) accelerator='tpu-v6e-slice' ;;
    v5p) accelerator='tpu-v5p-slice' shape='([1-9][0-9]?x){2}[1-9][0-9]?' fix="three numbers, as in --topology 2x2x2" ;;
  esac
  check --topology "$topology" "$shape" "$fix"
  all=$((${topology//x/*}))
  case $topology in
    2x4) usual=8 ;;
    1x1) usual=1 ;;
  esac
  chips=${chips:-$usual}
  check --chips "$chips" '1|4|8' "1, 4 or 8 chips on a host"
  [ $((all % chips)) = 0 ] || fail "--topology $topology: $all chips, which hosts of $chips do not divide: mend --chips"
  hosts=$((all / chips))
}

# A word as a string of JSON, in which Kubernetes sees no variable of its own: it reads \$\$ as \$.
json() {
  local text=$1 plain
  plain=${text//[$'\n\t\r']/}
  [[ $plain != *[[:cntrl:]]* ]] || fail "the command holds a control character: remove it"
  text=${text//\\/\\\\}
  text=${text//\"/\\\"}
  text=${text//$'\n'/\\n}
  text=${text//$'\t'/\\t}
  text=${text//$'\r'/\\r}
  printf '"%s"' "${text//\$/\$\$}"
}

render() {
  local line key text args='' word
  for word in "${command[@]}"; do args+="${args:+, }$(json "$word")"; done
  declare -A values=([NAME]=$name [NAMESPACE]=$namespace [RESTARTS]=$restarts [HOSTS]=$hosts [CHIPS]=$chips
    [SERVICE_ACCOUNT]=$service_account [ACCELERATOR]=$accelerator [TOPOLOGY]=$topology [IMAGE]=$(json "$image")
    [BUCKET]=$(json "$bucket") [SECRET]=$secret [COMMAND]="[$args]")
  while IFS= read -r line; do
    case $line in
      '#'*) continue ;;
      *' # if secret') [ -n "$secret" ] || continue ;;
      *' # if spot') [ -n "$spot" ] || continue ;;
    esac
    line=${line%% # if *}
    # What is filled in is not searched again.
    if [[ $line =~ ^([^@]*)@([A-Z_]+)@(.*)$ ]]; then
      key=${BASH_REMATCH[2]}
      text=${values[$key]}
      line=${BASH_REMATCH[1]}$text${BASH_REMATCH[3]}
    fi
    printf '%s\n' "$line"
  done <"$here/jobset.yaml"
}

submit() {
  local manifest=$root/build/launch/$name.yaml
  if [ -n "$dry_run" ]; then
    render
  else
    mkdir -p "$root/build/launch"
    render >"$manifest"
  fi
  act kubectl apply --namespace "$namespace" -f "$manifest"
}

status() {
  act kubectl get jobset "$name" --namespace "$namespace"
  act kubectl get pods --namespace "$namespace" -l "jobset.sigs.k8s.io/jobset-name=$name" -o wide
}

logs() {
  act kubectl logs --namespace "$namespace" -c rmjax --tail=100 ${follow:+-f} \
    -l "jobset.sigs.k8s.io/jobset-name=$name,batch.kubernetes.io/job-completion-index=0"
}

delete() { act kubectl delete jobset "$name" --namespace "$namespace"; }

secret() {
  check --secret "$secret" "$label" "the Secret's name, as in --secret rmjax-tokens"
  [ ${#command[@]} = 1 ] || fail "secret takes one file: launch/gke/job.sh secret --secret NAME FILE"
  check_secrets "${command[0]}"
  act kubectl create secret generic "$secret" --namespace "$namespace" --from-env-file="${command[0]}"
}

subcommand=${1:-}
case $subcommand in
  render | submit | status | logs | delete | secret) ;;
  '' | -h | --help) usage "${BASH_SOURCE[0]}" && exit ;;
  *) fail "$(quote "$subcommand"): no such subcommand: see --help" ;;
esac
parse "${@:2}"
validate
"$subcommand"
