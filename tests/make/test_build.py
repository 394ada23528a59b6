"""Records of any source become one data set, whose dialogues are read back whole or in part."""

import dataclasses
import json
import re

import numpy as np
import pytest
import tensorflow_datasets as tfds

from kame_jax.data.dataset import Dataset, find_dataset
from kame_jax.data.events import FIELDS, pack_events
from kame_jax.data.parquet import read_parquet, write_parquet
from kame_jax.data.records import Record, load_records, save_record
from kame_jax.errors import InputError, WorkError
from kame_jax.make import build
from kame_jax.make.build import build_dataset, choose_held_out, export_parquet, open_source
from kame_jax.make.dataset_writer import write_dataset
from tests.train.small import write_records

KNOWN = {"card": 16, "text_card": 24}


def equal(one, other):
    return (
        one.id == other.id
        and all((one.tokens[s] == other.tokens[s]).all() for s in "AB")
        and all(
            np.array_equal(getattr(one.events[s], name), getattr(other.events[s], name))
            for s in "AB"
            for name in FIELDS
        )
    )


@pytest.fixture
def records(tmp_path):
    write_records(tmp_path / "records")
    return load_records(tmp_path / "records")


def test_a_data_set_gives_back_its_records(records, tmp_path):
    source = open_source(tmp_path / "records")
    report = build_dataset([source], tmp_path / "set", block_frames=8, known=KNOWN)
    assert report.splits == {"train": {"dialogues": 5, "frames": sum(r.frames for r in records)}}
    dataset = Dataset(tmp_path / "set")
    assert all(equal(dataset[i], record) for i, record in enumerate(records))
    assert [dataset.name(i) for i in range(len(dataset))] == [r.id for r in records]
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_part_of_a_dialogue_is_read_across_blocks(records, tmp_path):
    write_dataset(tmp_path / "set", {"train": lambda: records}, {}, block_frames=8)
    dataset = Dataset(tmp_path / "set")
    for start, stop in ((0, 8), (3, 5), (7, 9), (8, 12), (0, 12)):
        part = dataset.read(1, start, stop)
        for s in "AB":
            assert (part.tokens[s] == records[1].tokens[s][:, start:stop]).all()
    assert 2 not in dataset.read(1, 9, 12).events["A"].frame_pos
    assert 2 in dataset.read(1, 9, 12, history=5).events["A"].frame_pos


def test_the_description_is_that_of_tfds(records, tmp_path):
    facts = {"frame_rate": 12.5}
    write_dataset(tmp_path / "set", {"train": lambda: records, "validation": lambda: records[:2]}, facts)
    folder, split = find_dataset(tmp_path / "set")
    assert split == "train"
    builder = tfds.builder_from_directory(folder)
    assert set(builder.info.splits) == {"train", "validation"}
    assert "KAME" in builder.info.citation
    assert builder.info.metadata["splits"]["validation"]["dialogues"] == 2
    assert builder.info.metadata["frame_rate"] == 12.5
    assert {"A", "B", "A_oracle_event_use_hint"} <= set(builder.info.features)
    assert Dataset(f"{tmp_path / 'set'}:validation").fingerprint != Dataset(tmp_path / "set").fingerprint
    with pytest.raises(InputError, match="no split 'test', it has train, validation"):
        Dataset(f"{tmp_path / 'set'}:test")


def test_bad_records_are_one_line_each_and_the_rest_is_built(records, tmp_path):
    tokens = {s: t.copy() for s, t in records[0].tokens.items()}
    tokens["B"][0, 3] = 99
    save_record(tmp_path / "records", Record("outside", tokens, records[0].events))
    (tmp_path / "records" / "cut.npz").write_bytes(b"PK")
    said = []
    report = build_dataset(
        [open_source(tmp_path / "records")], tmp_path / "set", known=KNOWN, say=said.append
    )
    assert report.splits["train"]["dialogues"] == 5
    assert said == report.problems
    assert said[0].startswith("dialogue cut: ")
    assert said[1].startswith("dialogue outside: speaker B: text ids")
    assert said[1].endswith("expected 0 to 23")


