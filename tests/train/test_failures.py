"""What a run meets on bad days: each ends it with one line and a status, and leaves the earlier checkpoints whole."""

import os
import resource
import shutil
import signal

import numpy as np
import pytest

from kame_jax.cli.main import main
from kame_jax.config import to_yaml
from kame_jax.data.records import load_records
from kame_jax.interop import load_checkpoint
from kame_jax.make.dataset_writer import write_dataset
from kame_jax.model import tree
from kame_jax.train.loop import run
from kame_jax.train.metrics import Silent, read_metrics
from kame_jax.train.progress import Terminal
from tests.train.small import MODEL, run_config, with_settings, write_records


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data set on disk, whose blocks are read as they are needed."""
    folder = tmp_path_factory.mktemp("data")
    write_records(folder / "records")
    facts = {"codebooks": MODEL.n_q // 2, "card": MODEL.card, "text_card": MODEL.text_card}
    write_dataset(folder / "set", {"train": lambda: load_records(folder / "records")}, facts)
    return folder / "set"


@pytest.fixture(scope="module")
def begun(data, tmp_path_factory):
    """Three of six steps."""
    folder = tmp_path_factory.mktemp("begun")
    config = run_config(folder, data)
    run(with_settings(config, train__steps=3), progress=Silent())
    return folder


@pytest.fixture
def again(begun, data, tmp_path):
    """The run's folder, the file of its settings, and a data set of its own."""
    shutil.copytree(begun, tmp_path / "run")
    shutil.copytree(data, tmp_path / "set")
    config = tmp_path / "run.yaml"
    config.write_text(to_yaml(run_config(tmp_path / "run", tmp_path / "set")))
    return tmp_path / "run", config


def train(config, *overrides, capsys):
    """The status of `kame-jax train`, and the last line that it said."""
    status = main(["train", str(config), *overrides])
    return status, capsys.readouterr().err.splitlines()[-1]


def weights(folder):
    return {path: np.asarray(leaf) for path, leaf in tree.leaves(load_checkpoint(folder)[1]).items()}


def same(one, other):
    found, expected = weights(one), weights(other)
    return all(value.tobytes() == expected[path].tobytes() for path, value in found.items())


@pytest.fixture
def limit_files(monkeypatch):
    """Files may not grow beyond a size once the fourth step is logged: a limit of the system, for want of a small disk.

    A size of None takes the limit back.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = None
    show = Terminal.step

    def step(self, line, total):
        if line["step"] == 4 and size is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        show(self, line, total)

    def limit(to):
        nonlocal size
        size = to
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    monkeypatch.setattr(Terminal, "step", step)
    yield limit
    limit(None)


def test_a_checkpoint_without_room_ends_the_run_which_continues_when_there_is_room(
    again, begun, limit_files, capsys, caplog
):
    folder, config = again
    limit_files(30_000)
    status, line = train(config, capsys=capsys)
    assert status == 1
    assert not [record for record in caplog.records if record.name == "absl"]  # Orbax, in pages
    # A full disk says "No space left on device".
    assert line == (
        f"kame-jax: {folder / 'checkpoints'}: a checkpoint cannot be written: File too large. Earlier ones are "
        "unaffected: make room, and the same command continues from the newest"
    )
    assert [path.name for path in (folder / "checkpoints").iterdir() if path.name.isdigit()] == ["3"]
    assert same(folder, begun)
    limit_files(None)
    assert train(config, capsys=capsys)[0] == 0
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["3", "6"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_before_there_is_anything_to_save_asks_for_the_same_command_again(
    again, monkeypatch, number
):
    before = signal.getsignal(number)
    monkeypatch.setattr("kame_jax.train.malloc.keep_freed_memory", lambda: signal.raise_signal(number))
    assert (main(["train", str(again[1])]), signal.getsignal(number)) == (75, before)


def test_lines_of_metrics_that_are_damaged_are_left_out(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'{"step": 1, "loss/total": 2.0}\n[1]\n7\n{"loss": 1}\n\xff\xfe\n{"step": 2, "loss/to')
    assert read_metrics(file) == [{"step": 1, "loss/total": 2.0}]


def test_metrics_without_room_end_the_run(again, begun, limit_files, capsys):
    folder, config = again
    limit_files(100)
    status, line = train(config, capsys=capsys)
    assert status == 1
    assert line.startswith(
        f"kame-jax: {folder / 'metrics.jsonl'}: a line cannot be written: File too large. "
    )
    assert same(folder, begun)


def damaged(how, file):
    if how == "gone":
        file.unlink()
    elif how == "cut off":
        os.truncate(file, file.stat().st_size // 2)
    else:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 255
        file.write_bytes(content)


@pytest.mark.parametrize("how", ["gone", "cut off", "one byte"])
def test_a_shard_that_cannot_be_read_is_named(again, begun, capsys, how):
    folder, config = again
    shard = next((folder.parent / "set").rglob("*array_record*"))
    damaged(how, shard)
    status, line = train(config, capsys=capsys)
    assert status == 2
    assert f"{shard.parent}: block " in line
    assert "of split train cannot be read, its file is damaged or gone" in line
    assert same(folder, begun)


def test_a_loss_that_is_no_number_is_said_with_its_step(again, begun, capsys):
    folder, config = again
    status, line = train(config, "optimizer.learning_rate=1e30", "optimizer.warmup_steps=0", capsys=capsys)
    assert status == 1
    assert "not a finite number; the last checkpoint is from before" in line
    assert same(folder, begun)
