"""A streaming answer as oracle tokens: given out word by word, and always the tokens of the whole answer.

The reference strips and encodes each piece of a stream alone, which gives ids that training never saw. Here a piece
only lengthens the text; tokens come when a word has ended, and what they are does not depend on how the text was cut.
"""

from __future__ import annotations

import re

from sentencepiece import SentencePieceProcessor

from kame_jax.oracle.text import encode_oracle

LOOKAHEAD = 2
"""Words held back behind the last one: "5 million", "3 to 4" and the like are spoken as one."""
_OPENERS = (("<", ">"), ("```", "```"), ("\\(", "\\)"), ("\\[", "\\]"), ("[", ")"))
_THINKING = re.compile(r"<(think\w*|thought|reasoning|reflection)>(?!.*</\1>)", re.DOTALL | re.IGNORECASE)
_TAGS = re.compile(r"<(think\w*|thought|reasoning|reflection)>.*?(</\1>|\Z)", re.DOTALL | re.IGNORECASE)


def speakable(text: str) -> str:
    """`text` as it can be spoken: without thinking and line breaks."""
    return " ".join(_TAGS.sub(" ", text).split())


class SpokenTokens:
    """One answer that streams in.

    Args:
        tokenizer: of the inner monologue.
        max_words: words of the answer that count; `full` tells when they are reached.
    """

    def __init__(self, tokenizer: SentencePieceProcessor, max_words: int = 1000) -> None:
        self._tokenizer, self._max_words = tokenizer, max_words
        self.raw = ""
        """All that came."""
        self.text = ""
        """What of it was spoken so far."""
        self.ids: list[int] = []
        """All tokens given out."""
        self.full = False

    def push(self, piece: str) -> list[int]:
        """Takes the next piece and gives the tokens that became certain."""
        before = len(self.raw)
        self.raw += piece
        given: list[int] = []
        # Word by word, however many a piece brings: so the tokens do not depend on the cuts.
        for end in re.finditer(r"\s+", self.raw):
            if end.end() > before and end.end() <= len(self.raw):
                given += self._advance(self._certain(self.raw[: end.start()]))
        return given

    def finish(self) -> list[int]:
        """Gives the tokens still held back when the answer is complete."""
        return self._advance(self.raw)

    def _certain(self, text: str) -> str:
        """The part of `text` that nothing to come can change: whole words, outside of what is still open."""
        if _THINKING.search(text):
            return text[: _THINKING.search(text).start()]  # type: ignore[union-attr]
        for opener, closer in _OPENERS:
            at = text.rfind(opener)
            if at >= 0 and closer not in text[at + len(opener) :]:
                text = text[:at]
        words = list(re.finditer(r"\S+", text))
        return text[: words[-LOOKAHEAD - 1].end()] if len(words) > LOOKAHEAD else ""

    def _advance(self, certain: str) -> list[int]:
        words = speakable(certain).split()
        self.full = self.full or len(words) >= self._max_words
        text = " ".join(words[: self._max_words])
        ids = encode_oracle(self._tokenizer, text)
        new = ids[len(self.ids) :]
        self.ids += new
        if len(text) > len(self.text):
            self.text = text
        return new
