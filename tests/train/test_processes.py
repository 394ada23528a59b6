"""Processes that are killed, and processes that work together; each in a program of its own, so these are slow."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from kame_jax.errors import InputError
from kame_jax.interop import load_checkpoint, tree
from kame_jax.train.metrics import read_metrics
from kame_jax.train.processes import connect
from tests.train.small import write_records

ROOT = Path(__file__).parents[2]
TIMES = ("seconds", "frames_per_second", "audio_seconds_per_second", "memory_gib")
KILLS = 20


def started(folder, data, steps, *, fsdp=1, cache=None, **env):
    """A process that trains."""
    settings = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)} | env
    if cache:
        settings |= {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.train.worker", str(folder), str(data), str(steps), str(fsdp)],
        env=os.environ | settings,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process, timeout=600):
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == 0, err[-3000:]
    return json.loads(out.splitlines()[-1])


def weights(folder):
    return {path: np.asarray(leaf) for path, leaf in tree.leaves(load_checkpoint(folder)[1]).items()}


def metrics(folder):
    lines = read_metrics(folder / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    write_records(folder)
    return folder


@pytest.mark.slow
def test_a_run_that_is_killed_twenty_times_ends_as_if_it_never_was(data, tmp_path):
    steps, cache, rng = 60, tmp_path / "compiled", random.Random(5)
    start = time.monotonic()
    ended(started(tmp_path / "straight", data, steps, cache=cache))
    whole = time.monotonic() - start
    expected = weights(tmp_path / "straight")

    def check(folder):
        found = weights(folder)
        assert all(value.tobytes() == expected[path].tobytes() for path, value in found.items())
        assert metrics(folder) == metrics(tmp_path / "straight")

    kills = runs = 0
    while kills < KILLS:
        folder = tmp_path / f"killed{runs}"
        process = started(folder, data, steps, cache=cache)
        # Anywhere in its life: while it starts, trains, evaluates and saves. Checkpoints come every other step.
        try:
            ended(process, timeout=rng.uniform(0.2, 0.9) * whole)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
        else:
            check(folder)
            runs += 1
    last = tmp_path / f"killed{runs}"
    ended(started(last, data, steps, cache=cache))
    check(last)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def together(folder, data, steps):
    """Two processes of one device each, which find each other and share the weights."""
    place = f"127.0.0.1:{free_port()}"
    processes = [
        started(
            folder, data, steps, fsdp=2, KAME_COORDINATOR=place, KAME_PROCESSES="2", KAME_PROCESS=str(index)
        )
        for index in range(2)
    ]
    return [ended(process) for process in processes]


@pytest.mark.slow
def test_two_processes_train_evaluate_and_save_together_and_one_goes_on_alone(data, tmp_path):
    ended(started(tmp_path / "alone", data, 6))
    together(tmp_path / "both", data, 4)
    [result] = [ended(started(tmp_path / "both", data, 6))]
    assert result["resumed_from"] == 4
    found, expected = metrics(tmp_path / "both"), metrics(tmp_path / "alone")
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    for a, b in zip(found, expected, strict=True):
        # float32 sums in another order, over six steps of a large learning rate.
        assert a == pytest.approx(b, rel=1e-3, abs=1e-5, nan_ok=True)
    later = together(tmp_path / "both", data, 8)
    assert [one["resumed_from"] for one in later] == [6, 6]


@pytest.mark.parametrize(
    "given",
    [{"KAME_COORDINATOR": "host:1"}, {"KAME_PROCESSES": "2", "KAME_PROCESS": "2", "KAME_COORDINATOR": "h:1"}],
)
def test_settings_of_processes_that_do_not_fit_together_are_refused(monkeypatch, given):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="belong together"):
        connect()
