"""The PyTorch side of `kame-jax bench train`: the reference model, kame_finetune's loss, AdamW, timed.

Runs in the environment of `setup.sh`: bench_train.py FOLDER, with `spec.json` and `batch.npz` in it; prints JSON.
"""

import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from reference import Batch, build, loss


def main() -> None:
    """Time the steps."""
    folder = Path(sys.argv[1])
    spec = json.loads((folder / "spec.json").read_text())
    arrays = np.load(folder / "batch.npz")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = build(spec["kwargs"], spec["oracle"], 0).train().to(device)
    batch = Batch(
        *(torch.from_numpy(arrays[name]).long().to(device) for name in ("inputs", "labels", "oracle"))
    )
    groups = [
        [p for n, p in model.named_parameters() if n.startswith("dep") == depth] for depth in (False, True)
    ]
    optimizer = torch.optim.AdamW(
        [{"params": group, "lr": spec["learning_rate"]} for group in groups],
        betas=(0.9, 0.95), eps=1e-5, weight_decay=0.1,
    )  # fmt: skip
    half = spec["dtype"] == "bfloat16"
    seconds = []
    for _ in range(spec["steps"] + 2):
        start = time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=half):
            total = loss(model, batch)["loss/total"]
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    result = {
        "seconds": statistics.median(seconds[2:]),
        "parameters": sum(p.numel() for p in model.parameters()),
        "loss": total.item(),
        "threads": torch.get_num_threads(),
        "version": torch.__version__,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
