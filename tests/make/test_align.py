"""Text lands on the frames where kame_finetune's tokenize_text.py puts it."""

import json
from pathlib import Path

import pytest

from kame_jax.data.words import Word, words_from_json
from kame_jax.demo.dialogues import TOKENIZER
from kame_jax.errors import InputError
from kame_jax.make.align import align_text
from kame_jax.oracle.text import decode_text, load_tokenizer

CASES = json.loads((Path(__file__).parents[1] / "golden" / "data" / "align.json").read_text())


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(TOKENIZER)


def test_frames_equal_the_reference_byte_characters_included(tokenizer):
    agreed = refused = 0
    for case in CASES:
        words = words_from_json(case["words"])
        if case["tokens"] is None:
            refused += 1
            with pytest.raises(InputError):
                align_text(words, tokenizer, spaces=case["spaces"])
        else:
            agreed += 1
            assert align_text(words, tokenizer, spaces=case["spaces"]) == case["tokens"], case["words"]
    assert agreed > 50
    assert refused > 2


def test_an_exact_multiple_of_the_frame_lies_one_frame_early(tokenizer):
    (token,) = tokenizer.encode("red")
    row = align_text([Word("A", "red", 0.24, 0.5)], tokenizer)
    assert row.index(token) == 2
    assert row[1] == 0
    assert len(row) == int(1.5 * 12.5)


def test_a_crowded_piece_moves_right_and_only_a_gap_is_marked(tokenizer):
    words = [Word("A", w, 0.81, 0.82) for w in ("Martha", "from", "Rome")]
    row = align_text(words, tokenizer)
    assert row[9:14] == [0, *tokenizer.encode("Martha from Rome"), 3]


def test_spelled_bytes_stay_at_their_time_and_read_back(tokenizer):
    words = [Word("A", "Zoë", 0.5, 1.1), Word("A", "from", 1.3, 1.5), Word("A", "Rome", 2.0, 2.4)]
    row = align_text(words, tokenizer, spell_bytes=True)
    assert decode_text(tokenizer, row) == "Zoë from Rome"
    assert row.index(*tokenizer.encode("from")) == 16
    assert "ë" not in decode_text(tokenizer, align_text(words, tokenizer))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([Word("A", "red", 0, 1), Word("B", "red", 1, 2)], "together"),
        ([Word("A", "red", 2.0, 1.0)], "expected 0 <= start <= end"),
        ([Word("A", "red", -0.5, 1.0)], "expected 0 <= start <= end"),
        ([Word("A", "x" * 20, 0.0, 0.01)], "do not fit"),
    ],
)
def test_what_cannot_be_aligned_is_refused(tokenizer, words, message):
    with pytest.raises(InputError, match=message):
        align_text(words, tokenizer)
