#!/usr/bin/env bash
# One box with NVIDIA GPUs: trains in the active environment, and continues after a preemption.
#
#   launch/gpu_box.sh [--dry-run] CONFIG [a.b=c ...]
#
# Settings: ENV_FILE (launch/env/gpu.env), MAX_RESTARTS (100), KAME_JAX (the command; kame-jax).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/lib.sh
source "$here/lib.sh"

[ "${1:-}" != --dry-run ] || { DRY_RUN=1; shift; }
[ $# -ge 1 ] || fail "usage: gpu_box.sh [--dry-run] CONFIG [a.b=c ...]"
need_config "$1" .
load_env "${ENV_FILE:-$here/env/gpu.env}"
read -r -a command <<<"${KAME_JAX:-kame-jax}"

for ((attempt = 0; attempt <= ${MAX_RESTARTS:-100}; attempt++)); do
  status=0
  run "${command[@]}" train "$@" || status=$?
  [ "$status" = "$RESTART" ] || exit "$status"
  echo "the run was stopped and saved; starting it again ($((attempt + 1)))" >&2
done
fail "the run was stopped more than ${MAX_RESTARTS:-100} times"
