"""A streaming answer as oracle tokens: given out word by word, and always the tokens of the whole answer.

The reference strips and encodes each piece of a stream alone, which gives ids that training never saw. Here a piece
only lengthens the text; tokens come when a word has ended, and what they are does not depend on how the text was cut.
"""

from __future__ import annotations

import re

from sentencepiece import SentencePieceProcessor

from kame_jax.oracle.speakable import speakable
from kame_jax.oracle.text import encode_oracle

LOOKAHEAD = 2
"""Words held back behind the last one: "5 million", "3 to 4" and the like are spoken as one."""
_OPEN = (
    re.compile(r"<(think\w*|thought|reasoning|reflection)>(?!.*</\1>).*\Z", re.DOTALL | re.IGNORECASE),
    re.compile(r"<(?=[a-zA-Z/|])[^>]*\Z"),
    re.compile(r"\A(?:[^`]|`(?!``))*(?:```.*?```(?:[^`]|`(?!``))*)*(?P<open>```.*)\Z", re.DOTALL),
    re.compile(r"\\\((?!.*\\\)).*\Z", re.DOTALL),
    re.compile(r"\\\[(?!.*\\\]).*\Z", re.DOTALL),
    re.compile(r"\$(?=[^\s\d])[^$\n]*\Z"),
    re.compile(r"\[[^\]]*\Z|\]\([^)]*\Z"),
)
"""What begins something that is spoken otherwise, or not at all, once it is whole."""


class SpokenTokens:
    """One answer that streams in, in the form in which it is spoken (`oracle.speakable`).

    Args:
        tokenizer: of the inner monologue.
        max_words: words of the answer that count; `full` tells when they are reached.
    """

    def __init__(self, tokenizer: SentencePieceProcessor, max_words: int = 1000) -> None:
        self._tokenizer, self._max_words = tokenizer, max_words
        self.raw = ""
        """All that came."""
        self.text = ""
        """What of it was given out as tokens, as it is spoken."""
        self.ids: list[int] = []
        """All tokens of the answer so far."""
        self.restarts = 0
        """How often what came later made what was given out wrong (a tag that ends thinking nobody saw begin). The
        tokens given then are those of the whole answer from its beginning."""
        self.full = False

    def push(self, piece: str) -> list[int]:
        """Takes the next piece and gives the tokens that became certain."""
        before = len(self.raw)
        self.raw += piece
        given: list[int] = []
        # Word by word, however many a piece brings: so the tokens do not depend on the cuts.
        for match in re.finditer(r"\s", piece):
            end = before + match.start()
            if end and not self.raw[end - 1].isspace() and not self.full:
                given = self._given(given, self._certain(self.raw[:end]), whole=False)
        return given

    def finish(self) -> list[int]:
        """Gives the tokens still held back when the answer is complete."""
        return self._given([], self.raw, whole=True)

    def _certain(self, text: str) -> str:
        """The part of `text` that nothing to come changes: whole words, outside of what is still open."""
        for pattern in _OPEN:
            found = pattern.search(text)
            if found:
                text = text[: found.start("open") if "open" in pattern.groupindex else found.start()]
        words = list(re.finditer(r"\S+", text))
        return text[: words[-LOOKAHEAD].start()] if len(words) > LOOKAHEAD else ""

    def _given(self, given: list[int], certain: str, whole: bool) -> list[int]:
        """`given` and what `certain` adds to it. The last spoken word may still get a comma, so it waits."""
        words = speakable(certain).text.split()
        if not whole:
            words = words[:-1]
        self.full = self.full or len(words) >= self._max_words
        words = words[: self._max_words]
        text = " ".join(words)
        ids = encode_oracle(self._tokenizer, text)
        old, self.ids, self.text = self.ids, ids, text
        if ids[: len(old)] == old:
            return given + ids[len(old) :]
        if not whole and old[: len(ids)] == ids:
            # Less is certain than before: what was given out stands until more comes.
            self.ids = old
            return given
        self.restarts += 1
        return ids
