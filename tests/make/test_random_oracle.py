"""The random strategy and the flags it sets equal kame_finetune's, from its files to the rows that training reads."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from kame_jax.config import ModelConfig, OracleConfig, TransformerConfig
from kame_jax.data.collate import UNDISTURBED, collate_row
from kame_jax.data.cutting import Cut, make_samples
from kame_jax.data.events import FIELDS, UNSAID, build_events
from kame_jax.data.parquet import read_parquet, write_parquet
from kame_jax.demo.dialogues import TOKENIZER
from kame_jax.make.oracles import OracleRecipe, make_oracles
from kame_jax.make.rules import PRESETS
from kame_jax.oracle.schedule import OracleSchedule
from kame_jax.oracle.text import load_tokenizer

FOLDER = Path(__file__).parents[1] / "golden" / "data"
MADE = json.loads((FOLDER / "random.json").read_text())
ROWS = json.loads((FOLDER / "use_hint.json").read_text())
PARQUET = FOLDER / "use_hint.parquet"
AUGMENTS = {
    "plain": UNDISTURBED,
    "reference": OracleConfig(causal=False),
    "skips": replace(UNDISTURBED, skip=(0.9, 0.95), jitter=3),
    "hints": replace(UNDISTURBED, hint_only=True, skip=(0.0, 0.5), jitter=3),
}


def flagged(record):
    return any((events.use_hint != UNSAID).any() for events in record.events.values())


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(TOKENIZER)


def test_files_equal_the_references_byte_for_byte(tmp_path, tokenizer):
    (tmp_path / "text").mkdir()
    for name, words in MADE["texts"].items():
        (tmp_path / "text" / f"{name}.json").write_text(json.dumps(words))
    job = OracleRecipe("random", PRESETS["reference"], seed=MADE["seed"])
    report = asyncio.run(make_oracles(tmp_path, job, tokens=tokenizer.encode))
    assert report.made == len(MADE["texts"])
    hints = 0
    for name, text in MADE["files"].items():
        assert (tmp_path / "oracle_raw" / f"{name}.json").read_bytes() == text.encode(), name
        hints += text.count('"use_hint": true')
    assert hints > 10


def test_events_keep_the_flags_of_their_records(tokenizer):
    records = {record.id: record for _, record in read_parquet(PARQUET)}
    kept = 0
    for name, record in records.items():
        raw = json.loads(MADE["files"][name])
        for channel, side in enumerate("AB"):
            events = build_events(raw, channel, record.frames, tokenizer)
            for field in FIELDS:
                if field == "use_hint" and not flagged(record):
                    assert (record.events[side].use_hint == UNSAID).all()
                    continue
                mine, theirs = getattr(events, field), getattr(record.events[side], field)
                np.testing.assert_array_equal(mine, theirs, err_msg=f"{name} {side} {field}")
            kept += len(events)
    assert kept > 40


def test_parquet_written_again_holds_the_same_columns(tmp_path):
    (file,) = write_parquet(tmp_path / "set", [record for _, record in read_parquet(PARQUET)])
    golden, mine = pq.read_table(PARQUET), pq.read_table(file)
    assert sorted(mine.column_names) == sorted(golden.column_names)
    for name in golden.column_names[1:]:
        assert mine.column(name).to_pylist() == golden.column(name).to_pylist(), name
        if name not in "AB":
            assert mine.schema.field(name).type == golden.schema.field(name).type
    flags = golden.column("A_oracle_event_use_hint").to_pylist()
    assert None in flags
    assert any(flags)


@pytest.mark.parametrize("case", ROWS["cases"], ids=lambda c: f"{c['cut']}-{''.join(c['speakers'])}")
def test_rows_equal_the_reference_collators(case):
    config = ModelConfig(
        n_q=6,
        dep_q=3,
        card=ROWS["model"]["card"],
        text_card=ROWS["model"]["text_card"],
        delays=tuple(ROWS["model"]["delays"]),
        temporal=TransformerConfig(dim=8, num_heads=1, num_layers=1, ffn_dim=8),
    )
    records = [record for _, record in read_parquet(PARQUET) if flagged(record)]
    samples = make_samples(records, config, speakers=case["speakers"], cut=Cut(case["cut"].get("max_length")))
    schedule = OracleSchedule(config.text_card, 3, tail="keep")
    for name, augment in AUGMENTS.items():
        rng = np.random.default_rng(ROWS["seed"])
        length = len(case["oracles"][name][0])
        rows = [collate_row(sample, length, schedule, augment, rng)["oracle"] for sample in samples]
        np.testing.assert_array_equal(rows, case["oracles"][name], err_msg=name)
