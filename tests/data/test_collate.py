"""Cutting, labelling and the oracle's augmentation equal kame_finetune's collator, draw for draw."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kame_jax.config import ModelConfig, OracleConfig, TransformerConfig, load_run
from kame_jax.data.collate import UNDISTURBED, collate_row, oracle_row
from kame_jax.data.cutting import Sample, make_samples
from kame_jax.data.events import UNSAID, OracleEvents, pack_events
from kame_jax.data.records import Record
from kame_jax.errors import InputError
from kame_jax.oracle.schedule import OracleSchedule
from kame_jax.train.corpus import cut_of, schedule_of

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "data" / "collate.json").read_text())
AUGMENTS = {
    "plain": UNDISTURBED,
    "reference": OracleConfig(causal=False),
    "sometimes": replace(UNDISTURBED, shift_prob=0.5, right_shift=(0, 40), left_shift=(2, 3), jitter=4),
    "hints": replace(UNDISTURBED, hint_only=True, skip=(0.0, 0.5)),
    "warm": replace(UNDISTURBED, hint_only=True, hint_warmup=(10, 20), jitter=2),
}


def model(name):
    numbers = GOLDEN["models"][name]
    return ModelConfig(
        n_q=6,
        dep_q=3,
        card=numbers["card"],
        text_card=numbers["text_card"],
        delays=tuple(numbers["delays"]),
        temporal=TransformerConfig(dim=8, num_heads=1, num_layers=1, ffn_dim=8),
    )


def record(item):
    events = {
        side: OracleEvents(
            **{name: np.array(values, np.int32) for name, values in item[f"{side}_events"].items()},
            use_hint=np.full(len(item[f"{side}_events"]["ratio"]), UNSAID, np.int8),
        )
        for side in "AB"
    }
    return Record(item["id"], {side: np.array(item[side], np.int32) for side in "AB"}, events)


RECORDS = [record(item) for item in GOLDEN["records"]]


def samples_of(case):
    cut = {"max_frames": case["cut"].get("max_length"), "min_frames": case["cut"].get("min_length")}
    return make_samples(RECORDS, model(case["model"]), speakers=case["speakers"], **cut)


@pytest.mark.parametrize(
    "case", GOLDEN["cases"], ids=lambda c: f"{c['model']}-{c['cut']}-{''.join(c['speakers'])}"
)
def test_batches_equal_the_reference_collator(case):
    samples = samples_of(case)
    inputs = np.array(case["inputs"])
    schedule = OracleSchedule(GOLDEN["models"][case["model"]]["text_card"], 3, tail="keep")
    for name, augment in AUGMENTS.items():
        rng = np.random.default_rng(GOLDEN["seed"])
        rows = [collate_row(s, inputs.shape[2], schedule, augment, rng, GOLDEN["step"]) for s in samples]
        assert len(rows) == len(inputs)
        np.testing.assert_array_equal([row["oracle"] for row in rows], case["oracles"][name], err_msg=name)
    np.testing.assert_array_equal([row["inputs"] for row in rows], inputs)
    np.testing.assert_array_equal([row["labels"] for row in rows], case["labels"])
    assert [int(row["frames"]) for row in rows] == [s.columns.shape[1] for s in samples]


@pytest.mark.parametrize("case", GOLDEN["cases"][::3], ids=lambda c: f"{c['model']}-{c['cut']}")
def test_a_run_with_preset_reference_trains_on_the_reference_collators_rows(case):
    run = load_run(
        "kame_7b",
        [
            "preset=reference",
            f"data.speakers=[{','.join(case['speakers'])}]",
            f"data.max_frames={case['cut'].get('max_length', 'null')}",
            f"data.min_frames={case['cut'].get('min_length', 'null')}",
        ],
    )
    config = model(case["model"])
    samples = make_samples(RECORDS, config, speakers=run.data.speakers, cut=cut_of(run.data))
    schedule, augment = schedule_of(config, run.oracle.tail), run.oracle
    length, rng = np.shape(case["inputs"])[2], np.random.default_rng(GOLDEN["seed"])
    rows = [collate_row(s, length, schedule, augment, rng, GOLDEN["step"]) for s in samples]
    np.testing.assert_array_equal([row["oracle"] for row in rows], case["oracles"]["reference"])
    np.testing.assert_array_equal([row["inputs"] for row in rows], case["inputs"])
    np.testing.assert_array_equal([row["labels"] for row in rows], case["labels"])


def test_the_schedule_decides_about_the_tail_of_an_older_answer():
    events = pack_events([2, 6], [0.5, 0.5], [0, 1], [[11, 12, 13, 14, 15, 16, 17], [21, 22]], [[], []])
    columns = np.zeros((7, 14), np.int32)
    sample = Sample("x", columns, columns, events)
    keep, clear = (
        oracle_row(sample, OracleSchedule(500, 3, tail=tail)).tolist() for tail in ("keep", "clear")
    )
    assert clear == [3, 3, 500, 11, 12, 13, 500, 21, 22, 3, 3, 3, 3, 3]
    assert keep == [3, 3, 500, 11, 12, 13, 500, 21, 22, 17, 3, 3, 3, 3]


def test_tokens_that_do_not_fit_the_model_come_as_one_list():
    tokens = {"A": np.full((4, 5), 49, np.int32), "B": np.full((4, 5), 50, np.int32)}
    bad = Record("odd", tokens, RECORDS[0].events)
    short = Record("short", dict.fromkeys("AB", tokens["A"][:2]), RECORDS[0].events)
    with pytest.raises(InputError) as error:
        make_samples([bad, short], model("kame"))
    assert len(error.value.problems) == 3
    assert "dialogue odd, speaker B: audio ids 50 to 50, the model expects 0 to 49" in str(error.value)
    assert "dialogue short, speaker A: 2 rows, the model expects 4" in str(error.value)


@pytest.mark.parametrize(
    "wrong", [("shift_prob=1.5", "jitter=-1"), ("right_shift=[3,1]", "hint_warmup=[5,4]")]
)
def test_augmentation_outside_its_range_is_refused(wrong):
    with pytest.raises(InputError) as error:
        load_run("tiny", [f"oracle.{setting}" for setting in wrong])
    assert len(error.value.problems) == 2


def test_a_sample_longer_than_its_row_is_refused():
    sample = make_samples(RECORDS, model("kame"))[0]
    with pytest.raises(InputError, match=f"{sample.id} has .* expected at most 8"):
        collate_row(sample, 8, OracleSchedule(500, 3))
