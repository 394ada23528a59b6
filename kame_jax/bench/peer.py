"""The PyTorch reference's frame times, printed as JSON, for a Python that has torch and moshi.

It is self-contained, because that Python need not have JAX: `python peer.py lm '{"kwargs": {...}, "frames": 40, ...}'`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any


def timed(call: Callable[[int], Any], warm_up: int, frames: int) -> list[float]:
    """Seconds of each call, without those that warm up."""
    seconds = []
    for frame in range(warm_up + frames):
        started = time.perf_counter()
        call(frame)
        seconds.append(time.perf_counter() - started)
    return seconds[warm_up:]


def lm(kwargs: dict[str, Any], frames: int, warm_up: int, sessions: int, greedy: bool) -> list[float]:
    """Seconds of each `LMGen.step` of a random float32 model on the CPU."""
    import torch
    from moshi.models import LMGen, LMModel

    torch.manual_seed(0)
    model = LMModel(**kwargs, device="cpu", dtype=torch.float32).eval()
    generator = LMGen(model, use_sampling=not greedy)
    user = torch.randint(0, kwargs["card"], (warm_up + frames, sessions, kwargs["n_q"] - kwargs["dep_q"], 1))
    with torch.no_grad(), generator.streaming(sessions):
        return timed(lambda frame: generator.step(user[frame]), warm_up, frames)


def codec(codebooks: int, frames: int, warm_up: int, sessions: int) -> dict[str, list[float]]:
    """Seconds of each streaming frame of Mimi, encoded and decoded, with random float32 weights on the CPU."""
    import torch
    from moshi.models import loaders

    torch.manual_seed(0)
    mimi = loaders.get_mimi(None, device="cpu", num_codebooks=codebooks).eval()
    size = int(mimi.sample_rate / mimi.frame_rate)
    audio = 0.1 * torch.randn(sessions, 1, size)
    codes = torch.randint(0, mimi.cardinality, (sessions, codebooks, 1))
    with torch.no_grad(), mimi.streaming(sessions):
        return {
            "encode": timed(lambda frame: mimi.encode(audio), warm_up, frames),
            "decode": timed(lambda frame: mimi.decode(codes), warm_up, frames),
        }


if __name__ == "__main__":
    measure: dict[str, Callable[..., Any]] = {"lm": lm, "codec": codec}
    print(json.dumps(measure[sys.argv[1]](**json.loads(sys.argv[2]))))
