"""Each correction of the reference's data changes what it says it changes, alone."""

import dataclasses

import numpy as np
import pytest

from kame_jax.data.collate import UNDISTURBED, oracle_row
from kame_jax.data.cutting import Sample
from kame_jax.data.events import WHILE_SPEAKING, build_events, pack_events
from kame_jax.data.words import Word
from kame_jax.demo.dialogues import TOKENIZER
from kame_jax.errors import InputError
from kame_jax.make.align import align_text
from kame_jax.make.rules import PRESETS, Rules, read_rules
from kame_jax.make.simulate import HintStrategy, oracle_requests, simulate_oracle
from kame_jax.oracle.schedule import OracleSchedule
from kame_jax.oracle.text import load_tokenizer

REFERENCE = PRESETS["reference"]


def spoken(speaker, text, start, each=0.4, pause=0.0):
    """Words one behind the other; `pause` seconds before the last."""
    words = []
    for i, word in enumerate(text.split()):
        at = start + i * each + (pause if i == len(text.split()) - 1 else 0)
        words.append(Word(speaker, word, round(at, 3), round(at + each, 3)))
    return words


def requests(words, **rules):
    return oracle_requests(words, rules=dataclasses.replace(REFERENCE, **rules))


def at(found, seconds):
    return next(r for r in found if r.timestamp_ms == int(seconds * 1000))


def test_presets_switch_all_and_single_rules_change_them():
    assert all(vars(PRESETS["kame-jax"]).values())
    assert not any(vars(REFERENCE).values())
    rules = read_rules("reference", ["sort_words=on"])
    assert [name for name, on in vars(rules).items() if on] == ["sort_words"]
    assert not read_rules("kame-jax", ["skip_ticks=off"]).skip_ticks
    with pytest.raises(
        InputError, match="'causal' is applied by training: there the setting is oracle.causal"
    ):
        read_rules("kame-jax", ["causal=off"])
    with pytest.raises(InputError) as error:
        read_rules("kame-jax", ["speed=on", "skip_ticks=maybe"])
    assert len(error.value.problems) == 2
    with pytest.raises(InputError, match="preset 'none'"):
        read_rules("none")


def sample(events, columns=20):
    grid = np.full((3, columns), 7, np.int32)
    grid[0, 0] = 90
    return Sample("s", grid, grid, events)


def test_t1_clear_tail():
    events = pack_events([1, 4], [0.4, 0.4], [0, 1], [[11] * 8, [22]], [[], []])
    rows = {tail: oracle_row(sample(events), OracleSchedule(90, 3, tail=tail)) for tail in ("keep", "clear")}
    assert rows["keep"][4:11].tolist() == [90, 22, 11, 11, 11, 11, 3]
    assert rows["clear"][4:11].tolist() == [90, 22, 3, 3, 3, 3, 3]


def test_t2_causal():
    events = pack_events([10], [0.4], [1], [[11, 12]], [[]])
    starts = {}
    for causal in (False, True):
        augment = dataclasses.replace(
            UNDISTURBED, shift_prob=1.0, right_shift=(1, 3), left_shift=(1, 5), causal=causal
        )
        rows = [
            oracle_row(sample(events), OracleSchedule(90, 3), augment, np.random.default_rng(i))
            for i in range(40)
        ]
        starts[causal] = [int(np.flatnonzero(row == 90)[0]) for row in rows]
    assert min(starts[False]) < 10
    assert min(starts[True]) > 10


def test_t3_idle_first():
    events = pack_events([4], [0.4], [1], [[11]], [[]])
    rows = [
        oracle_row(sample(events), OracleSchedule(90, 3), dataclasses.replace(UNDISTURBED, start_first=first))
        for first in (False, True)
    ]
    assert [int(row[0]) for row in rows] == [3, 90]
    assert (rows[0][1:] == rows[1][1:]).all()


def test_t4_whole_turn():
    words = spoken("B", "what is the capital of France", 0.0, pause=2.0) + spoken("A", "it is Paris", 5.0)
    assert at(requests(words), 2.5).ratio == 1.0, "the pause gives the answer away"
    assert at(requests(words, whole_turn=True), 2.5).ratio == 5 / 6
    assert at(requests(words, whole_turn=True), 5.0).ratio == 1.0


def test_t5_bridge_backchannels():
    words = spoken("B", "what is two and two", 0.0)
    words += [
        *spoken("A", "the answer", 2.2),
        Word("B", "yes", 3.0, 3.2),
        *spoken("A", "surely is four", 3.1),
    ]
    words.sort(key=lambda w: w.end)
    assert at(requests(words), 2.0).hint == "the answer"
    assert at(requests(words, bridge_backchannels=True), 2.0).hint == "the answer surely is four"
    real = [
        *spoken("B", "what is two and two", 0.0),
        *spoken("A", "four", 2.6),
        *spoken("B", "and three and three", 3.6),
    ]
    assert at(requests(real, bridge_backchannels=True), 2.0).hint == "four", "an answer is no back-channel"


