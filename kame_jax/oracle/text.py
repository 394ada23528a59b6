"""Text of a back end to oracle tokens, and tokens back to text; streamed answers are `tandem.speech`'s.

The oracle is written with the tokenizer of the inner monologue, without begin or end marks. When a token is read is
`oracle.schedule`'s.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sentencepiece import SentencePieceProcessor

from kame_jax import hub
from kame_jax.errors import InputError
from kame_jax.files import regular_file

TOKENIZER_NAME = "tokenizer.model"
"""Of the SentencePiece model next to dialogues, records, data sets, checkpoints and in a run's folder."""
HIDDEN_IDS = (0, 1, 2, 3)
"""Ids that no transcript shows: end of padding (also `<unk>`), begin, end, padding."""

TOKENIZER_NAMES = (TOKENIZER_NAME, "tokenizer_spm_32k_3.model")
"""Names of a checkpoint's tokenizer where no `config.json` names it."""


def tokenizer_file(spec: str | Path) -> Path:
    """The file of a tokenizer that a user names: a path, or `hf://org/repo[/file]`.

    Raises:
        InputError: there is no such file, or the hub cannot be reached.
    """
    text = str(spec)
    if text.startswith(hub.PREFIX):
        return hub.fetch(text, TOKENIZER_NAMES)
    return regular_file(text, "a SentencePiece model")


def load_tokenizer(spec: str | Path) -> SentencePieceProcessor:
    """The SentencePiece model that `spec` names, as `tokenizer_file` takes it.

    Raises:
        InputError: there is no such file, or it is not a SentencePiece model.
    """
    path = tokenizer_file(spec)
    try:
        return SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as e:
        raise InputError(f"{path}: not a SentencePiece model") from e


def encode_oracle(tokenizer: SentencePieceProcessor, text: str) -> list[int]:
    """Oracle tokens of a whole text, as kame_finetune's `tools/tokenize_oracle.py` makes them.

    The text is stripped and each line encoded alone; between two lines is the token of a newline, if the
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


def decode_text(tokenizer: SentencePieceProcessor, ids: Iterable[int]) -> str:
    """The words of a row of text or oracle tokens; padding, marks and ids outside the tokenizer are left out."""
    size = tokenizer.vocab_size()
    return tokenizer.decode([int(i) for i in ids if int(i) not in HIDDEN_IDS and 0 <= int(i) < size])
