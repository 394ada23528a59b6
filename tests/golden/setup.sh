#!/usr/bin/env bash
# Prepares the environment that writes the golden files: PyTorch and the reference package `moshi`. The test suite
# never needs it. Usage: setup.sh DIRECTORY [PYTHON]; set PIP_EXTRA_INDEX_URL to PyTorch's CPU wheels to save space.
set -euo pipefail

directory=${1:?usage: setup.sh DIRECTORY [PYTHON]}
python=${2:-python3.11}

"$python" -m venv "$directory"
"$directory/bin/pip" install --quiet "torch==2.13.0"
# moshi pins old versions of torch and numpy that its code does not need.
"$directory/bin/pip" install --quiet --no-deps "moshi==0.2.13"
"$directory/bin/pip" install --quiet "numpy>=2" einops safetensors sentencepiece huggingface_hub tqdm
"$directory/bin/python" -c "import moshi.models, torch; print('ready: torch', torch.__version__)"
