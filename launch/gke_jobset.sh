#!/usr/bin/env bash
# GKE: a JobSet over one or several TPU slices, started again from its checkpoints when a slice is lost.
#
#   launch/gke_jobset.sh [--dry-run] CONFIG [a.b=c ...]
#
# Settings: NAME, IMAGE (of docker/Dockerfile.tpu), SLICES (1), HOSTS a slice, CHIPS a host (4), ACCELERATOR
# (tpu-v5-lite-podslice, tpu-v5p-slice, tpu-v6e-slice), TOPOLOGY (8x8), CLAIM (a volume claim for /data), ENV_FILE,
# RUN_AS (1000, the image's user; 0 where nodes give TPUs only to root). CONFIG is a ready configuration or an absolute path in the pod.
# --dry-run prints the manifest; otherwise kubectl applies it.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/lib.sh
source "$here/lib.sh"

[ "${1:-}" != --dry-run ] || { DRY_RUN=1; shift; }
[ $# -ge 1 ] || fail "usage: gke_jobset.sh [--dry-run] CONFIG [a.b=c ...]"
need_config "$1"
need NAME kame
need IMAGE europe-docker.pkg.dev/project/kame/kame_jax:tpu
need HOSTS 16
need ACCELERATOR tpu-v5-lite-podslice
need TOPOLOGY 8x8
need CLAIM kame-data

render() {
  local line key arguments='' environment=''
  for line in train "$@"; do
    arguments+="                    - '${line//\'/\'\'}'"$'\n'
  done
  while IFS= read -r line; do
    key=${line%%=*} line=${line#*=}
    environment+="                    - {name: $key, value: '${line//\'/\'\'}'}"$'\n'
  done < <(env_lines "${ENV_FILE:-$here/env/tpu.env}")
  while IFS= read -r line; do
    case $line in
      *@ARGUMENTS@*) printf '%s' "$arguments" ;;
      *@ENVIRONMENT@*) printf '%s' "$environment" ;;
      *)
        for key in NAME IMAGE SLICES HOSTS CHIPS ACCELERATOR TOPOLOGY CLAIM RUN_AS RESTART; do
          line=${line//@$key@/${!key}}
        done
        printf '%s\n' "$line"
        ;;
    esac
  done <"$here/gke/jobset.yaml"
}

SLICES=${SLICES:-1} CHIPS=${CHIPS:-4} RUN_AS=${RUN_AS:-1000}
if [ "$DRY_RUN" = 1 ]; then
  render "$@"
else
  render "$@" | kubectl apply -f -
fi
