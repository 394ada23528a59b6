"""Run as a program: one process of a small run. Arguments: run folder, records, steps, mesh.fsdp.

Connects to its fellow processes as `kame-jax train` does, and prints the result as JSON.
"""

import json
import sys

import jax

from kame_jax.train.processes import connect
from tests.train.conftest import SETTINGS
from tests.train.small import run_config, with_settings


def main(folder, data, steps, fsdp):
    """Train."""
    for name, value in SETTINGS.items():
        jax.config.update(name, value)
    connect()
    from kame_jax.train.loop import run
    from kame_jax.train.metrics import Silent

    config = run_config(folder, data, steps=int(steps), checkpoint_every=2, eval_every=4)
    config = with_settings(config, data__eval_path=data, mesh__fsdp=int(fsdp))
    print(json.dumps({"resumed_from": run(config, progress=Silent())["resumed_from"]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
