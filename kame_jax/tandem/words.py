"""What counts as words of the user: a recogniser's notes do not, and languages without spaces have words as well."""

from __future__ import annotations

import re

from kame_jax.llm.reply import mended

MOST_CHARS = 8_000
"""Of a turn; a longer one keeps its end."""
_BRACKETS = r"\[\](){}<>（）【】［］"
_NOTE = re.compile(
    rf"[\[({{<（【［][^{_BRACKETS}]{{0,80}}[\])}}>）】］]"  # [Music], (applause), <noise>
    r"|\*[^*\s][^*]{0,80}\*"  # *laughs*
    r"|[♩♪♫♬🎵🎶]"
)
_UNSPACED = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Tibetan, Burmese, Khmer
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9d"  # kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
)
_WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")
_ENDS_UNSPACED, _BEGINS_UNSPACED = re.compile(rf"[{_UNSPACED}]\Z"), re.compile(rf"[{_UNSPACED}]")
CHARS_PER_WORD = 2
"""Of languages without spaces, roughly."""


def spoken_part(text: str) -> str:
    """The spoken words of a transcript, on one line: no notes such as "[Music]"; empty if only punctuation is left."""
    text = " ".join(_NOTE.sub(" ", mended(text[-MOST_CHARS:])).split())
    return text if any(c.isalnum() for c in text) else ""


def split_words(text: str) -> list[str]:
    """The words of a text; of languages without spaces, the characters."""
    return _WORD.findall(text)


def join_words(words: list[str]) -> str:
    """The inverse of `split_words` for a text with single spaces."""
    parts: list[str] = []
    for word in words:
        if parts and not _BEGINS_UNSPACED.match(word) and not _ENDS_UNSPACED.search(parts[-1]):
            parts.append(" ")
        parts.append(word)
    return "".join(parts)


def count_words(text: str) -> int:
    """About how many words were said; punctuation does not count."""
    words = [word for word in split_words(text) if any(c.isalnum() for c in word)]
    unspaced = sum(bool(_BEGINS_UNSPACED.match(word)) for word in words)
    return len(words) - unspaced + -(-unspaced // CHARS_PER_WORD)
