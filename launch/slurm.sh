#!/usr/bin/env bash
#SBATCH --job-name=kame_jax
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
# SLURM: one process per node, all its GPUs; five minutes before the time limit the run saves and the job is requeued.
#
#   sbatch [--nodes=4 ...] launch/slurm.sh CONFIG [a.b=c ...]        launch/slurm.sh --dry-run CONFIG [a.b=c ...]
#
# Settings: ENV_FILE (launch/env/gpu.env), KAME_JAX (the command; kame-jax). Nodes find each other through SLURM.
set -euo pipefail
here=${KAME_JAX_LAUNCH:-${SLURM_SUBMIT_DIR:+$SLURM_SUBMIT_DIR/launch}}
here=${here:-$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)}
# shellcheck source=launch/lib.sh
source "$here/lib.sh"

[ "${1:-}" != --dry-run ] || { DRY_RUN=1; shift; }
[ $# -ge 1 ] || fail "usage: sbatch launch/slurm.sh [--dry-run] CONFIG [a.b=c ...]"
need_config "$1" .
load_env "${ENV_FILE:-$here/env/gpu.env}"
read -r -a command <<<"${KAME_JAX:-kame-jax}"
step=(srun --kill-on-bad-exit=1 "${command[@]}" train "$@")
if [ "$DRY_RUN" = 1 ]; then
  run "${step[@]}"
  echo "after status $RESTART: scontrol requeue \$SLURM_JOB_ID"
  exit
fi

# The batch script gets the signal; it forwards it and waits for the save.
"${step[@]}" &
job=$!
trap 'kill -TERM "$job" 2>/dev/null || true' TERM
status=0
wait "$job" || status=$?
# A signal ends `wait` early, with a status above 128, while the job continues.
while kill -0 "$job" 2>/dev/null; do
  status=0
  wait "$job" || status=$?
done
if [ "$status" = "$RESTART" ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
