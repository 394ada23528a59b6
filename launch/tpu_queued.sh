#!/usr/bin/env bash
# Queued resources: requests a TPU slice, and again after each preemption; the run continues where it was.
#
#   launch/tpu_queued.sh [--dry-run] [--once] CONFIG [a.b=c ...]
#
# The run's folder must outlive the slice: a mounted disk or bucket (Filestore, Cloud Storage FUSE). Settings as for
# tpu_vm.sh (NAME, ZONE, TYPE, RUNTIME, REPO, ...); WAIT is the seconds between checks of the state (60).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/lib.sh
source "$here/lib.sh"

once=0
while [ "${1:-}" = --dry-run ] || [ "${1:-}" = --once ]; do
  [ "$1" = --once ] && once=1 || DRY_RUN=1
  shift
done
[ $# -ge 1 ] || fail "usage: tpu_queued.sh [--dry-run] [--once] CONFIG [a.b=c ...]"
need_config "$1" "$here/.."
need NAME kame
need ZONE us-west4-a
need TYPE v5litepod-64
need RUNTIME v2-alpha-tpuv5-lite
export NAME ZONE TYPE RUNTIME
queue=(gcloud compute tpus queued-resources)
place=(--zone "$ZONE" ${PROJECT:+--project "$PROJECT"})
vm=("$here/tpu_vm.sh")
[ "$DRY_RUN" = 0 ] || vm+=(--dry-run)

ask() {
  run "${queue[@]}" create "$NAME" --node-id "$NAME" "${place[@]}" --accelerator-type "$TYPE" \
    --runtime-version "$RUNTIME" ${SPOT:+--spot}
}

state() {
  "${queue[@]}" describe "$NAME" "${place[@]}" --format 'value(state.state)' 2>/dev/null || echo ABSENT
}

start() {
  "${vm[@]}" setup
  "${vm[@]}" train "$@"
}

if [ "$DRY_RUN" = 1 ]; then
  ask
  echo "every ${WAIT:-60} s: ${queue[*]} describe $NAME ${place[*]}; when ACTIVE:"
  start "$@"
  echo "when SUSPENDED or FAILED: ${queue[*]} delete $NAME ${place[*]} --force --quiet, and from the start"
  exit
fi

running=0
while :; do
  case $(state) in
    ABSENT) running=0 && ask ;;
    ACTIVE)
      if [ "$running" = 0 ]; then
        start "$@"
        running=1
        [ "$once" = 0 ] || exit 0
      fi
      ;;
    SUSPENDED | SUSPENDING | FAILED)
      echo "the slice was preempted; requesting another" >&2
      run "${queue[@]}" delete "$NAME" "${place[@]}" --force --quiet
      running=0
      ;;
  esac
  sleep "${WAIT:-60}"
done