def test_several_sources_make_one_set_and_a_name_counts_once(records, tmp_path):
    write_parquet(tmp_path / "files" / "part", records[:2], rows_per_file=1)
    write_records(tmp_path / "more", count=6, seed=1)
    sources = [open_source(tmp_path / "files"), open_source(tmp_path / "more")]
    report = build_dataset(sources, tmp_path / "set", known=KNOWN)
    assert len(report.problems) == 2
    assert "several of this name" in report.problems[0]
    dataset = Dataset(tmp_path / "set")
    assert len(dataset) == 6
    assert equal(dataset[0], records[0])


def test_sources_made_differently_are_refused(records, tmp_path):
    for name, cards in (("one", 16), ("two", 32)):
        write_records(tmp_path / name, count=1)
        (tmp_path / name / "settings.json").write_text(json.dumps({"card": cards, "text_card": 24}))
    with pytest.raises(InputError, match="do not fit together") as error:
        build_dataset([open_source(tmp_path / n) for n in ("one", "two")], tmp_path / "set")
    assert "card: 16 in" in error.value.problems[0]
    assert not (tmp_path / "set").exists()


def test_held_out_dialogues_are_a_function_of_names_and_seed(records, tmp_path):
    names = [f"d{i}" for i in range(40)]
    chosen = choose_held_out(names, 0.1)
    assert len(chosen) == 4
    assert chosen == choose_held_out(names, 0.1)
    assert chosen != choose_held_out(names, 0.1, seed=1)
    report = build_dataset([open_source(tmp_path / "records")], tmp_path / "set", held_out=0.2, known=KNOWN)
    assert [s["dialogues"] for s in report.splits.values()] == [4, 1]


def test_parquet_is_that_of_kame_finetune_and_comes_back_the_same(records, tmp_path):
    explicit = pack_events([1, 4], [0.5, 1.0], [0, 1], [[5], [6, 7]], [[8], []], [1, 0])
    # Where one speaker's events say what is shown, the file says it for both.
    other = dataclasses.replace(records[0].events["B"], use_hint=np.array([0, 1], np.int8))
    chosen = Record("chosen", records[0].tokens, {"A": explicit, "B": other})
    save_record(tmp_path / "records", chosen)
    files, report = export_parquet(
        [open_source(tmp_path / "records")], tmp_path / "pq" / "train", known=KNOWN
    )
    assert [f.name for f in files] == ["train-001-of-001.parquet"]
    assert report.splits["all"]["dialogues"] == 6
    back = [record for _, record in read_parquet(files[0])]
    assert all(equal(one, other) for one, other in zip(back, load_records(tmp_path / "records"), strict=True))

    import pyarrow.parquet

    table = pyarrow.parquet.read_table(files[0]).to_pylist()
    assert table[0]["dialogue_id"].endswith("/chosen")
    assert table[0]["A_oracle_event_use_hint"] == [1, 0]
    assert table[0]["B_oracle_event_use_hint"] == [0, 1]
    assert table[1]["A_oracle_event_use_hint"] is table[1]["B_oracle_event_use_hint"] is None
    assert np.array(table[1]["A"]).shape == records[0].tokens["A"].shape


