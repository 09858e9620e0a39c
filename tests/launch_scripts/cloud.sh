#!/usr/bin/env bash
# Stands in for gcloud with a slice of one host: its state is the file $CLOUD/state, its home the folder $CLOUD/home.
set -euo pipefail
last=${*: -1}
case "$*" in
  *" describe "*)
    [ -f "$CLOUD/state" ] || { echo "ERROR: NOT_FOUND" >&2 && exit 1; }
    cat "$CLOUD/state"
    ;;
  *" create "*) mkdir "$CLOUD/home" && echo READY >"$CLOUD/state" && echo create >>"$CLOUD/events" ;;
  *" delete "*) rm -r "${CLOUD:?}/home" "$CLOUD/state" && echo delete >>"$CLOUD/events" ;;
  *" scp "*) cp -p "$5" "$CLOUD/home/${6#*:}" ;;
  *" ssh "*)
    cd "$CLOUD/home"
    HOME=$CLOUD/home exec bash -c "${last#--command=}"
    ;;
esac
