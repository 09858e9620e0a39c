# shellcheck shell=bash
# What the launchers share: errors in one line, quoting, --dry-run, secrets, signals. Sourced, not run.

((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) || {
  echo "error: bash $BASH_VERSION is too old: install bash 4.4 or newer (macOS: brew install bash)" >&2
  exit 2
}

dry_run=

say() { [ -n "$dry_run" ] || printf '%s\n' "$*" >&2; }

fail() {
  printf 'error: %s\n' "${*//$'\n'/ }" >&2
  exit 2
}

# The words as one line that any POSIX shell reads back as the same words.
quote() {
  local word words=() escaped="'\\''"
  for word; do
    case $word in
      '' | *[!A-Za-z0-9_@%+=:,./-]*) words+=("'${word//"'"/$escaped}'") ;;
      *) words+=("$word") ;;
    esac
  done
  local IFS=' '
  printf '%s' "${words[*]}"
}

# Runs a command, or with --dry-run prints it.
act() {
  if [ -n "$dry_run" ]; then
    quote "$@"
    echo
  else
    "$@"
  fi
}

# The comment at the head of a script is its help.
usage() {
  sed -n '2,/^[^#]/ { /^#SBATCH/d; /^#/!q; s/^# \{0,1\}//; p; }' "$1"
}

# need PROGRAM FIX: the program is installed. A dry run needs none.
need() {
  [ -n "$dry_run" ] || command -v "$1" >/dev/null || fail "$1 is not installed: $2"
}

# check WHAT VALUE PATTERN FIX: the whole value matches the extended regular expression.
check() {
  [ -n "$2" ] || fail "$1 is missing: $4"
  [[ $2 =~ ^($3)$ ]] || fail "$1 $(quote "$2"): $4"
}

# takes_value OPTIONS WORD...: the first word is one of the options that take a value, as `--name x` or `--name=x`.
# Sets argument, and taken: how many words it is made of.
takes_value() {
  case " $1 " in *" ${2%%=*} "*) ;; *) return 1 ;; esac
  if [[ $2 = *=* ]]; then
    argument=${2#*=} taken=1
  else
    [ $# -ge 3 ] || fail "$2 needs a value: see --help"
    # shellcheck disable=SC2034 # the caller shifts by it
    argument=$3 taken=2
  fi
}

# Nobody else may read the file of secrets, and its lines are NAME=VALUE or comments.
check_secrets() {
  local mode line number=0 file
  file=$(quote "$1")
  [ -f "$1" ] || fail "--secrets $file: no such file: write lines NAME=VALUE and chmod 600 it"
  mode=$(stat -c %a "$1" 2>/dev/null || stat -f %Lp "$1")
  [ "$mode" = 600 ] || fail "--secrets $file has mode $mode, others may read it: chmod 600 it"
  while IFS= read -r line || [ -n "$line" ]; do
    number=$((number + 1))
    [[ $line =~ ^($|#|[A-Za-z_][A-Za-z0-9_]*=) ]] ||
      fail "--secrets $file line $number: write NAME=VALUE, without export"
  done <"$1"
}

# Puts a file's NAME=VALUE lines in the environment. They are read as text: nothing in them is run.
load_secrets() {
  local line
  while IFS= read -r line || [ -n "$line" ]; do
    case $line in
      '' | '#'*) ;;
      *) export "${line%%=*}=${line#*=}" ;;
    esac
  done <"$1"
}

# Whoever lists the processes of a machine sees command lines, and so do logs.
refuse_secrets() {
  local word
  for word; do
    [[ ! $word =~ (^|[^A-Za-z0-9])hf_[A-Za-z0-9]{20,} && ! $word =~ (TOKEN|API_KEY|SECRET|PASSWORD)=. ]] ||
      fail "the command holds a secret, which others could read: put it in a file with mode 600 (--secrets in --help)"
  done
}

# Runs a command and hands it the TERM signals that come meanwhile. Sets status, and stopped if there was one: a job
# that is told to end saves and exits with 0, which is not the 0 of a job that has finished.
with_signals() {
  local child='' again=1
  stopped=''
  trap 'stopped=1 again=1; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null || true' TERM
  "$@" &
  child=$!
  [ -z "$stopped" ] || kill -TERM "$child" 2>/dev/null || true
  while [ -n "$again" ]; do # a signal interrupts wait
    again='' status=0
    # shellcheck disable=SC2034 # the caller reads it
    wait "$child" || status=$?
  done
  trap - TERM
}
