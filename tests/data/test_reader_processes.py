"""Real processes, each reading its own rows of a data set, make the same batches together, in any number."""

import subprocess
import sys

import numpy as np
import pytest

from kame_jax.config import to_yaml
from kame_jax.data.records import load_records
from kame_jax.make.dataset_writer import write_dataset
from tests.train.small import MODEL, run_config, with_settings, write_records

STEPS = 9
FACTS = {"codebooks": MODEL.n_q // 2, "card": MODEL.card, "text_card": MODEL.text_card}
EVERYTHING = {
    "data__context": 3,
    "data__speakers": ["A", "B"],
    "oracle__shift_prob": 0.7,
    "oracle__jitter": 2,
    "oracle__causal": False,
    "oracle__hint_only": True,
    "oracle__hint_warmup": [2, 6],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readers")
    for name, count in (("one", 11), ("two", 5)):
        write_records(folder / f"{name}.npzs", count=count, seed=count)
        records = load_records(folder / f"{name}.npzs")
        write_dataset(folder / name, {"train": lambda records=records: records}, FACTS, block_frames=7)
    (folder / "mix.yaml").write_text(f"{folder}/one: 2\n{folder}/two: 1\n")
    return folder


def read_by(processes, config, folder, start=0):
    """The batches from step `start` on, put together from what each process read: by name `[steps, rows, ...]`."""
    outs = [folder / f"{processes}-{start}-{i}.npz" for i in range(processes)]
    started = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.data.reader",
                config,
                str(i),
                str(processes),
                str(start),
                str(STEPS),
                out,
            ]
        )
        for i, out in enumerate(outs)
    ]
    assert [process.wait(300) for process in started] == [0] * processes
    parts = [dict(np.load(out)) for out in outs]
    frames = [part.pop("frames") for part in parts]
    if processes > 1:
        assert all((other == frames[0]).all() for other in frames), "each knows the real columns of all rows"
    return {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]} | {
        "frames": frames[0]
    }


@pytest.mark.slow
@pytest.mark.parametrize("pack", [False, True], ids=["alone", "packed"])
def test_1_2_and_4_processes_read_the_same_batches_also_from_the_middle(pack, data, tmp_path):
    config = with_settings(
        run_config(tmp_path / "run", data / "mix.yaml", batch_size=8),
        data__pack=pack,
        data__max_frames=40 if pack else 16,
        **EVERYTHING,
    )
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(config))
    whole = read_by(1, file, tmp_path)
    assert whole["inputs"].shape[:2] == (STEPS, 8)
    assert ("segments" in whole) == pack
    assert len({row.tobytes() for row in whole["oracle"].reshape(-1, whole["oracle"].shape[-1])}) > 2 * STEPS
    for processes, start in ((2, 0), (4, 0), (4, 5), (1, 3)):
        found = read_by(processes, file, tmp_path, start)
        assert sorted(found) == sorted(whole)
        for name, values in found.items():
            assert values.dtype == whole[name].dtype
            assert values.tobytes() == whole[name][start:].tobytes(), (processes, start, name)
