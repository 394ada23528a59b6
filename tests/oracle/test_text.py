"""Text becomes tokens line by line, and reads back as the same words."""

import re

import pytest

from kame_jax.demo.dialogues import TOKENIZER
from kame_jax.errors import InputError
from kame_jax.oracle.text import decode_text, encode_oracle, load_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(TOKENIZER)


def test_lines_are_joined_by_the_newline_token(tokenizer):
    newline = tokenizer.encode("\n")[-1]
    assert encode_oracle(tokenizer, " In Rome\nwith Henry\n") == [
        *tokenizer.encode("In Rome"),
        newline,
        *tokenizer.encode("with Henry"),
    ]


def test_no_words_are_no_tokens(tokenizer):
    assert encode_oracle(tokenizer, " \n\t ") == []


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
