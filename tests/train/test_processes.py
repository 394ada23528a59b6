"""Processes that are killed, that hang, and that work together: `kame-jax train` itself, so these are slow."""

import json
import random
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from kame_jax.config import to_yaml
from kame_jax.errors import InputError
from kame_jax.interop import load_checkpoint
from kame_jax.model import tree
from kame_jax.train.loop import CLOCK_EVERY
from kame_jax.train.metrics import read_metrics
from kame_jax.train.processes import connect
from tests.compiled import SETTINGS
from tests.processes import environment
from tests.train.small import run_config, with_settings, write_records

TIMES = ("seconds", "frames_per_second", "audio_seconds_per_second", "memory_gib")
KILLS = 20
LIMIT = 1800
"""Seconds for anything that should happen; a machine with other work on it is slow."""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """The settings of all runs here: an evaluation every fourth step, a checkpoint every other."""
    folder = tmp_path_factory.mktemp("records")
    write_records(folder)
    settings = run_config("run", folder, checkpoint_every=2, eval_every=4)
    file = folder / "run.yaml"
    file.write_text(to_yaml(with_settings(settings, data__eval_path=str(folder))))
    return file


def started(config, folder, *overrides, devices=1, **env):
    """A process that trains."""
    quick = {name.upper(): str(value) for name, value in SETTINGS.items()}
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "kame_jax.cli.main",
            "train",
            str(config),
            f"run_dir={folder}",
            *overrides,
            "--json",
        ],
        env=environment(devices, **quick, **env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process, status=0):
    """What a process said: its result, or with another status than 0 its words on stderr."""
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == status, err[-3000:]
    return err if status else json.loads(out.splitlines()[-1])


