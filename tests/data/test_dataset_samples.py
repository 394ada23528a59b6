"""Samples read from a data set are those made in memory; batches of any number of processes are the same batches."""

import dataclasses
import hashlib
import itertools

import numpy as np
import pytest

from kame_jax.data.collate import UNDISTURBED, collate_row, oracle_row
from kame_jax.data.cutting import Cut, make_samples
from kame_jax.data.dataset_samples import DatasetSamples, MixedSamples, open_samples
from kame_jax.data.events import pack_events
from kame_jax.data.packing import pack
from kame_jax.data.pipeline import eval_batches, longest, train_batches
from kame_jax.data.records import Record, load_records
from kame_jax.errors import InputError
from kame_jax.make.dataset_writer import write_dataset
from kame_jax.oracle.schedule import OracleSchedule
from kame_jax.train.corpus import fingerprint, preset_note
from tests.train.small import MODEL, run_config, write_records

SCHEDULE = OracleSchedule(MODEL.text_card, 3)
AUGMENT = dataclasses.replace(
    UNDISTURBED, shift_prob=0.5, right_shift=(1, 3), left_shift=(1, 3), skip=(0.0, 0.5), jitter=2
)
FACTS = {"codebooks": MODEL.n_q // 2, "card": MODEL.card, "text_card": MODEL.text_card}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    write_records(folder, count=9)
    return load_records(folder)


@pytest.fixture(scope="module")
def path(records, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored") / "set"
    splits = {"train": lambda: records, "validation": lambda: records[:2]}
    write_dataset(folder, splits, FACTS, block_frames=5)
    return folder


def same(one, other):
    return all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "cut",
    [
        Cut(),
        Cut(9),
        Cut(9, 8),
        Cut(12, context=4, carry_oracle=True, mask_fill=True),
        Cut(8, 5, context=2, carry_oracle=True),
    ],
)
def test_samples_on_disk_are_those_in_memory(records, path, cut):
    stored = DatasetSamples(path, MODEL, ("B", "A"), cut)
    made = make_samples(records, MODEL, speakers=("B", "A"), cut=cut)
    assert len(stored) == len(made)
    assert stored.lengths().tolist() == [s.columns.shape[1] for s in made]
    assert max(stored.lengths()) <= stored.longest <= max(stored.lengths()) + 2
    for one, other in zip(stored, made, strict=True):
        assert one.id == other.id
        assert (one.columns == other.columns).all()
        assert (one.labels == other.labels).all()
        assert same(collate_row(one, 30, SCHEDULE), collate_row(other, 30, SCHEDULE))


def test_pieces_with_context_repeat_it_unlearnt_and_cover_every_column_once(records):
    cut = Cut(10, context=3)
    whole = make_samples(records[:1], MODEL)[0]
    pieces = make_samples(records[:1], MODEL, cut=cut)
    new = [pieces[0].columns] + [piece.columns[:, 3:] for piece in pieces[1:]]
    assert (np.concatenate(new, axis=1) == whole.columns).all()
    for before, piece in itertools.pairwise(pieces):
        assert (piece.columns[:, :3] == before.columns[:, -3:]).all()
        assert (piece.labels[:, :3] == -1).all()
        assert piece.columns.shape[1] <= 10


def test_an_answer_over_a_cut_goes_on_only_when_it_is_carried():
    tokens = {s: np.zeros((3, 20), np.int32) for s in "AB"}
    events = pack_events([7], [1.0], [1], [[5, 6, 7, 8, 9, 10]], [[]])
    record = Record("r", tokens, {"A": events, "B": events})
    rows = {}
    for carried in (False, True):
        pieces = make_samples([record], MODEL, cut=Cut(11, carry_oracle=carried))
        rows[carried] = [oracle_row(piece, SCHEDULE).tolist() for piece in pieces]
    assert rows[False][1] == [3] * 11
    assert rows[True][0] == rows[False][0]
    assert rows[True][0][-3:] == [MODEL.text_card, 5, 6]
    assert rows[True][1][:5] == [7, 8, 9, 10, 3]


def test_the_fill_behind_the_last_frame_is_a_label_unless_masked(records):
    plain, masked = (make_samples(records, MODEL, cut=Cut(mask_fill=mask)) for mask in (False, True))
    for one, other, record in zip(plain, masked, records):
        assert (one.labels[0, 1 + record.frames :] == 3).all()
        assert (other.labels[0, 1 + record.frames :] == -1).all()
        assert (one.labels[0, : 1 + record.frames] == other.labels[0, : 1 + record.frames]).all()


def batches(samples, **options):
    settings = {"batch_size": 4, "length": 24, "seed": 3, "augment": AUGMENT} | options
    return train_batches(samples, SCHEDULE, **settings)


def test_processes_together_make_the_batch_of_one(path):
    samples = DatasetSamples(path, MODEL, cut=Cut(20, carry_oracle=True))
    whole = batches(samples)
    parts = [(rows, batches(samples, rows=rows)) for rows in ([0, 2], [1], [3])]
    for step in (0, 5, 31):
        batch = whole[step]
        for rows, part in parts:
            mine = part[step]
            assert (mine["frames"] == batch["frames"]).all()
            assert all((mine[n] == batch[n][rows]).all() for n in ("inputs", "labels", "oracle"))


def test_a_mixture_draws_by_its_weights_and_shows_each_part_whole(path, tmp_path):
    write_records(tmp_path / "more", count=3, seed=1)
    other = load_records(tmp_path / "more")
    write_dataset(tmp_path / "other", {"train": lambda: other}, FACTS)
    (tmp_path / "mix.yaml").write_text(f"{path}: 1\nother: 3\n")
    mixed = open_samples(tmp_path / "mix.yaml", MODEL)
    assert isinstance(mixed, MixedSamples)
    assert len(mixed) == 12
    assert mixed[10].id == "d1/A/0"
    data = batches(mixed, augment=UNDISTURBED)
    keys = {same_key(mixed[i]): i for i in range(len(mixed))}
    drawn = [keys[bytes(row)] for step in range(30) for row in data[step]["inputs"].copy()]
    assert abs(sum(i >= 9 for i in drawn) - 90) <= 1
    first = [i for i in drawn if i < 9][:9]
    assert sorted(first) == list(range(9))
    assert same(data[7], batches(mixed, augment=UNDISTURBED)[7])


def digest(data, steps=range(0, 60, 7)):
    """A short name for everything that some batches hold."""
    arrays = (batch[name] for batch in (data[step] for step in steps) for name in sorted(batch))
    return hashlib.sha256(b"".join(np.ascontiguousarray(a, "<i4").tobytes() for a in arrays)).hexdigest()[:16]


def test_batches_are_those_of_all_earlier_runs(records, path, tmp_path):
    """A run that continues from a checkpoint of an earlier version reads the rows that it would have read there."""
    write_dataset(tmp_path / "other", {"train": lambda: records[:3]}, FACTS)
    (tmp_path / "mix.yaml").write_text(f"{path}: 1\nother: 3\n")
    cut = Cut(14, context=2, carry_oracle=True)
    stored, mixed = DatasetSamples(path, MODEL, ("A", "B"), cut), open_samples(tmp_path / "mix.yaml", MODEL)
    made = make_samples(records, MODEL, speakers=("A", "B"), cut=cut)
    found = {
        "in memory": digest(batches(made)),
        "on disk": digest(batches(stored)),
        "of a process": digest(batches(stored, rows=[0, 3])),
        "mixed": digest(batches(mixed)),
        "packed": digest(batches(mixed, length=48, packed=True)),
        "packed, of a process": digest(batches(mixed, length=48, packed=True, rows=[2])),
        "evaluated": digest(list(eval_batches(stored, SCHEDULE, batch_size=4, length=24)), range(5)),
    }
    assert found == {
        "in memory": "463ebfb2cc95d476",
        "on disk": "463ebfb2cc95d476",
        "of a process": "b3f3725a22805700",
        "mixed": "378b8c2f321cb0e8",
        "packed": "500f61da09fbb330",
        "packed, of a process": "1ef442b53bfc1c6a",
        "evaluated": "b572dc363cfd05c2",
    }


def same_key(sample):
    """What a sample looks like in a batch."""
    return bytes(collate_row(sample, 24, SCHEDULE)["inputs"])


def test_packed_rows_hold_every_sample_once_an_epoch(path):
    samples = DatasetSamples(path, MODEL)
    data = batches(samples, length=48, packed=True, augment=UNDISTURBED, batch_size=1)
    lengths = samples.lengths()
    plan = pack(lengths, 48, 3)
    assert sorted(np.concatenate(list(plan)).tolist()) == list(range(len(samples)))
    assert len(plan) < len(samples)
    assert all(lengths[row].sum() <= 48 for row in plan)
    frames = [int(data[step]["frames"][0]) for step in range(len(plan))]
    assert sum(frames) == lengths.sum()
    row = data[next(i for i, count in enumerate(frames) if count > lengths.max())]
    index = next(r for r in plan if len(r) > 1 and same_start(samples[int(r[0])], row))
    seam = int(lengths[index[0]])
    assert (row["labels"][0, :, seam] == -1).all()
    alone = collate_row(samples[int(index[1])], 48, SCHEDULE)
    size = int(lengths[index[1]])
    assert (row["inputs"][0, :, seam : seam + size] == alone["inputs"][:, :size]).all()
    assert (row["oracle"][0, seam : seam + size] == alone["oracle"][:size]).all()


def same_start(sample, row):
    count = sample.columns.shape[1]
    return (row["inputs"][0, :, :count] == sample.columns).all()


def test_splits_and_fingerprints(path, records):
    train, validation = (open_samples(f"{path}{split}", MODEL) for split in ("", ":validation"))
    assert (len(train), len(validation)) == (9, 2)
    assert fingerprint(train) != fingerprint(validation)
    assert fingerprint(train) != fingerprint(DatasetSamples(path, MODEL, cut=Cut(9)))
    assert longest(train) == longest(make_samples(records, MODEL))
    seen = list(eval_batches(validation, SCHEDULE, batch_size=4, length=24))
    assert seen[0]["frames"].tolist() == [s.columns.shape[1] for s in validation] + [0, 0]


def test_what_does_not_fit_is_said(path, tmp_path):
    with pytest.raises(InputError, match="does not fit the model: codebooks 2, the model has 3"):
        DatasetSamples(path, dataclasses.replace(MODEL, n_q=6, dep_q=3, delays=(0,) * 7))
    few = DatasetSamples(path, dataclasses.replace(MODEL, n_q=2, dep_q=1, delays=(0, 0, 1)))
    assert (few[0].columns[1] == DatasetSamples(path, MODEL)[0].columns[1, : few[0].columns.shape[1]]).all()
    with pytest.raises(InputError, match="has no piece of data.min_frames"):
        DatasetSamples(path, MODEL, cut=Cut(9, 9, context=1))
    with pytest.raises(InputError, match="context 9: expected less than max_frames"):
        Cut(9, context=9)
    assert open_samples(tmp_path, MODEL) is None
    for text, expected in (
        ("[", "not valid YAML"),
        ("a: b", "expected lines"),
        (f"{path}: 0", "above 0"),
        (f"{path}: 1e999", "above 0"),
        (f"{path}: !!python/name:os.system", "not valid YAML"),
    ):
        (tmp_path / "mix.yaml").write_text(text)
        with pytest.raises(InputError, match=expected):
            open_samples(tmp_path / "mix.yaml", MODEL)
    with pytest.raises(InputError, match="no such file"):
        open_samples(tmp_path / "none.yaml", MODEL)


def test_a_run_says_when_its_preset_is_not_that_of_its_data(records, tmp_path):
    for name, on in (("reference", False), ("kame-jax", True)):
        write_dataset(tmp_path / name, {"train": lambda: records}, FACTS | {"rules": {"sort_words": on}})
    config = run_config(tmp_path, tmp_path)
    reference = dataclasses.replace(config.oracle, tail="keep", causal=False)
    data = dataclasses.replace(config.data, rules="reference", carry_oracle=False, mask_fill=False)
    other = dataclasses.replace(config, oracle=reference, data=data)
    stored = {name: DatasetSamples(tmp_path / name, MODEL) for name in ("reference", "kame-jax")}
    assert preset_note(stored["reference"], other) is preset_note(stored["kame-jax"], config) is None
    assert "preset=reference trains with the same rules" in preset_note(stored["reference"], config)
    assert "was made with preset kame-jax" in preset_note(stored["kame-jax"], other)
