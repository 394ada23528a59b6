"""Text tokens to text while they are spoken: what each new token adds, with its spaces, and never half a character."""

from __future__ import annotations

from sentencepiece import SentencePieceProcessor

from kame_jax.oracle.text import HIDDEN_IDS

WORD_MARK = "\u2581"
"""The space in front of a word in a SentencePiece piece."""


class TextStream:
    """The text of one conversation's inner monologue.

    Padding and marks add nothing. Pieces that spell a character byte by byte are held back until it is whole, and a
    space is released with the word that follows it, so everything released is the text so far.
    """

    def __init__(self, tokenizer: SentencePieceProcessor) -> None:
        self._tokenizer = tokenizer
        self._size = tokenizer.vocab_size()
        self._bytes: list[int] = []
        self.text = ""
        """Everything released so far."""

    def push(self, token: int) -> str:
        """The text that `token` completes; often none."""
        if token in HIDDEN_IDS or not 0 <= token < self._size:
            return ""
        if self._tokenizer.is_byte(token):
            self._bytes.append(token)
            said = self._tokenizer.decode(self._bytes)
            if "\ufffd" in said and len(self._bytes) < 4:
                return ""
            self._bytes = []
        else:
            self._bytes = []
            said = self._tokenizer.id_to_piece(token).replace(WORD_MARK, " ")
        if not self.text:
            said = said.lstrip(" ")
        self.text += said
        return said
