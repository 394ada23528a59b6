"""An answer becomes the same tokens however it is cut, and reads back as the same words."""

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kame_jax.demo.dialogues import TOKENIZER
from kame_jax.errors import InputError
from kame_jax.oracle.text import OracleText, decode_text, encode_oracle, finish, load_tokenizer, push

WORDS = st.lists(
    st.sampled_from(
        ["Martha", "from", "Rome", "red", "attic", "Zoë", "four.", ",", "x", " ", "\n", "\n\n", "\t", "日本"]
    ),
    max_size=12,
)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(TOKENIZER)


def streamed(tokenizer, deltas):
    state, ids = OracleText(), []
    for delta in deltas:
        state, new = push(tokenizer, state, delta)
        ids += new
    return ids + finish(tokenizer, state)[1]


@settings(deadline=None, max_examples=150)
@given(words=WORDS, spaces=st.booleans(), cuts=st.lists(st.integers(0, 60), max_size=6))
def test_any_cut_of_an_answer_gives_the_tokens_of_the_whole(tokenizer, words, spaces, cuts):
    text = (" " if spaces else "").join(words)
    edges = [0, *sorted(min(c, len(text)) for c in cuts), len(text)]
    deltas = [text[a:b] for a, b in itertools.pairwise(edges)]
    assert streamed(tokenizer, deltas) == encode_oracle(tokenizer, text)


def test_tokens_come_as_soon_as_their_word_has_ended(tokenizer):
    state, new = push(tokenizer, OracleText(), "Martha fr")
    assert new == tokenizer.encode("Martha")
    state, new = push(tokenizer, state, "om Rome")
    assert new == tokenizer.encode("from")
    assert finish(tokenizer, state)[1] == tokenizer.encode("Rome")


def test_lines_are_joined_by_the_newline_token(tokenizer):
    newline = tokenizer.encode("\n")[-1]
    assert encode_oracle(tokenizer, " In Rome\nwith Henry\n") == [
        *tokenizer.encode("In Rome"),
        newline,
        *tokenizer.encode("with Henry"),
    ]


def test_no_words_are_no_tokens(tokenizer):
    assert encode_oracle(tokenizer, " \n\t ") == []
    assert streamed(tokenizer, ["", " ", "\n"]) == []


def test_transcripts_leave_out_padding_marks_and_foreign_ids(tokenizer):
    words = tokenizer.encode("Martha from Rome")
    row = [3, 0, words[0], 3, 1, words[1], 3, 0, words[2], 2, -1, 10**6]
    assert decode_text(tokenizer, row) == "Martha from Rome"


def test_a_file_that_is_no_tokenizer_is_named(tmp_path):
    bad = tmp_path / "bad.model"
    bad.write_bytes(b"not a model")
    with pytest.raises(InputError, match=re.escape(f"{bad}: not a SentencePiece model")):
        load_tokenizer(bad)
    with pytest.raises(InputError, match="no such file, expected a SentencePiece model"):
        load_tokenizer(tmp_path / "missing.model")
