"""The bundled dialogues keep what their README promises."""

import itertools
import re

import pytest
import soundfile

from kame_jax.data.dialogue import read_dialogues, read_stereo
from kame_jax.data.words import words_to_json
from kame_jax.demo.dialogues import ROOT, TOKENIZER, fact_words, mean_recall, recall, sample_entries
from kame_jax.oracle.text import load_tokenizer

THINGS = {"parcel", "key", "coat", "lamp", "ticket", "violin"}


@pytest.fixture(scope="module")
def dialogues():
    return {d.id: d for d in read_dialogues(ROOT)}


def question_of(turn):
    """Kind of answer and thing asked about: wordings differ, the question does not."""
    pattern = turn.answer.text
    for slot, words in fact_words().items():
        pattern = re.sub(rf"\b({'|'.join(words)})\b", slot, pattern)
    return pattern, *(THINGS & set(turn.question.split()))


def test_the_sample_stays_under_four_megabytes():
    files = [p for p in ROOT.rglob("*") if p.is_file() and p.suffix != ".pyc"]
    assert sum(p.stat().st_size for p in files) < 4_000_000


def test_manifest_and_files_agree(dialogues):
    entries = sample_entries()
    assert {e.id for e in entries} == set(dialogues)
    assert len(sample_entries("train")) == 66
    assert len(sample_entries("heldout")) == 24
    for entry in entries:
        said = {s: " ".join(w.word for w in dialogues[entry.id].words if w.speaker == s) for s in "AB"}
        assert said["B"] == " ".join(t.question for t in entry.turns)
        assert said["A"] == " ".join(t.answer.text for t in entry.turns)
        for turn in entry.turns:
            assert all(fact in turn.answer.text.split() for fact in turn.answer.facts)
            assert len(turn.answer.facts) == (0 if turn.form == "unknown" else 3)


def test_held_out_facts_never_go_with_their_question_in_training(dialogues):
    trained = {}
    for entry in sample_entries("train"):
        for turn in entry.turns:
            if turn.form != "unknown":
                trained.setdefault(question_of(turn), set()).update(turn.answer.facts)
    held = [e.turns[0] for e in sample_entries("heldout")]
    assert {question_of(turn) for turn in held} == set(trained)
    everything = set(itertools.chain(*fact_words().values()))
    assert set(itertools.chain(*trained.values())) == everything
    for turn in held:
        assert turn.alternative is not None
        facts = {*turn.answer.facts, *turn.alternative.facts}
        assert len(facts) == 6
        assert not facts & trained[question_of(turn)]


def test_guesses_of_the_oracle_keep_held_out_facts_secret(dialogues):
    facts = set(itertools.chain(*fact_words().values()))
    for entry in sample_entries("heldout"):
        turn = entry.turns[0]
        for record in dialogues[entry.id].oracle:
            if record["channel"] == 0 and record["current_spoken_ratio"] < 1:
                wrong = facts & set(record["prediction"].split()) - set(turn.answer.facts)
                assert not wrong & set(turn.alternative.facts)


def test_the_true_answer_arrives_before_it_is_spoken(dialogues):
    for entry in sample_entries("heldout"):
        dialogue = dialogues[entry.id]
        asked, said = ([w for w in dialogue.words if w.speaker == s] for s in "BA")
        true = [r for r in dialogue.oracle if r["current_spoken_ratio"] == 1.0 and r["channel"] == 0]
        arrival = true[0]["timestamp_ms"] / 1000
        assert asked[-1].end <= arrival < said[0].start
        assert all(r["prediction"] == r["hint"] == entry.answer.text for r in true)


def test_no_oracle_comes_where_nobody_told(dialogues):
    for entry in sample_entries("train"):
        dialogue = dialogues[entry.id]
        starts = [w.start for w in dialogue.words if w.speaker == "B" and w.word.istitle()]
        for turn, start, end in zip(entry.turns, starts, [*starts[1:], float("inf")], strict=True):
            own = [
                r for r in dialogue.oracle if r["channel"] == 0 and start < r["timestamp_ms"] / 1000 <= end
            ]
            if turn.form == "unknown":
                assert not own
            else:
                assert own


def test_words_lie_in_order_inside_the_audio(dialogues):
    for dialogue in dialogues.values():
        audio = soundfile.info(dialogue.audio)
        assert (audio.samplerate, audio.channels) == (16_000, 2)
        assert audio.frames % 1280 == 0
        words = dialogue.words
        assert all(a.end <= b.start + 1e-3 for a, b in itertools.pairwise(words))
        assert words[-1].end < audio.duration
        assert words_to_json(words)[0].keys() == {"speaker", "word", "start", "end"}


def test_nobody_is_heard_in_the_other_ones_channel(dialogues):
    """A codec that joins the channels would let the model hear its own answer as the user's voice."""
    for dialogue in itertools.islice(dialogues.values(), 12):
        audio = read_stereo(dialogue)
        for word in dialogue.words:
            power = (audio[:, int(word.start * 24_000) : int(word.end * 24_000)] ** 2).mean(axis=1)
            other, own = power if word.speaker == "B" else power[::-1]
            assert other < 1e-3 * own


def test_a_word_of_an_answer_is_one_token_and_special_ids_are_the_released_ones():
    tokenizer = load_tokenizer(TOKENIZER)
    assert [tokenizer.unk_id(), tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.pad_id()] == [0, 1, 2, 3]
    assert tokenizer.id_to_piece(4) == "<0x00>"
    assert tokenizer.decode(tokenizer.encode("Zoë, 日本?")) == "Zoë, 日本?"
    for entry in sample_entries():
        for turn in entry.turns:
            assert len(tokenizer.encode(turn.answer.text)) == len(turn.answer.text.split())


def test_recall_counts_words_not_letters_and_each_once():
    assert recall(["red", "Rome"], "the red one in rome") == 1.0
    assert recall(["red", "Rome"], "tired romans") == 0.0
    assert recall(["red", "red"], "red") == 0.5
    assert mean_recall([(["red"], "red"), (["a", "b", "c"], "a")]) == 0.5
    with pytest.raises(ValueError, match="no fact words"):
        recall([], "red")
