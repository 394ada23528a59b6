"""Work is not lost: damaged checkpoints, the best ones, time, a moving average, silence; and nothing runs twice."""

import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kame_jax.checkpoint.checksum import checksum
from kame_jax.cli.train import _text as train_text
from kame_jax.errors import PREEMPTED, InputError
from kame_jax.interop import load_checkpoint
from kame_jax.model import tree
from kame_jax.sharding import make_mesh
from kame_jax.train import loop
from kame_jax.train.loop import run
from kame_jax.train.metrics import Silent, read_metrics
from kame_jax.train.processes import alone_in
from kame_jax.train.step import ARRAYS
from tests.train.small import SignalAt, run_config, with_settings, write_records


class Notes(Silent):
    """Remembers the messages."""

    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    write_records(folder)
    return folder


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """Four steps with a moving average, evaluated at each, the best kept."""
    folder = tmp_path_factory.mktemp("run")
    config = run_config(
        folder, data, steps=4, checkpoint_every=1, eval_every=1, keep_checkpoints=2, keep_best=1, ema=0.5
    )
    config = with_settings(config, data__eval_path=str(data))
    return config, folder, run(config, progress=Silent())


def weights(folder):
    return {
        path: np.asarray(leaf) for path, leaf in tree.leaves(load_checkpoint(folder, lora="keep")[1]).items()
    }


