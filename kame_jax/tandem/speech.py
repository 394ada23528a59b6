"""A streaming answer as oracle tokens: released word by word, and always the tokens of the whole answer.

The reference strips and encodes each piece of a stream alone, which gives ids that training never saw. Here a word is
encoded once it is certain; what it is does not depend on how the text was cut. A piece costs time in proportion to its
own length, however long the answer is by then.
"""

from __future__ import annotations

from collections import Counter

from sentencepiece import SentencePieceProcessor

from kame_jax.oracle.speakable import MAX_CHARS, RESTART, Refusal, Speaker
from kame_jax.oracle.text import encode_oracle


class SpokenTokens:
    """One answer that streams in, in the form in which it is spoken (`oracle.speakable`).

    Args:
        tokenizer: of the inner monologue.
        max_words: words of the answer that count.
        max_chars: characters of the answer that are read.
    """

    def __init__(
        self, tokenizer: SentencePieceProcessor, max_words: int = 1000, max_chars: int = MAX_CHARS
    ) -> None:
        self._tokenizer, self._max_words = tokenizer, max_words
        self._speaker = Speaker(max_chars)
        self._words: list[str] = []
        self.ids: list[int] = []
        """All tokens of the answer so far."""
        self.restarts = 0
        """How often later text invalidated what was released (a tag that ends thinking whose start was not seen). The
        tokens given then are those of the whole answer from its beginning."""
        self.full = False
        """`max_words` or `max_chars` is reached; the rest is left out."""

    @property
    def text(self) -> str:
        """What was released as tokens, as it is spoken."""
        return " ".join(self._words)

    @property
    def changes(self) -> Counter[str]:
        """What was changed so that the answer can be spoken, by kind (`oracle.speakable.KINDS`)."""
        return self._speaker.changes

    @property
    def refused(self) -> list[Refusal]:
        """What was left out of the answer because it cannot be spoken."""
        return self._speaker.refused

    def push(self, piece: str) -> list[int]:
        """Takes the next piece and returns the tokens that became certain."""
        return [] if self.full else self._given(self._speaker.push(piece))

    def finish(self) -> list[int]:
        """Returns the tokens still held back when the answer is complete."""
        given = self._given(self._speaker.finish()) if len(self._words) < self._max_words else []
        whole = encode_oracle(self._tokenizer, self.text)
        if whole == self.ids:
            return given
        # A tokenizer with pieces that span words: they are known only now.
        self.restarts, self.ids = self.restarts + 1, whole
        return whole

    def _given(self, words: list[str]) -> list[int]:
        given: list[int] = []
        for word in words:
            if word == RESTART:
                self.restarts += bool(self.ids)
                self._words, self.ids, given = [], [], []
                continue
            ids = self._tokenizer.encode(word)
            self._words.append(word)
            self.ids += ids
            given += ids
            if len(self._words) == self._max_words:
                self.full = True
                break
        self.full = self.full or self._speaker.cut
        return given