def test_older_parquet_without_use_hint_or_without_events_is_read(records, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet

    (file,) = write_parquet(tmp_path / "p", records[:2])
    table = pyarrow.parquet.read_table(file)
    older = table.drop_columns([n for n in table.column_names if n.endswith("use_hint")])
    pyarrow.parquet.write_table(older, tmp_path / "older.parquet")
    assert equal(next(read_parquet(tmp_path / "older.parquet"))[1], records[0])
    plain = table.select(["dialogue_id", "A", "B"])
    pyarrow.parquet.write_table(plain, tmp_path / "plain.parquet")
    assert len(next(read_parquet(tmp_path / "plain.parquet"))[1].events["A"]) == 0
    pyarrow.parquet.write_table(pa.table({"x": [1]}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match="no column A, B, dialogue_id"):
        open_source(tmp_path / "x.parquet").names().__next__()
    (tmp_path / "y.parquet").write_text("no")
    with pytest.raises(InputError, match="cannot be read as parquet"):
        next(read_parquet(tmp_path / "y.parquet"))


def row(name, **changes):
    """A row as kame_finetune writes it."""
    grid = [[3] * 6] + [[1, 2, 3, 4, 5, 6]] * 2
    values = {"frame_pos": [2], "ratio": [1.0], "skip_forbid": [1]}
    whole = {"dialogue_id": name, "A": grid, "B": grid}
    for side in "AB":
        whole |= {f"{side}_oracle_event_{field}": value for field, value in values.items()}
        for text in ("pred", "hint"):
            whole |= {f"{side}_oracle_{text}_values": [5, 6], f"{side}_oracle_{text}_offsets": [0, 2]}
    return whole | changes


def parquet(path, rows, kind="int32", outer="list_", name=None, extra=()):
    """Writes rows with lists of another kind, numbers of another type or further columns."""
    import pyarrow as pa
    import pyarrow.parquet

    listed, number = getattr(pa, outer), getattr(pa, kind)()
    fields = [("dialogue_id", name or pa.string()), *((side, listed(listed(number))) for side in "AB")]
    for column in list(row("x"))[3:]:
        fields.append((column, listed(pa.float32() if column.endswith("ratio") else number)))
    fields += extra
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows, pa.schema(fields)), path)


GRID = row("x")["A"]
BAD_ROWS = {
    "ragged": ({"A": [GRID[0], GRID[1][:-2], GRID[2]]}, "rows of 4 to 6 frames, expected one length"),
    "absent": ({"B": None}, "not a record, it lacks B"),
    "null_row": ({"A": [GRID[0], None, GRID[2]]}, "holds a null within a list"),
    "null_value": ({"A": [GRID[0], [1, None, 3, 4, 5, 6], GRID[2]]}, "holds a null within a list"),
    "empty": ({"A": [], "B": []}, "expected [1 + codebooks, frames]"),
    "null_events": ({"A_oracle_pred_values": None}, "not a record, it lacks A_oracle_pred_values"),
    "offsets": (
        {"B_oracle_hint_offsets": [0, 3]},
        "oracle events of speaker B: columns of different lengths",
    ),
}


@pytest.mark.parametrize("bad", BAD_ROWS)
def test_a_row_that_is_no_record_is_one_line_and_the_rest_is_built(bad, tmp_path):
    changes, expected = BAD_ROWS[bad]
    parquet(tmp_path / "p.parquet", [row("a"), row("set/bad", **changes), row("c")])
    report = build_dataset([open_source(tmp_path / "p.parquet")], tmp_path / "set", known=KNOWN)
    assert [(p.startswith("dialogue bad: p.parquet: "), expected in p) for p in report.problems] == [
        (True, True)
    ]
    assert [Dataset(tmp_path / "set").name(i) for i in range(2)] == ["a", "c"]


def test_rows_without_a_name_of_their_own_are_said(tmp_path):
    parquet(tmp_path / "p.parquet", [row(None), row("one/a"), row("two/a"), row("two/"), row("b")])
    report = build_dataset([open_source(tmp_path / "p.parquet")], tmp_path / "set", known=KNOWN)
    assert sorted(line.split(": ", 1)[0] for line in report.problems) == [
        "dialogue a",
        "dialogue row 1 of p.parquet",
        "dialogue row 4 of p.parquet",
    ]
    assert len(Dataset(tmp_path / "set")) == 2