def damaged(how, step):
    files = sorted(path for path in (step / "params").rglob("*") if path.is_file())
    largest = max(files, key=lambda path: path.stat().st_size)
    if how == "missing":
        shutil.rmtree(step / "opt")
    elif how == "cut off":
        largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    else:
        content = bytearray(largest.read_bytes())
        content[len(content) // 2] ^= 1
        largest.write_bytes(content)


@pytest.mark.parametrize("how", ["missing", "cut off", "one bit"])
def test_a_damaged_checkpoint_is_said_and_the_one_before_it_is_used(finished, tmp_path, how):
    config, folder, _ = finished
    again = tmp_path / "run"
    shutil.copytree(folder, again)
    damaged(how, again / "checkpoints" / "4")
    notes = Notes()
    result = run(with_settings(config, run_dir=str(again)), progress=notes)
    assert result["resumed_from"] == 3
    assert any("checkpoints/4: damaged, so the checkpoint before it is used" in text for text in notes.said)
    assert (again / "checkpoints" / "4.damaged").is_dir()
    expected = weights(folder)
    assert all(value.tobytes() == expected[path].tobytes() for path, value in weights(again).items())


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_over(finished, tmp_path):
    config, folder, _ = finished
    again = tmp_path / "run"
    shutil.copytree(folder, again)
    for step in (again / "checkpoints").iterdir():
        damaged("missing", step)
    with pytest.raises(InputError, match="every checkpoint is damaged"):
        run(with_settings(config, run_dir=str(again)), progress=Silent())


def test_two_runs_in_one_folder_are_refused(finished):
    config, folder, _ = finished
    with alone_in(folder), pytest.raises(InputError, match="another run is using it"):
        run(config, progress=Silent())


def test_a_folder_in_which_nothing_was_begun_is_not_left_behind(tmp_path):
    with alone_in(tmp_path / "a" / "run"):
        assert (tmp_path / "a" / "run").is_dir()
    assert not (tmp_path / "a" / "run").exists()


def test_a_run_that_had_ended_says_so_and_gives_no_figures_of_another_step(finished):
    config, _, result = finished
    again = run(config, progress=Silent())
    assert (again["resumed_from"], again["evaluation"]) == (4, result["evaluation"])
    assert train_text(again).startswith(
        f"step 4: loss {result['metrics']['loss/total']:.4f} (the run had ended"
    )
    lines = [{"step": 3, "eval/loss/total": 1.0}, {"step": 4, "loss/total": 2.0}]
    log = SimpleNamespace(lines=lambda: lines, meter=SimpleNamespace(seconds=1.0))
    assert loop._result(config, log, 3, 4, 1, 1)["evaluation"] is None


def test_the_newest_and_the_best_checkpoints_stay(finished):
    _, folder, _ = finished
    lines = [line for line in read_metrics(folder / "metrics.jsonl") if "eval/loss/total" in line]
    best = min(lines, key=lambda line: line["eval/loss/total"])["step"]
    kept = {int(path.name) for path in (folder / "checkpoints").iterdir()}
    assert kept == {3, 4, best}


def test_a_moving_average_is_evaluated_and_is_a_checkpoint_at_the_end(finished):
    _, folder, result = finished
    assert result["evaluation"]["eval/ema/loss/total"] != result["evaluation"]["eval/loss/total"]
    averaged, last = weights(folder / "ema"), weights(folder)
    assert averaged.keys() == last.keys()
    assert any((averaged[path] != last[path]).any() for path in last)


def test_time_alone_makes_a_checkpoint(data, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_minutes_since", lambda moment: 7.5)
    run(run_config(tmp_path, data, steps=2, checkpoint_every=0, checkpoint_minutes=7.0), progress=Silent())
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"1", "2"}


@pytest.fixture
def program_of(monkeypatch):
    """Changes the program of the next run: its step is what a function makes of it."""
    original = loop.make_program

    def change(wrap):
        def make(*args):
            program = original(*args)
            return program._replace(step=wrap(program.step))

        monkeypatch.setattr(loop, "make_program", make)

    return change


class Lines(Silent):
    """Notes the lines of metrics in a list."""

    def __init__(self, events):
        self.events = events

    def step(self, line, total):
        self.events.append(f"line {line['step']}")


def test_a_step_is_read_when_the_next_is_under_way_and_after_the_first_ones_nothing_compiles(
    data, tmp_path, program_of
):
    events = []

    def noting(step):
        def call(state, batch):
            events.append("step")
            return step(state, batch)

        return call

    def heard(name, seconds, **facts):
        if name == "/jax/core/compile/backend_compile_duration":
            events.append("compiled")

    program_of(noting)
    jax.monitoring.register_event_duration_secs_listener(heard)
    try:
        run(run_config(tmp_path, data, steps=6, checkpoint_every=0), progress=Lines(events))
    finally:
        jax.monitoring.unregister_event_duration_listener(heard)
    first, last = events.index("line 2"), events.index("line 5")
    assert "compiled" in events[:first]
    assert events[first - 1 : last + 1] == [
        "step",
        "line 2",
        "step",
        "line 3",
        "step",
        "line 4",
        "step",
        "line 5",
    ]


def test_a_hidden_copy_to_the_devices_is_refused(data, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "put_batch", lambda batch, mesh, size: {name: batch[name] for name in ARRAYS})
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        run(run_config(tmp_path, data, steps=2), progress=Silent())


FROZEN = ("temporal", "depth", "embeddings", "oracle")
COMBINATIONS = {
    "adapters alone": {
        "model__lora": {"rank": 2, "scaling": 2.0},
        **{f"optimizer__{group}__freeze": True for group in FROZEN},
        "train__frozen_dtype": "bfloat16",
        "train__remat": "attention",
        "train__loss_chunks": 2,
    },
    "everything": {
        "model__oracle": "tie",
        "model__dep_q": 4,
        "train__micro_batches": 2,
        "train__remat": "full",
        "loss__normalise": "micro_batch",
        "optimizer__schedule": "cosine",
        "optimizer__embeddings__learning_rate": 1e-3,
        "dropout__text": 0.5,
        "dropout__code": 0.1,
        "data__pack": True,
    },
}


@pytest.mark.parametrize("name", ["adapters alone", pytest.param("everything", marks=pytest.mark.slow)])
def test_settings_go_together_and_continue_bit_for_bit(data, tmp_path, name):
    """All with a moving average, moments and activations in bfloat16."""
    straight, stopped = (
        with_settings(
            run_config(tmp_path / folder, data, steps=4, checkpoint_every=2, ema=0.5, dtype="bfloat16"),
            optimizer__moments="bfloat16",
            optimizer__warmup_steps=0,
            **COMBINATIONS[name],
        )
        for folder in ("straight", "stopped")
    )
    run(straight, progress=Silent())
    hung_up = SignalAt(1, signal.SIGHUP)
    with pytest.raises(SystemExit) as ending:
        run(stopped, progress=hung_up)
    assert ending.value.code == PREEMPTED
    assert hung_up.said[-1].endswith("which is saved: the same command continues")
    assert run(stopped, progress=Silent())["resumed_from"] in (1, 2)
    for place in ("checkpoints/4", "ema"):
        expected, found = (weights(tmp_path / folder / place) for folder in ("straight", "stopped"))
        assert all(value.tobytes() == found[path].tobytes() for path, value in expected.items())
    second, last = (weights(tmp_path / "straight" / "checkpoints" / step) for step in "24")
    moved = {path for path in last if (second[path] != last[path]).any()}
    adapters = {path for path in last if path.endswith(("lora_a", "lora_b"))}
    kept = {path: value.dtype for path, value in last.items() if path not in (adapters or last)}
    if adapters:
        assert moved <= adapters
        assert set(kept.values()) == {jnp.dtype("bfloat16")}
    assert {last[path].dtype for path in adapters or last} == {np.dtype("float32")}
    assert len(moved) > len(adapters or last) // 2


def test_a_run_in_which_nothing_learns_is_refused(data, tmp_path):
    groups = {f"optimizer__{name}__freeze": True for name in ("temporal", "depth", "embeddings", "oracle")}
    with pytest.raises(InputError, match="every group that the model has is frozen"):
        run(with_settings(run_config(tmp_path / "run", data), **groups), progress=Silent())
    assert not (tmp_path / "run").exists()


def test_a_checksum_is_of_the_bits_and_of_their_places():
    x = np.arange(24, dtype=np.float32).reshape(4, 6)
    assert checksum([x]) == checksum([jax.device_put(x, make_mesh().devices.flat[0])])
    flipped = x.copy()
    flipped.view(np.uint32)[2, 3] ^= 1 << 30
    assert checksum([flipped]) != checksum([x]) != checksum([x[::-1]])
    assert checksum([x[:, ::-1]]) != checksum([x])


def test_silence_ends_the_process_with_the_status_of_a_restart():
    """Half a second more than a step is allowed to what compiles."""
    code = (
        "import time\n"
        "from kame_jax.train.watchdog import Watchdog\n"
        "with Watchdog(0.4 / 60, allowance=0.5 / 60) as dog:\n"
        "    time.sleep(0.6); dog.alive()\n"
        "    for _ in range(3):\n        time.sleep(0.25); dog.alive()\n"
        "    dog.be_patient(); time.sleep(0.6); dog.alive()\n"
        "    print('alive', flush=True)\n"
        "    time.sleep(60)\n"
    )
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 75
    assert done.stdout == "alive\n"
    assert "no step has ended for" in done.stderr
    assert "time.sleep" in done.stderr or "Thread" in done.stderr
    assert time.monotonic() - start < 50
