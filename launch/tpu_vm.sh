#!/usr/bin/env bash
# A TPU VM pod slice: create it, install the code, train on all its hosts, follow the log, delete it.
#
#   launch/tpu_vm.sh [--dry-run] create | setup | train CONFIG [a.b=c ...] | log | delete
#
# Settings: NAME, ZONE, TYPE (v5litepod-64, v5p-32, v6e-64), RUNTIME (v2-alpha-tpuv5-lite, v2-alpha-tpuv5, v2-alpha-tpuv6e),
# PROJECT (gcloud's own), SPOT=1, ENV_FILE (launch/env/tpu.env), REPO (this checkout's origin), BRANCH (main).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/lib.sh
source "$here/lib.sh"

[ "${1:-}" != --dry-run ] || { DRY_RUN=1; shift; }
action=${1:-}
[ $# = 0 ] || shift
need NAME kame
need ZONE us-west4-a
gcloud=(gcloud compute tpus tpu-vm)
place=(--zone "$ZONE" ${PROJECT:+--project "$PROJECT"})

# on_hosts COMMAND: runs it in a shell on every host.
on_hosts() {
  run "${gcloud[@]}" ssh "$NAME" "${place[@]}" --worker=all --command "$1"
}

case $action in
  create)
    need TYPE v5litepod-64
    need RUNTIME v2-alpha-tpuv5-lite
    run "${gcloud[@]}" create "$NAME" "${place[@]}" --accelerator-type "$TYPE" --version "$RUNTIME" ${SPOT:+--spot}
    ;;
  setup)
    repo=${REPO:-$(git -C "$here" remote get-url origin 2>/dev/null || true)}
    [ -n "$repo" ] || fail "set REPO: this checkout has no origin to clone from"
    on_hosts "$(printf 'set -e; [ -d kame_jax ] || git clone %q kame_jax; cd kame_jax; git fetch -q; git checkout -q %q; [ -d .venv ] || python3 -m venv .venv; .venv/bin/pip install -q -e ".[tpu]"' "$repo" "${BRANCH:-main}")"
    ;;
  train)
    [ $# -ge 1 ] || fail "usage: tpu_vm.sh train CONFIG [a.b=c ...]"
    need_config "$1" "$here/.."
    # Every host runs the same command, and repeats it while it ends with the restart status.
    printf -v command '%q ' .venv/bin/kame-jax train "$@"
    loop="while :; do $command; status=\$?; [ \$status = $RESTART ] || exit \$status; done"
    on_hosts "$(printf 'cd kame_jax; %s nohup bash -c %q >train.log 2>&1 </dev/null &' "$(quoted_env "${ENV_FILE:-$here/env/tpu.env}")" "$loop")"
    ;;
  log)
    run "${gcloud[@]}" ssh "$NAME" "${place[@]}" --worker=0 --command 'tail -n 50 -F kame_jax/train.log'
    ;;
  delete)
    run "${gcloud[@]}" delete "$NAME" "${place[@]}" --quiet
    ;;
  *) fail "expected create, setup, train, log or delete, got '${action}'" ;;
esac
