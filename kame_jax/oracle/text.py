"""Text of a back end to oracle tokens, whole or as it streams in, and tokens back to text.

The oracle is written with the tokenizer of the inner monologue, without begin or end marks. When a token is read is
`oracle.schedule`'s.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from sentencepiece import SentencePieceProcessor

from kame_jax import hub
from kame_jax.errors import InputError
from kame_jax.files import regular_file

TOKENIZER_NAME = "tokenizer.model"
"""Of the SentencePiece model beside dialogues, records, data sets, checkpoints and in a run's folder."""
HIDDEN_IDS = (0, 1, 2, 3)
"""Ids that no transcript shows: end of padding (also `<unk>`), begin, end, padding."""

TOKENIZER_NAMES = (TOKENIZER_NAME, "tokenizer_spm_32k_3.model")
"""What a checkpoint's tokenizer is called where no `config.json` names it."""


def load_tokenizer(path: str | Path) -> SentencePieceProcessor:
    """The SentencePiece model in a file, or in one of a repository (`hf://org/repo[/file]`).

    Raises:
        InputError: no such file, or not a SentencePiece model.
    """
    text = str(path)
    path = (
        hub.fetch(text, TOKENIZER_NAMES)
        if text.startswith(hub.PREFIX)
        else regular_file(path, "a SentencePiece model")
    )
    try:
        return SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as e:
        raise InputError(f"{path}: not a SentencePiece model") from e


def encode_oracle(tokenizer: SentencePieceProcessor, text: str) -> list[int]:
    """Oracle tokens of a whole text, as kame_finetune's `tools/tokenize_oracle.py` makes them.

    The text is stripped and each line encoded alone; between two lines stands the token of a newline, if the
    tokenizer has one.
    """
    text = text.strip()
    if not text:
        return []
    newline = tokenizer.encode("\n")[-1:]
    ids: list[int] = []
    for i, line in enumerate(text.split("\n")):
        ids += (newline if i else []) + tokenizer.encode(line)
    return ids


class OracleText(NamedTuple):
    """An answer that is still streaming in: its text so far, and the tokens given out for it."""

    text: str = ""
    ids: tuple[int, ...] = ()


def push(tokenizer: SentencePieceProcessor, state: OracleText, delta: str) -> tuple[OracleText, list[int]]:
    """Takes the next piece of text and gives the tokens that became certain: those of every word that has ended.

    However a text is cut, all tokens together are those of `encode_oracle` on the whole. (SakanaAI/kame encodes each
    piece alone, which gives ids that training never saw.)
    """
    text = state.text + delta
    ended = len(text)
    while ended and not text[ended - 1].isspace():
        ended -= 1
    return _advance(tokenizer, state, text, text[:ended])


def finish(tokenizer: SentencePieceProcessor, state: OracleText) -> tuple[OracleText, list[int]]:
    """Gives the tokens still held back when the answer is complete."""
    return _advance(tokenizer, state, state.text, state.text)


def _advance(
    tokenizer: SentencePieceProcessor, state: OracleText, text: str, certain: str
) -> tuple[OracleText, list[int]]:
    ids = encode_oracle(tokenizer, certain)
    new = ids[len(state.ids) :]
    return OracleText(text, state.ids + tuple(new)), new


def decode_text(tokenizer: SentencePieceProcessor, ids: Iterable[int]) -> str:
    """The words of a row of text or oracle tokens; padding, marks and ids outside the tokenizer are left out."""
    size = tokenizer.vocab_size()
    return tokenizer.decode([int(i) for i in ids if int(i) not in HIDDEN_IDS and 0 <= int(i) < size])
