#!/usr/bin/env bash
# All checks on one GPU: first whether its numbers are right, then how fast it is. Everything goes into one log.
#
#   launch/bench_gpu.sh [--dry-run] [OUT]
#
# OUT (runs/bench_gpu, from the checkout's root) gets log.txt and every frame's time. Settings: PYTHON (the interpreter of an environment with
# pip install -e '.[cuda13,test]'; python3), STEPS (measured train steps, 10), FRAMES (measured frames, 200).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/lib.sh
source "$here/lib.sh"

[ "${1:-}" != --dry-run ] || { DRY_RUN=1; shift; }
[ $# -le 1 ] || fail "usage: bench_gpu.sh [--dry-run] [OUT]"
out=${1:-runs/bench_gpu}
load_env "${ENV_FILE:-$here/env/gpu.env}"
kame=("${PYTHON:-python3}" -m kame_jax.cli.main)
decode=(bench decode --config kame_7b --dtype bfloat16 --frames "${FRAMES:-200}")
cd "$here/.."
run mkdir -p "$out"
[ "$DRY_RUN" = 1 ] || exec > >(tee "$out/log.txt") 2>&1

run nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv
# The reference's tensors on this device, in true float32, and cuDNN's attention against the plain one.
run env TEST_PLATFORM=cuda JAX_DEFAULT_MATMUL_PRECISION=highest "${PYTHON:-python3}" -m pytest -m "gpu or not slow" \
  tests/model tests/decode/test_golden.py
run "${kame[@]}" bench train kame_7b_1xh200_lora --steps "${STEPS:-10}"
run "${kame[@]}" bench train moshi_dev_2b_1xh200 --steps "${STEPS:-10}"
run "${kame[@]}" "${decode[@]}" --sessions 1,2,4,8,16,32,64 --raw "$out/decode.jsonl"
run "${kame[@]}" "${decode[@]}" --sessions 64,128 --int8-cache --raw "$out/decode_int8.jsonl"
