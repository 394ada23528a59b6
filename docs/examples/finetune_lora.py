# %% [markdown]
# # Fine-tune with LoRA
#
# ```sh
# python docs/examples/finetune_lora.py
# ```
#
# A run that trains LoRA adapters and the oracle embedding, and keeps everything else as it is. The bundled tiny
# model and four of the bundled dialogues stand in for `hf://SakanaAI/kame` and your own data.

# %%
import json
import shutil
import tempfile
from pathlib import Path

import kame_jax
from kame_jax.assets import TINY
from kame_jax.demo.dialogues import ROOT, sample_entries

folder = Path(tempfile.mkdtemp())
for entry in sample_entries("train")[:4]:
    for part in ("audio", "text", "oracle_raw"):
        (folder / "dialogues" / part).mkdir(parents=True, exist_ok=True)
        for file in (ROOT / part).glob(f"{entry.id}.*"):
            shutil.copy(file, folder / "dialogues" / part)

# %% [markdown]
# A run is a configuration with a few settings replaced: the same `a.b=c` as on the command line.

# %%
config = kame_jax.load_run(
    "tiny",
    [
        f"run_dir={folder / 'run'}",
        f"data.path={folder / 'dialogues'}",
        f"data.codec={TINY}",
        f"data.tokenizer={TINY / 'tokenizer.model'}",
        f"model.init_from={TINY}",
        "model.lora={rank: 4, scaling: 2.0}",
        "optimizer.temporal.freeze=true",
        "optimizer.depth.freeze=true",
        "optimizer.embeddings.freeze=true",
        "train.steps=4",
        "train.log_every=2",
        "train.batch_size=2",
        "train.micro_batches=1",
    ],
)
result = kame_jax.run(config)
print("step", result["step"])

# %% [markdown]
# `metrics.jsonl` has a line for every logged step. The checkpoint keeps the base model and the adapters apart:
# written for PyTorch, they are two files, as moshi-finetune writes them.

# %%
for line in (folder / "run" / "metrics.jsonl").read_text().splitlines():
    entry = json.loads(line)
    print(entry["step"], entry.get("loss/total"))

checkpoint = kame_jax.open_checkpoint(folder / "run", lora="keep")
files = kame_jax.export(
    checkpoint, folder / "torch", "moshi" if checkpoint.config.oracle == "none" else "kame"
)
print(sorted(path.name for path in files))