def test_t6_while_speaking():
    words = spoken("B", "what is the capital", 0.0) + spoken("A", "it is Paris of course", 1.8)
    words += spoken("B", "thank you", 4.5)
    plain, more = requests(words), requests(words, while_speaking=True)
    assert not [r for r in plain if r.next_speaker == "A" and r.timestamp_ms > 2100]
    rest = [r for r in more if r.turn == WHILE_SPEAKING]
    assert [(r.next_speaker, r.hint) for r in rest if r.timestamp_ms in (2500, 3000)] == [
        ("A", "is Paris of course"),
        ("A", "of course"),
    ]
    assert [r for r in more if r.turn != WHILE_SPEAKING] == plain
    records = simulate_oracle(
        words, HintStrategy(), rules=dataclasses.replace(REFERENCE, while_speaking=True)
    )
    assert {r["prediction"] for r in records if r.get("turn") == WHILE_SPEAKING} >= {"of course"}


def test_t7_skip_ticks():
    # The words of B in the middle end last in file order, and nobody answers them there.
    words = [*spoken("A", "well hello there", 0.0), *spoken("B", "hi", 1.4)]
    words += [Word("A", "so", 6.0, 6.4), Word("B", "yes", 7.0, 7.4)]
    words = [words[0], words[1], words[2], words[4], words[3], words[5]]
    early, late = requests(words), requests(words, skip_ticks=True)
    assert len(late) >= len(early)
    lonely = [*spoken("B", "a b", 0.0), *spoken("A", "c", 1.0), *spoken("A", "d", 9.0)]
    unsorted = [lonely[3], lonely[0], lonely[1], lonely[2]]
    assert [r.timestamp_ms for r in requests(unsorted)] == [1000]
    assert [r.timestamp_ms for r in requests(unsorted, skip_ticks=True)] == [1000]
    back = [
        *spoken("A", "a b", 0.0),
        Word("B", "late", 8.0, 9.0),
        *spoken("B", "c d", 1.0),
        *spoken("A", "e", 3.0),
    ]
    assert requests(back, skip_ticks=True)[: len(requests(back))] == requests(back)


def test_t8_sort_words():
    words = spoken("B", "where is it now", 0.0) + spoken("A", "in Rome", 2.0)
    mixed = [words[i] for i in (4, 1, 0, 5, 3, 2)]
    assert requests(mixed, sort_words=True) == requests(words)
    assert requests(mixed) != requests(words)


def test_t9_protect_kept():
    tokenizer = load_tokenizer(TOKENIZER)
    good = {"timestamp_ms": 500, "prediction": "red", "channel": 0}
    records = [good, good | {"timestamp_ms": 1000, "prediction": ""}, good | {"channel": 1}]
    kept = {
        p: build_events(records, 0, 50, tokenizer, protect_kept=p).skip_forbid.tolist() for p in (False, True)
    }
    assert kept == {False: [0], True: [1]}
    turns = [good | {"turn": 1}, good | {"turn": WHILE_SPEAKING}, good | {"turn": 1}, good | {"turn": 3}]
    assert build_events(turns, 0, 50, tokenizer, protect_kept=True).skip_forbid.tolist() == [0, 0, 1, 1]


def test_t10_exact_frames():
    tokenizer = load_tokenizer(TOKENIZER)
    word = Word("A", "red", 0.24, 0.5)
    frames = {
        exact: np.flatnonzero(np.array(align_text([word], tokenizer, exact=exact)) != 3)[1].item()
        for exact in (False, True)
    }
    assert frames == {False: 2, True: 3}
    slow = Word("A", "extraordinarily", 0.0, 9.0)
    marks = [align_text([slow], tokenizer, exact=exact).count(0) for exact in (False, True)]
    assert marks[0] > marks[1] == 0, "no mark inside a word"


def test_t11_paper_bounds():
    words = spoken("B", "what is it now", 0.0, each=0.5) + spoken("A", "it is four", 2.5)
    released, paper = requests(words), requests(words, paper_bounds=True)
    assert [r.level for r in released][:3] == [0, 2, 5]
    assert [r.level for r in paper][:3] == [1, 2, 5]
    asked = []

    def predict(request):
        asked.append(request.level)
        return "x"

    said = simulate_oracle(words, predict, rules=dataclasses.replace(REFERENCE, paper_bounds=True))
    assert 5 not in asked
    assert next(r["prediction"] for r in said if r["current_spoken_ratio"] == 1.0) == "it is four"


def test_all_corrections_together_give_events_in_order_of_time():
    words = spoken("B", "what is the capital of France", 0.0, pause=1.5) + spoken("A", "it is Paris", 4.5)
    records = simulate_oracle(words, HintStrategy(), rules=Rules())
    times = [r["timestamp_ms"] for r in records]
    assert times == sorted(times)
    assert records[-1]["turn"] == WHILE_SPEAKING
    assert max(r["current_spoken_ratio"] for r in records if r["timestamp_ms"] < 3900) < 1.0
