# %% [markdown]
# # Convert and verify
#
# ```sh
# python docs/examples/convert_and_verify.py
# ```
#
# A checkpoint goes to PyTorch's layout and back, and comes back with the same bytes. The bundled tiny model
# stands in for a real one: put a folder, a file or `hf://org/repo` in its place.

# %%
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

import kame_jax
from kame_jax.assets import TINY

folder = Path(tempfile.mkdtemp())
source = kame_jax.open_checkpoint(TINY)
print(source.config.num_rows, "rows a frame, oracle:", source.config.oracle)

# %% [markdown]
# `export` writes the layout that the reference's loader takes, with its configuration beside the weights.

# %%
files = kame_jax.export(source, folder / "torch", "kame")
print(sorted(path.name for path in files))

# %% [markdown]
# Read back and written once more, every tensor has the same bytes.

# %%
kame_jax.export(kame_jax.open_checkpoint(folder / "torch"), folder / "again", "kame")
first, second = (load_file(folder / name / "model.safetensors") for name in ("torch", "again"))
assert first.keys() == second.keys()
assert all(first[key].tobytes() == second[key].tobytes() for key in first)
print(len(first), "tensors, identical")

# %% [markdown]
# The model itself: logits of a short row of tokens, on the default device.

# %%
config, model = kame_jax.load_checkpoint(folder / "torch", dtype="float32")
codes = np.zeros((1, config.num_rows, 8), np.int32)
out = model(codes, oracle=np.zeros((1, 8), np.int32))
print("text logits", out.text_logits.shape)
