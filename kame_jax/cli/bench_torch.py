"""The PyTorch reference's frame time, printed as JSON: run by `bench decode` with a Python that has torch and moshi.

It stands alone, because that Python need not have JAX: `python bench_torch.py '{"kwargs": {...}, "frames": 40, ...}'`.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def measure(kwargs: dict[str, Any], frames: int, warm_up: int, sessions: int, greedy: bool) -> list[float]:
    """Seconds of each `LMGen.step` of a random float32 model on the CPU."""
    import torch
    from moshi.models import LMGen, LMModel

    torch.manual_seed(0)
    model = LMModel(**kwargs, device="cpu", dtype=torch.float32).eval()
    generator, seconds = LMGen(model, use_sampling=not greedy), []
    user = torch.randint(0, kwargs["card"], (warm_up + frames, sessions, kwargs["n_q"] - kwargs["dep_q"], 1))
    with torch.no_grad(), generator.streaming(sessions):
        for codes in user:
            started = time.perf_counter()
            generator.step(codes)
            seconds.append(time.perf_counter() - started)
    return seconds[warm_up:]


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[1]))))
