"""Spliced dialogues say new things with recorded frames, and their oracle says the same."""

import numpy as np
import pytest

from kame_jax.data.dialogue import read_dialogues
from kame_jax.data.records import load_records
from kame_jax.demo.dialogues import ROOT, TOKENIZER, fact_words, sample_entries
from kame_jax.demo.splice import find_exchanges, splice
from kame_jax.errors import InputError
from kame_jax.make.tokens import Settings, tokenize
from kame_jax.oracle.text import decode_text, load_tokenizer
from tests.bundled import copy_dialogues


def numbered(recordings):
    """A codec of two codebooks: the number of the recording, and of the frame."""
    frames = [np.arange(-(-len(audio) // 1920), dtype=np.int32) for audio in recordings]
    return [np.stack([np.full_like(row, i), row]) for i, row in enumerate(frames)]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(TOKENIZER)


@pytest.fixture(scope="module")
def entries():
    return {entry.id: entry for entry in sample_entries("train")[:24]}


@pytest.fixture(scope="module")
def dialogues(entries):
    return read_dialogues(ROOT, list(entries))


@pytest.fixture(scope="module")
def records(entries, tmp_path_factory):
    folder = tmp_path_factory.mktemp("spliced")
    root = copy_dialogues(folder / "dialogues", entries)
    tokenize(root, folder / "records", Settings(TOKENIZER, "none", codebooks=2), numbered, "none")
    return load_records(folder / "records")


@pytest.fixture(scope="module")
def exchanges(records, dialogues, tokenizer):
    return find_exchanges(records, dialogues, tokenizer)


@pytest.fixture(scope="module")
def spliced(exchanges):
    return list(splice(exchanges, 60, 3, np.random.default_rng(0)))


def test_exchanges_are_the_turns_of_the_dialogues_end_to_end(exchanges, records, entries, tokenizer):
    turns = [turn for record in records for turn in entries[record.id].turns]
    assert [decode_text(tokenizer, e.said[0]) for e in exchanges] == [turn.answer.text for turn in turns]
    for exchange, turn in zip(exchanges, turns, strict=True):
        words = [tokenizer.decode([fact.token]) for fact in exchange.facts]
        assert words == list(turn.answer.facts)
        assert bool(exchange.revised) == (turn.form == "revised")


def test_every_frame_is_a_recorded_one_and_a_word_s_frames_stay_together(spliced, exchanges):
    recorded = {tuple(column) for e in exchanges for column in e.said[1:].T}
    clips = {
        (fact.token, tuple(e.said[1:, fact.start : fact.stop].ravel())) for e in exchanges for fact in e.facts
    }
    facts = {token for token, _ in clips}
    lengths = {(token, len(frames) // 2) for token, frames in clips}
    for record in spliced:
        grid = record.tokens["A"]
        assert record.tokens["B"].shape == grid.shape
        assert {tuple(column) for column in grid[1:].T} <= recorded
        for at in np.flatnonzero(np.isin(grid[0], list(facts))):
            token = int(grid[0, at])
            found = [
                n for t, n in lengths if t == token and (token, tuple(grid[1:, at : at + n].ravel())) in clips
            ]
            assert found


def test_the_oracle_ends_with_what_is_said_and_held_out_facts_stay_held_out(spliced, tokenizer, entries):
    held_out = {
        entry.turns[0].topic: {*entry.answer.facts, *entry.alternative.facts}
        for entry in sample_entries("heldout")
    }
    facts = {word for words in fact_words().values() for word in words}
    said, never = set(), set.intersection(*held_out.values())
    for record in spliced:
        text = decode_text(tokenizer, record.tokens["A"][0])
        events = record.events["A"]
        hints = [decode_text(tokenizer, events.hint(i)) for i in range(len(events))]
        assert all(hint in text for hint in hints)
        for i, hint in enumerate(hints):
            if events.ratio[i] >= 1:
                assert decode_text(tokenizer, events.prediction(i)) == hint
        said |= facts & set(text.split())
    assert said == facts - never


def test_a_revised_answer_can_still_be_read_in_time(spliced, exchanges, tokenizer):
    revised = [e for e in exchanges if e.revised]
    answers = {tuple(f.token for f in e.facts) for e in revised}
    fresh = 0
    for record in splice(revised, 40, 1, np.random.default_rng(1)):
        row, events = record.tokens["A"][0], record.events["A"]
        starts = np.flatnonzero((row != 3) & (row != 0))
        said, last = row[starts].tolist(), events.prediction(len(events) - 1).tolist()
        slots = [
            i for i, token in enumerate(said) if any(token == f.token for e in exchanges for f in e.facts)
        ]
        follow = [i for i in slots if said[i] == last[i]]
        assert follow == slots[len(slots) - len(follow) :]
        assert 0 < len(follow) < len(slots)
        change, kept = follow[0], slots[len(slots) - len(follow) - 1]
        frame = int(events.frame_pos[-1])
        assert frame + 1 + change < starts[change]
        assert frame + 1 + kept >= starts[kept]
        fresh += tuple(said[i] for i in slots) not in answers
    assert fresh > 30


def test_the_same_generator_gives_the_same_dialogues(exchanges, spliced):
    again = list(splice(exchanges, 60, 3, np.random.default_rng(0)))
    assert all((a.tokens["A"] == b.tokens["A"]).all() for a, b in zip(again, spliced, strict=True))
    other = next(iter(splice(exchanges, 1, 3, np.random.default_rng(1))))
    assert (
        other.tokens["A"].shape != spliced[0].tokens["A"].shape
        or (other.tokens["A"] != spliced[0].tokens["A"]).any()
    )


def test_a_record_of_other_words_is_refused(records, dialogues, tokenizer):
    changed = records[0].tokens["A"].copy()
    changed[0, changed[0] > 3] = 7
    wrong = type(records[0])(records[0].id, {**records[0].tokens, "A": changed}, records[0].events)
    with pytest.raises(InputError, match=f"record {wrong.id}: its text is not one token for each word"):
        find_exchanges([wrong], dialogues, tokenizer)
