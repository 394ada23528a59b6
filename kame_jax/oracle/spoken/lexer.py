"""Text as a model writes it, to tokens: thinking, markup and formulas are resolved here.

One pass over text that may still be streaming. A token is emitted once nothing to come can change it, and its lookahead
is bounded, so the time is linear in the length of any text.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections import Counter
from typing import NamedTuple

from kame_jax.oracle.spoken import latex
from kame_jax.oracle.spoken.fold import LETTER, LOWER, LOWERED, PICTURE, PLUS, RAISE, RAISED, fold
from kame_jax.oracle.spoken.units import ALIKE, CURRENCIES, OPERATORS, SIGNS

REASONS = ("address", "code", "formula", "long", "number", "symbol")
"""Why a part of a text is left out."""

_NAMES = "think|thinking|thought|reasoning|reflection"
_THINKING = re.compile(rf"<({_NAMES})>", re.IGNORECASE)
_THOUGHT = re.compile(rf"</(?:{_NAMES})>", re.IGNORECASE)
_CHANNEL = re.compile(r"<\|channel\|>\s?(\w{1,40}+)?", re.IGNORECASE)
_CHANNEL_ENDS = re.compile(r"(?=<\|channel\|>\s?final)|<\|end\|>", re.IGNORECASE)
_FENCE_ENDS = re.compile("```")
_CONTROL = re.compile(r"<\|[^|<>\s]{0,60}\|>")
_RAISED = re.compile(r"<(sup|sub)>([-+]?\w{1,10})</\1>", re.IGNORECASE)
_LINES = frozenset("br p li div tr ul ol table h1 h2 h3 h4 h5 h6".split())
_ENTITY = re.compile(r"&(?:[a-zA-Z]{2,8}\d{0,2}|#\d{1,7}|#x[0-9a-fA-F]{1,6});")
_NAME = r"[a-zA-Z][\w:-]{0,20}"
_GROUP = r"\{(?:[^{}\n]|\{(?:[^{}\n]|\{[^{}\n]{0,60}\}){0,60}\}){0,200}\}"


class _Construct(NamedTuple):
    """Something with a beginning and an end: its pattern when whole, and while its end has not come yet."""

    whole: re.Pattern[str]
    begun: re.Pattern[str]


def _construct(whole: str, begun: str) -> _Construct:
    return _Construct(re.compile(whole, re.DOTALL), re.compile(begun + r"\Z", re.DOTALL))


_COMMENT = _construct(r"<!--.{0,600}?-->", r"<!--.{0,602}")
_CALCULATED = _construct(r"<<[^<>\n]{1,120}>>", r"<<[^<>\n]{0,120}>?")
_TAG = _construct(
    rf"<(/?)({_NAME})(?:\s{_NAME}=[^<>]{{0,200}})?\s?/?>", rf"</?{_NAME}(?:\s{_NAME}=[^<>]{{0,202}})?"
)
_LINK = _construct(
    r"\]\([^()\n]{0,400}(?:\([^()\n]{0,100}\)[^()\n]{0,100})?\)|\]\[[^\[\]\n]{0,40}\]",
    r"\](?:\([^()\n]{0,400}(?:\([^()\n]{0,100}(?:\)[^()\n]{0,100})?)?|\[[^\[\]\n]{0,40})",
)
_NOTE = _construct(r"\[(?:\^\w{1,20}|\d{1,3}(?:,\s?\d{1,3}){0,5})\](?!\()", r"\[[\d,\s]{1,30}")
_DISPLAY = _construct(r"\$\$([^$]{1,600})\$\$", r"\$\$[^$]{0,600}\$?")
_INLINE = _construct(r"\$([^$\s\d][^$\n]{0,300})(?<![\s+*/=-])\$(?!\d)", r"\$[^$\n]{0,301}")
_PAREN = _construct(r"\\\((.{1,600}?)\\\)|\\\[(.{1,600}?)\\\]", r"\\[(\[].{0,601}")
_ENVIRONMENT = _construct(
    r"\\begin\{(\w{1,20}\*?)\}.{0,2000}?\\end\{\1\}", r"\\begin\{\w{1,20}\*?\}.{0,2025}"
)
_COMMAND = _construct(
    rf"\\[A-Za-z]{{1,30}}+(?:\[\d\])?(?:{_GROUP}){{0,2}}+(?!\{{)", r"\\[A-Za-z]{1,30}[\[{][^\n]{0,300}"
)
# Money or a formula: a plain word ends the search, so that "$5 million" is known at once.
_SUM = (
    r"(?=[\d.-])(?:[^$\n\\A-Za-z]|\\[A-Za-z]{1,20}+(?:\{[^{}$\n]{0,60}\})?|\\[^A-Za-z\n]|[A-Za-z](?![A-Za-z]))"
    r"{1,300}+"
)
_MONEY = _construct(rf"\$({_SUM})(?<![\s+*/=-])\$(?!\d)", rf"\$(?:{_SUM})")

_LETTERS = re.compile(r"[^\W\d_](?:-[^\W\d_])+")
_RULE = re.compile(r"[-*_=~|][-*_=~|: ]{0,199}")
_BLOCK = re.compile(r"#{1,6}(?=\s|\Z)|>(?=[\sA-Za-z*]|\Z)|[-*+•–—](?=\s|\Z)|\|(?=[\s:]|---|\Z)")
_TOKEN = re.compile(
    "|".join(
        (
            r"(?P<line>\n)",
            r"(?P<space>\s++)",
            r"(?P<address>(?:https?://|ftp://|www\.)[^\s<>\"]++"
            r"|[\w.+-]{1,64}+@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8})",
            rf"(?P<fraction>{PLUS}?\d{{1,9}}⁄\d{{1,9}})",
            r"(?P<number>\d++(?:[.,]\d++)*+|(?<![\w.)\]])\.\d++)",
            rf"(?P<initials>(?<![\w.])(?:{LETTER}(?:\.{LETTER})++\.?|Ph\.D\.?)(?!\w))",
            rf"(?P<word>{LETTER}++(?:['-]{LETTER}++)*+)",
            rf"(?P<raised>[{RAISED}]++)",
            rf"(?P<lowered>[{LOWERED}]++)",
            r"(?P<stop>(?:[.?]|!(?!=)|(?<=\d)!)++)",
            "(?P<sign>"
            + "|".join(map(re.escape, sorted(ALIKE, key=len, reverse=True)))
            + r"|\*++|=++|\|\||~~|---?"
            rf"|[{re.escape(''.join({*OPERATORS, *SIGNS, *CURRENCIES}))}·–/|~^_#-])",
            r"(?P<mark>[,;:()\[\]{}\"'—′″])",
            rf"(?P<emoji>{PICTURE}++)",
            r"(?P<other>.)",
        )
    )
)


class More(Exception):
    """More text is needed to decide."""


class Token(NamedTuple):
    """A piece of text of one kind: a name in `_TOKEN`, "restart" (all before it was thinking) or "end"."""

    kind: str
    text: str
    tight: bool
    """Nothing separates it from the token before."""


class Refusal(NamedTuple):
    """A part of a text that was left out because it cannot be spoken, and why: one of `REASONS`."""

    text: str
    reason: str


class Lexer:
    """Text in, piece by piece; tokens out, one by one. `changes` and `refused` hold what was left out on the way."""

    def __init__(self) -> None:
        self.changes: Counter[str] = Counter()
        self.refused: list[Refusal] = []
        self._waiting: list[str] = []
        self._text, self._at, self._whole = "", 0, False
        self._tight = self._table = self._literal = self._restarted = False
        self._fresh = True
        self._until: re.Pattern[str] | None = None

    def feed(self, piece: str) -> None:
        """Takes the next piece of text. A word that may still get longer, and the space before it, wait for more."""
        self._waiting.append(piece)
        if not any(map(str.isspace, piece)):
            return
        text = "".join(self._waiting)
        words = text.rstrip()
        if len(words) == len(text):
            words = text[: len(text) - len(text.rsplit(None, 1)[-1])].rstrip()
        self._waiting = [_squeeze(text[len(words) :])]
        self._take(words)

    def finish(self, cut: bool = False) -> None:
        """The text is complete, or was `cut` inside of its last word, which is dropped then."""
        self._take("" if cut else "".join(self._waiting))
        self._waiting, self._whole = [], True

    def _take(self, words: str) -> None:
        """Whole words join the text; what was read is dropped, except for the last character."""
        start = max(0, self._at - 1)
        self._text, self._at = self._text[start:] + _squeeze(fold(words)), self._at - start

    def next(self) -> Token:
        """The next token; after the last one of a complete text, "end" again and again.

        Raises:
            More: the text so far does not decide it yet.
        """
        while True:
            if self._until is not None:
                self._skip_hidden()
            if self._at == len(self._text):
                if not self._whole:
                    raise More
                return Token("end", "", False)
            if self._fresh and not self._literal and self._block():
                continue
            opener = None if self._literal else _OPENERS.get(self._text[self._at])
            token = opener(self) if opener is not None else None
            token = token or self._plain()
            if token.kind == "markup":
                continue
            self._tight = token.kind not in ("line", "space", "emoji", "restart")
            if token.kind not in ("space", "emoji"):
                self._fresh = token.kind in ("line", "restart")
                self._table = self._table and not self._fresh
                return token

    def _plain(self) -> Token:
        match = _TOKEN.match(self._text, self._at)
        assert match is not None
        if self._table and match[0] == "|" and match.end() == len(self._text) and not self._whole:
            raise More
        assert match.lastgroup is not None
        self._at, self._literal = match.end(), False
        kind = match.lastgroup
        if kind == "word" and _LETTERS.fullmatch(match[0]):
            # Letters with hyphens in between are a difference or an abbreviation: they come one by one.
            self._at = match.start() + 1
            return Token(kind, match[0][0], self._tight)
        if kind == "emoji":
            self.changes["emoji"] += 1
        elif kind == "sign" and self._table and match[0] == "|":
            if self._text[self._at : self._at + 1] in ("", "\n"):
                return Token("space", "", False)
            return Token("mark", ";", self._tight)
        elif kind == "other":
            if unicodedata.category(match[0]) in ("Sm", "Sc", "No", "Nl"):
                self.refuse(match[0], "symbol")
            else:
                self.changes["punctuation"] += 1
            kind = "space"
        return Token(kind, match[0], self._tight)

    def refuse(self, text: str, reason: str) -> None:
        """Counts a part that is left out."""
        self.refused.append(Refusal(text if len(text) <= 60 else f"{text[:57]}...", reason))
        self.changes["refused"] += 1

    def _skip(self, end: int, kind: str = "markup") -> Token:
        self._at, self._tight = end, False
        if kind:
            self.changes[kind] += 1
        return Token("markup", "", False)

    def _splice(self, end: int, text: str) -> Token:
        """`text` is read in place of what is there."""
        start = max(0, self._at - 1)
        self._text, self._at = self._text[start : self._at] + text + self._text[end:], self._at - start
        return Token("markup", "", self._tight)

    def _match(self, construct: _Construct) -> re.Match[str] | None:
        """A construct that begins here; raises More while it may still be completed."""
        match = construct.whole.match(self._text, self._at)
        if match is None and not self._whole and construct.begun.match(self._text, self._at):
            raise More
        return match

    def _skip_hidden(self) -> None:
        """Thinking and code: nothing is emitted until they end."""
        assert self._until is not None
        match = self._until.search(self._text, self._at)
        if match is None:
            # The end may be cut: its longest form is kept.
            self._at = len(self._text) if self._whole else max(self._at, len(self._text) - 24)
            if not self._whole:
                raise More
        else:
            self._at = match.end()
        self._until = None

    def _block(self) -> bool:
        """Whether markup that begins a line was taken: a rule, a heading, a quotation, an item, a row of a table."""
        rule = _RULE.match(self._text, self._at)
        if rule is not None:
            full = len(rule[0]) == 200
            if rule.end() == len(self._text) and not (self._whole or full):
                raise More
            ends = full or self._text[rule.end() : rule.end() + 1] in ("", "\n")
            if ends and re.search(r"([-*_=~]) ?\1 ?\1", rule[0]):
                self._skip(rule.end())
                return True
        match = _BLOCK.match(self._text, self._at)
        if match is None:
            return False
        self._skip(match.end())
        if match[0] == "|":
            self._table, self._fresh = True, False
        return True

    def _angle(self) -> Token | None:
        rest = self._text[self._at : self._at + 2]
        if rest == "<<":
            match = self._match(_CALCULATED)
            return self._skip(match.end()) if match else None
        if rest == "<!":
            match = self._match(_COMMENT)
            return self._skip(match.end()) if match else None
        if rest == "<|":
            return self._control()
        thinking = _THINKING.match(self._text, self._at)
        if thinking is not None:
            self._until = re.compile(f"</{thinking[1]}>", re.IGNORECASE)
            return self._skip(thinking.end(), "thinking")
        thought = _THOUGHT.match(self._text, self._at)
        if thought is not None and not self._restarted:
            # A model whose template opened the tag writes only its end.
            self._restarted = True
            self._skip(thought.end(), "thinking")
            return Token("restart", "", False)
        raised = _RAISED.match(self._text, self._at)
        if raised is not None:
            return self._splice(
                raised.end(), raised[2].translate(RAISE if raised[1].lower() == "sup" else LOWER)
            )
        match = self._match(_TAG)
        if match is None:
            return None
        self._skip(match.end())
        return Token("line" if match[2].lower() in _LINES else "markup", "", False)

    def _control(self) -> Token | None:
        channel = _CHANNEL.match(self._text, self._at)
        if channel is not None:
            if channel[1] is None and channel.end() == len(self._text) and not self._whole:
                raise More
            name = (channel[1] or "").lower()
            if name in ("analysis", "commentary"):
                self._until = _CHANNEL_ENDS
                return self._skip(channel.end(), "thinking")
            return self._skip(channel.end() if name == "final" else channel.end() - len(name))
        match = _CONTROL.match(self._text, self._at)
        return self._skip(match.end()) if match else None

    def _backtick(self) -> Token:
        if not self._text.startswith("```", self._at):
            return self._skip(self._at + 1, "" if self._tight else "markup")
        self.refuse("```", "code")
        self._until = _FENCE_ENDS
        return self._skip(self._at + 3)

    def _bracket(self) -> Token | None:
        if self._text.startswith("[", self._at):
            match = self._match(_NOTE) if self._tight or self._text.startswith("[^", self._at) else None
        else:
            match = self._match(_LINK)
        return self._skip(match.end()) if match else None

    def _bang(self) -> Token | None:
        return self._skip(self._at + 1, "") if self._text.startswith("![", self._at) else None

    def _dollar(self) -> Token | None:
        if self._text.startswith("$$", self._at):
            match = self._match(_DISPLAY)
        elif self._text[self._at + 1 : self._at + 2] in tuple("0123456789.-"):
            match = self._match(_MONEY)
            if match is not None and not re.search(r"[\\^_=+*/<>-]|^[\d.,]+$", match[1]):
                match = None
        else:
            match = self._match(_INLINE) if not self._text[self._at + 1 : self._at + 2].isspace() else None
        return self._formula(match[1], match.end()) if match else None

    def _formula(self, text: str, end: int) -> Token:
        said = latex.plain(text)
        if said is None:
            self.refuse(text, "formula")
            return self._skip(end, "")
        self.changes["formula"] += 1
        self._fresh = False
        before, after = self._text[max(0, self._at - 1) : self._at], self._text[end : end + 1]
        return self._splice(end, f"{' ' if before.isalnum() else ''}{said}{' ' if after.isalnum() else ''}")

    def _backslash(self) -> Token | None:
        follows = self._text[self._at + 1 : self._at + 2]
        if follows in ("(", "["):
            match = self._match(_PAREN)
            if match is not None:
                return self._formula(match[1] or match[2], match.end())
        if follows.isalpha() and follows.isascii():
            environment = self._match(_ENVIRONMENT) if self._text.startswith("\\begin{", self._at) else None
            if environment is not None:
                self.refuse(environment[0], "formula")
                return self._skip(environment.end(), "")
            match = self._match(_COMMAND)
            if match is not None:
                return self._formula(match[0], match.end())
        # An escaped character stands for itself.
        self._literal = bool(follows) and not follows.isalnum()
        return self._skip(self._at + 1)

    def _ampersand(self) -> Token | None:
        match = _ENTITY.match(self._text, self._at)
        if match is None:
            return None
        said = html.unescape(match[0])
        if len(said) > 2:
            return None
        said = fold(said)
        self._literal = not said.isspace()
        return self._splice(match.end(), said)


_OPENERS = {
    "<": Lexer._angle,
    "`": Lexer._backtick,
    "[": Lexer._bracket,
    "]": Lexer._bracket,
    "!": Lexer._bang,
    "$": Lexer._dollar,
    "\\": Lexer._backslash,
    "&": Lexer._ampersand,
}


def _squeeze(text: str) -> str:
    """White space as one character: a line break if there is one in it."""
    return re.sub(r"\s+", lambda run: "\n" if run[0].splitlines()[0] != run[0] else " ", text)
