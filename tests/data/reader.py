"""One process of several that feed a run: reads its own rows of the batches of some steps, and leaves them in a file.

Usage: reader.py CONFIG PROCESS PROCESSES START STOP OUT
"""

import sys

import numpy as np

from kame_jax.config import load_run
from kame_jax.data.pipeline import read_ahead, train_batches
from kame_jax.train.corpus import read_samples, schedule_of


def read(path, process, processes, start, stop):
    """The rows of this process: arrays `[steps, its rows, ...]` by name."""
    config = load_run(path)
    samples = read_samples(config.data.path, config)
    share = config.train.batch_size // processes
    batches = train_batches(
        samples,
        schedule_of(config.model, config.oracle.tail),
        batch_size=config.train.batch_size,
        length=config.data.max_frames,
        seed=config.seed,
        augment=config.oracle,
        rows=range(process * share, (process + 1) * share),
        packed=config.data.pack,
    )
    steps = list(read_ahead(batches, start, stop, threads=2))
    return {name: np.stack([step[name] for step in steps]) for name in steps[0]}


if __name__ == "__main__":
    path, *numbers, out = sys.argv[1:]
    np.savez(out, **read(path, *map(int, numbers)))
