"""Text as it can be spoken: no thinking, no markup, no symbols, numbers in words, only periods and commas.

The same for data and for a live back end, whole or streamed, so that what is trained is what is served.
English. Every number and sign is spoken by its value; what has no reading is left out, and listed in `Spoken.refused`.
Changes are counted. Time is linear in the text.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from kame_jax.oracle.numbers import cardinal, ordinal, roman
from kame_jax.oracle.spoken.cursor import GLUE, LINE, PAUSE, RESTART, STOP, Cursor
from kame_jax.oracle.spoken.lexer import REASONS, Lexer, More, Refusal
from kame_jax.oracle.spoken.reading import read
from kame_jax.oracle.spoken.units import ABBREVIATIONS, NUMBERED_NAMES, RULERS

__all__ = ["KINDS", "MAX_CHARS", "REASONS", "Refusal", "Speaker", "Spoken", "speakable"]

KINDS = ("thinking", "markup", "formula", "number", "symbol", "emoji", "punctuation", "refused")
"""What is counted."""
MAX_CHARS = 20_000
"""Characters of a text that are read: half an hour of speech."""
_SLICE = 4096
"""Characters that are read at once."""


@dataclass
class Spoken:
    """Text that can be spoken, what was left out of it, and how often each kind of thing was changed."""

    text: str
    changes: dict[str, int] = field(default_factory=dict)
    """Keys from `KINDS`; kinds that did not occur are missing."""
    refused: list[Refusal] = field(default_factory=list)
    """Parts that `text` lacks because they cannot be spoken. Thinking, markup and emoji do not count."""


def speakable(text: str, max_chars: int = MAX_CHARS) -> Spoken:
    """A whole text as it can be spoken, on one line; "" when nothing of it can.

    Words, apostrophes and hyphens inside words stay; of punctuation only periods and commas are left. Running it again
    changes nothing. What exceeds `max_chars` is refused as "long".
    """
    speaker = Speaker(max_chars)
    words = [*speaker.push(text), *speaker.finish()]
    if RESTART in words:
        words = words[words.index(RESTART) + 1 :]
    return Spoken(" ".join(words), {kind: n for kind, n in speaker.changes.items() if n}, speaker.refused)


class Speaker:
    """A text that streams in, to words that can be spoken.

    However it is cut, all words together are those of `speakable` on the whole. A word comes once nothing after it can
    change it, most often when the next one has begun. `RESTART` among the words says that all before was thinking;
    that happens at most once.
    """

    def __init__(self, max_chars: int = MAX_CHARS) -> None:
        self._lexer = Lexer()
        self._cursor = Cursor(self._lexer)
        self._room = max_chars
        self._word, self._mark = "", ""
        self.cut = False
        """The text was longer than `max_chars`."""

    @property
    def changes(self) -> Counter[str]:
        """How often each kind of thing was changed (`KINDS`)."""
        return self._lexer.changes

    @property
    def refused(self) -> list[Refusal]:
        """What was left out because it cannot be spoken."""
        return self._lexer.refused

    def push(self, piece: str) -> list[str]:
        """Takes the next piece of text, and returns the words that became certain."""
        words: list[str] = []
        for start in range(0, min(len(piece), self._room), _SLICE):
            self._lexer.feed(piece[start : min(start + _SLICE, self._room)])
            words += self._read()
        self._room -= len(piece)
        if self._room < 0 and not self.cut:
            self.cut = True
            self._lexer.refuse(piece[self._room :], "long")
        return words

    def finish(self) -> list[str]:
        """Returns the words still held back when the text is complete."""
        self._lexer.finish(cut=self.cut)
        words = [*self._read(), *self._flush(None)]
        if words:
            words[-1] = words[-1].rstrip(PAUSE)
        return words

    def _read(self) -> list[str]:
        words: list[str] = []
        while True:
            try:
                items = read(self._cursor)
            except More:
                return words
            if items is None:
                return words
            for item in items:
                words += self._add(item)

    def _add(self, item: str) -> list[str]:
        """Takes words or punctuation, and returns the earlier words that are now complete."""
        if item == RESTART:
            self._word = self._mark = ""
            return [RESTART]
        if item in (STOP, PAUSE, LINE):
            if not self._word:
                return []
            known = self._word == "St" or self._word.lower() in ABBREVIATIONS
            if item != PAUSE and known and not self._mark:
                self._word += STOP
            elif item == PAUSE:
                self._mark = self._mark or PAUSE
            elif item == STOP or not self._mark:
                self._mark = STOP
            if item == LINE:
                self._mark = self._mark or STOP
            return []
        if item.startswith(GLUE):
            self._word += item[1:]
            return []
        out = []
        for part in item.split():
            word = part.rstrip(PAUSE)
            said = _numeral(self._word.rpartition(" ")[2], word) if not self._mark else word
            out += self._flush(word)
            self._word = said
            if word != part:
                self._mark = PAUSE
        return out

    def _flush(self, following: str | None) -> list[str]:
        """The word that waits, with its punctuation, now that it is known what follows; None at the end."""
        word, mark = self._word, self._mark
        self._word = self._mark = ""
        if word.endswith(STOP):
            name = following is not None and following[:1].isupper()
            mark = mark or (STOP if following is None or (word == "etc." and name) else "")
            saint = name and not mark
            word = ("Saint" if saint else "Street") if word == "St." else ABBREVIATIONS[word[:-1].lower()]
        elif word.lower() in ("etc", "vs"):
            word = ABBREVIATIONS[word.lower()]
        return f"{word}{mark}".split()


def _numeral(before: str, word: str) -> str:
    """A Roman numeral after a name or the like, in words; other words as they are."""
    if not word.isupper() or not before[:1].isupper() or before.isupper() or not set(word) <= set("IVXL"):
        return word
    value = roman(word)
    if value is None:
        return word
    if before in RULERS and len(word) * value > 1:
        return f"the {ordinal(value).capitalize()}"
    numbered = before in NUMBERED_NAMES
    if numbered or (
        len(word) > 1
        and word not in ("IV", "XL", "LI", "XX")
        and len(before) > 2
        and before not in ("The", "And", "But")
    ):
        return cardinal(value)
    return word