def test_lists_numbers_and_further_columns_may_be_of_any_kind(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet

    folder = tmp_path / "in"
    folder.mkdir()
    parquet(folder / "a.parquet", [row("large")], "int64", "large_list", pa.large_string())
    parquet(folder / "b.parquet", [row("unsigned")], "uint16", name=pa.dictionary(pa.int32(), pa.string()))
    parquet(folder / "c.parquet", [row("float")], "float64")
    parquet(folder / "d.parquet", [row(7)], name=pa.int64())
    parquet(folder / "e.parquet", [])
    struct = pa.struct([("w", pa.string())])
    extra = [("meta", struct), ("words", pa.list_(struct)), ("tags", pa.list_(pa.string()))]
    more = {"meta": {"w": "x"}, "words": [{"w": "x"}], "tags": ["x"]}
    parquet(folder / "f.parquet", [row("more", **more)], extra=extra)
    table = pa.Table.from_pylist([row("fixed")])
    for side in "AB":
        flat = pa.array(np.array(GRID, np.int32).reshape(-1))
        grid = pa.FixedSizeListArray.from_arrays(pa.FixedSizeListArray.from_arrays(flat, 6), 3)
        table = table.set_column(table.schema.get_field_index(side), side, grid)
    pyarrow.parquet.write_table(table, folder / "g.parquet")
    report = build_dataset([open_source(folder)], tmp_path / "set", known=KNOWN)
    assert not report.problems
    dataset = Dataset(tmp_path / "set")
    assert [dataset.name(i) for i in range(6)] == ["large", "unsigned", "float", "7", "more", "fixed"]
    assert all(equal(dataset[i], Record(dataset.name(i), *vars_of(dataset[0]))) for i in range(6))


def vars_of(record):
    return record.tokens, record.events


def test_nothing_left_to_build_is_one_line(tmp_path):
    parquet(tmp_path / "none.parquet", [])
    parquet(tmp_path / "bad.parquet", [row("a", B=None), row("b", A=None)])
    for name in ("none", "bad"):
        with pytest.raises(InputError, match="set: no dialogue is left for split train"):
            build_dataset([open_source(tmp_path / f"{name}.parquet")], tmp_path / "set", known=KNOWN)
    assert not (tmp_path / "set").exists()


def test_a_data_set_cannot_name_a_class_that_is_then_imported(records, tmp_path, monkeypatch):
    write_dataset(tmp_path / "set", {"train": lambda: records}, {})
    (tmp_path / "evil.py").write_text("open('written', 'w').write('!')\nclass Feature: pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    folder, _ = find_dataset(tmp_path / "set")
    for file in ("features.json", "dataset_info.json"):
        text = (folder / file).read_text()
        text = re.sub(r'"pythonClassName": "[^"]*"', '"pythonClassName": "evil.Feature"', text)
        text = text.replace('"name": "dialogues"', '"name": "evil.Builder", "moduleName": "evil"')
        (folder / file).write_text(text)
    assert "evil.Feature" in (folder / "features.json").read_text()
    assert equal(Dataset(tmp_path / "set")[0], records[0])
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("metadata.json", '{"block_frames": 0}', "expected a number above 0 for block_frames"),
        ("metadata.json", '{"block_frames": "x"}', "expected a number above 0 for block_frames"),
        ("metadata.json", "[]", "expected a JSON object"),
        ("metadata.json", "{}", "not a data set that can be read: 'fingerprints'"),
        ("frames-train.npy", "junk", "not a data set that can be read"),
        ("dataset_info.json", '{"splits": 3}', "not a data set that can be read"),
        (
            "dataset_info.json",
            '{"splits": [{"name": "train", "shardLengths": ["3"]}]}',
            "3 blocks in split train",
        ),
    ],
)
def test_a_damaged_data_set_is_one_line(file, content, expected, records, tmp_path):
    write_dataset(tmp_path / "set", {"train": lambda: records}, {})
    (find_dataset(tmp_path / "set")[0] / file).write_text(content)
    with pytest.raises(InputError, match=re.escape(expected)):
        Dataset(tmp_path / "set")


def test_a_failed_build_leaves_nothing(records, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="exists already"):
        build_dataset([open_source(tmp_path / "records")], tmp_path / "records", known=KNOWN)

    def fail(path):
        raise WorkError("disk")

    monkeypatch.setattr(build, "load_record", fail)
    with pytest.raises(Exception, match="disk"):
        build_dataset([open_source(tmp_path / "records")], tmp_path / "set", known=KNOWN)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["records"]


def test_what_is_no_data_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        open_source(tmp_path / "none")
    with pytest.raises(InputError, match="no records in it"):
        open_source(tmp_path)
    with pytest.raises(InputError, match="not a data set"):
        Dataset(tmp_path)