def pair(config, folder, *overrides):
    """Two processes of one device each, which find each other and share the weights."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{found.getsockname()[1]}"
    given = {"KAME_COORDINATOR": place, "KAME_PROCESSES": "2"}
    return [
        started(config, folder, *overrides, "mesh.fsdp=2", KAME_PROCESS=str(i), **given) for i in range(2)
    ]


def until(condition, *processes):
    """Returns when the condition holds; none of the processes may end before."""
    start = time.monotonic()
    while not condition():
        for process in processes:
            assert process.poll() is None, process.communicate()[1][-3000:]
        assert time.monotonic() - start < LIMIT
        time.sleep(0.1)


@pytest.fixture
def watched():
    """Processes that a test leaves behind are ended with it."""
    processes = []
    yield processes
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.communicate()


def weights(folder):
    return {path: np.asarray(leaf) for path, leaf in tree.leaves(load_checkpoint(folder)[1]).items()}


def metrics(folder):
    lines = read_metrics(folder / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def last_step(folder):
    lines = metrics(folder) if (folder / "metrics.jsonl").is_file() else []
    return lines[-1]["step"] if lines else 0


def saved(folder):
    """The steps of complete checkpoints, and whether one was being written."""
    names = [path.name for path in (folder / "checkpoints").glob("*")]
    return sorted(int(name) for name in names if name.isdigit()), any("tmp" in name for name in names)


def check_equal(folder, other):
    """Bit for bit."""
    found, expected = weights(folder), weights(other)
    assert all(value.tobytes() == expected[path].tobytes() for path, value in found.items())
    assert metrics(folder) == metrics(other)


def check_near(folder, other):
    """The same batches, and sums of float32 in another order; what only one of them evaluated is left out."""
    found = {(line["step"], "eval/loss/total" in line): line for line in metrics(folder)}
    for line in metrics(other):
        a = found[line["step"], "eval/loss/total" in line]
        # Six steps of a large learning rate carry a rounding of 1e-7 to the losses; other rows in a batch move them by
        # 1e-2. Norms of the gradients, and the small part that is the oracle's, move more.
        losses = {name: value for name, value in line.items() if "loss/" in name and "gap" not in name}
        assert {name: a[name] for name in losses} == pytest.approx(losses, rel=1e-4, nan_ok=True)
        assert a == pytest.approx(line, rel=1e-3, abs=1e-4, nan_ok=True)
    expected = weights(other)
    for path, value in weights(folder).items():
        # AdamW moves a cell whose gradient is nothing but rounding by up to its rate, 1e-2, whatever its size.
        error = np.sqrt(np.mean(np.square(value - expected[path])))
        assert error <= 1e-3 * np.sqrt(np.mean(np.square(expected[path]))), path


@pytest.mark.slow
def test_a_run_that_is_killed_twenty_times_ends_as_if_it_never_was(config, tmp_path, watched):
    """Killed while it starts, trains, evaluates and saves."""
    rng, settings = random.Random(5), ("train.steps=120", "train.eval_every=20")
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled")}
    ended(started(config, tmp_path / "straight", *settings, "train.checkpoint_every=0", **cache))
    settings += ("train.checkpoint_every=1",)
    folder, during_save = tmp_path / "killed", 0
    for kill in range(KILLS):
        goal = last_step(folder) + rng.randrange(1, 5)
        process = started(config, folder, *settings, **cache)
        watched.append(process)
        if kill % 5 == 0:
            time.sleep(rng.uniform(0, 3))
        else:
            until(lambda goal=goal: last_step(folder) >= goal, process)
            time.sleep(rng.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        during_save += saved(folder)[1]
    assert during_save >= KILLS // 5
    ended(started(config, folder, *settings, **cache))
    check_equal(folder, tmp_path / "straight")


@pytest.mark.slow
def test_a_run_goes_on_with_other_processes_and_another_mesh(config, tmp_path):
    """One process, two, and one again."""
    ended(started(config, tmp_path / "straight", "train.steps=6"))
    folder = tmp_path / "moved"
    ended(started(config, folder, "train.steps=2"))
    assert [ended(one)["resumed_from"] for one in pair(config, folder, "train.steps=4")] == [2, 2]
    assert ended(started(config, folder, "train.steps=6"))["resumed_from"] == 4
    check_near(folder, tmp_path / "straight")


@pytest.mark.slow
def test_on_the_same_mesh_the_number_of_processes_changes_nothing_at_all(config, tmp_path):
    """Two devices of one process, then one of each of two; sums of two numbers have one order."""
    ended(started(config, tmp_path / "straight", "train.steps=8", "mesh.fsdp=2", devices=2))
    folder = tmp_path / "moved"
    ended(started(config, folder, "train.steps=4", "mesh.fsdp=2", devices=2))
    assert [ended(one)["resumed_from"] for one in pair(config, folder, "train.steps=8")] == [4, 4]
    check_equal(folder, tmp_path / "straight")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_one_of_two_processes_stops_both_after_the_same_step(config, tmp_path, watched, number):
    """However rarely they log, also in an evaluation. Their clocks make the checkpoints, compared every few steps."""
    settings = (
        "train.steps=100000",
        "train.log_every=100000",
        "train.checkpoint_every=0",
        "train.checkpoint_minutes=0.01",
        "train.eval_every=1",
    )
    processes = pair(config, tmp_path, *settings)
    watched += processes
    until(lambda: saved(tmp_path)[0], *processes)
    processes[1].send_signal(number)
    ended(processes[0], 75)
    ended(processes[1], 75 if number == signal.SIGTERM else 130)
    *before, reached = saved(tmp_path)[0]
    assert before
    assert not any(step % CLOCK_EVERY for step in before)
    later = [ended(one) for one in pair(config, tmp_path, f"train.steps={reached + 1}")]
    assert [one["resumed_from"] for one in later] == [reached, reached]
    evaluated = [
        line["step"] for line in read_metrics(tmp_path / "metrics.jsonl") if "eval/loss/total" in line
    ]
    assert evaluated == list(range(1, reached + 2))


@pytest.mark.slow
def test_a_process_that_hangs_ends_the_other_which_asks_for_a_restart(config, tmp_path, watched):
    settings = (
        "train.steps=100000",
        "train.hang_minutes=0.5",
        "train.eval_every=0",
        "train.checkpoint_every=5",
    )
    processes = pair(config, tmp_path, *settings)
    watched += processes
    until(lambda: saved(tmp_path)[0], *processes)
    processes[1].send_signal(signal.SIGSTOP)
    said = ended(processes[0], 75)
    assert "no step has ended for" in said
    processes[1].kill()
    processes[1].communicate()
    reached = saved(tmp_path)[0][-1]
    assert ended(started(config, tmp_path, f"train.steps={reached + 1}"))["resumed_from"] == reached


@pytest.mark.slow
def test_a_process_that_dies_ends_the_other(config, tmp_path, watched):
    settings = ("train.steps=100000", "train.eval_every=0", "train.checkpoint_every=5")
    processes = pair(config, tmp_path, *settings)
    watched += processes
    until(lambda: saved(tmp_path)[0], *processes)
    processes[1].kill()
    ended(processes[0], 75)
    reached = saved(tmp_path)[0][-1]
    assert ended(started(config, tmp_path, f"train.steps={reached + 1}"))["resumed_from"] == reached


@pytest.mark.slow
def test_input_that_is_bad_ends_all_processes(config, tmp_path, watched):
    processes = pair(config, tmp_path, f"data.path={tmp_path / 'nowhere'}")
    watched += processes
    first, second = (ended(process, 2) for process in processes)
    assert "nowhere: no such folder" in first
    assert "process 0 could not read the run's input" in second


@pytest.mark.parametrize(
    "given",
    [{"KAME_COORDINATOR": "host:1"}, {"KAME_PROCESSES": "2", "KAME_PROCESS": "2", "KAME_COORDINATOR": "h:1"}],
)
def test_settings_of_processes_that_do_not_fit_together_are_refused(monkeypatch, given):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="belong together"):
        connect()
