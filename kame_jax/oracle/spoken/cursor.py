"""The position in a text being read: the tokens ahead, and what still matters of those already read.

A rule looks ahead as far as it needs (raising `More` when that has not come yet), and changes the state only through
`done`, once it has decided: so a rule that had to wait is simply tried again.
"""

from __future__ import annotations

from collections import Counter, deque

from kame_jax.oracle.spoken.lexer import Lexer, Token
from kame_jax.oracle.spoken.units import COMPARED, CURRENCIES, GREEK, OPERATORS

PAUSE, STOP, LINE, RESTART, GLUE = ",", ".", "\n", "\r", "\b"
"""Read besides words: punctuation, the end of a line, that all before was thinking, an ending of the last word."""
AHEAD = 8
"""Tokens that are searched for a sign that makes a dash a minus."""
_ARITHMETIC = frozenset("+×÷±*/^=≈≠<>≤≥·∕")


class Cursor:
    """The tokens of a text from where it is read on, and the state of its clause."""

    def __init__(self, lexer: Lexer) -> None:
        self.lexer = lexer
        self.ahead: deque[Token] = deque()
        self.left = ""
        """What comes before: "number", "name" (of a variable), "word", "close", "operator", or "" for none of them."""
        self.value: float | None = None
        """Of the number before."""
        self.unit = False
        """The number before has a unit."""
        self.equals = self.math = False
        """The clause has had an equals sign or the like; another operator."""
        self.groups: list[tuple[str, bool, bool]] = []
        """Parentheses that are open: what they were read as, and `equals` and `math` outside."""
        self.open: set[str] = set()
        """Emphasis, quotes, bars and angle brackets that are open."""
        self.said: deque[str] = deque(maxlen=8)
        """The last words, in small letters."""
        self.last = self.before_last = ""
        """The kinds of the last two tokens."""
        self.name = ""
        """The last word, as it is written."""
        self.year = False
        """The last number was a year."""

    @property
    def changes(self) -> Counter[str]:
        """What was changed, by kind."""
        return self.lexer.changes

    def peek(self, index: int) -> Token:
        """The token `index` places ahead; raises `More` while it has not come."""
        ahead = self.ahead
        while len(ahead) <= index:
            if ahead and ahead[-1].kind == "end":
                return ahead[-1]
            ahead.append(self.lexer.next())
        return ahead[index]

    def done(self, used: int, left: str, value: float | None = None, unit: bool = False) -> None:
        """Advances by `used` tokens; `left` is what the next operator finds before it."""
        kinds = [self.before_last, self.last, *(self.peek(k).kind for k in range(max(0, used - 2), used))]
        self.before_last, self.last = kinds[-2:]
        for _ in range(used):
            if len(self.ahead) > 1 or self.ahead[0].kind != "end":
                self.ahead.popleft()
        self.left, self.value, self.unit = left, value, unit

    def boundary(self, used: int, sentence: bool = False) -> None:
        """A clause ends, or a whole sentence."""
        self.done(used, "")
        self.equals = self.math = False
        self.year = self.year and not sentence

    def skip_emphasis(self, index: int) -> int:
        """The index of the next token that is not emphasis."""
        return index + (self.peek(index).text in ("*", "**", "***", "_", "~~"))

    def is_number(self, index: int) -> bool:
        """Whether a number or a sum of money begins there."""
        token = self.peek(index)
        if token.kind == "sign" and token.text in CURRENCIES:
            follows = self.peek(index + 1)
            return follows.kind == "number"
        return token.kind in ("number", "fraction")

    def is_operand(self, index: int) -> bool:
        """Whether something begins there that can be calculated with."""
        index = self.skip_emphasis(index)
        token = self.peek(index)
        return (
            self.is_number(index)
            or token.text in ("(", "√", "∛", "∞")
            or self.is_variable(index)
            or (token.text == "-" and self.peek(index + 1).tight and self.is_number(index + 1))
        )

    def is_variable(self, index: int) -> bool:
        """Whether a letter there is a variable; "a" and "I" are where they are calculated with."""
        token = self.peek(index)
        if token.kind != "word" or len(token.text) != 1:
            return False
        if is_name(token.text):
            return True
        follows = self.peek(index + 1)
        minus = follows.text == "-" and follows.tight and self.peek(index + 2).tight
        return minus or self._is_arithmetic(index + 1)

    def is_operator(self, index: int) -> bool:
        """Whether there is an arithmetic sign, with something after it."""
        token = self.peek(index)
        if token.text in ("*", "**"):
            return self.is_operand(index + 1)
        if token.text in ("x", "X"):
            return self.is_number(index + 1)
        return self._is_arithmetic(index)

    def _is_arithmetic(self, index: int) -> bool:
        token = self.peek(index)
        return (
            token.kind == "sign"
            and token.text in _ARITHMETIC
            and self.peek(index + 1).kind not in ("end", "line")
        )

    def comes_equal(self, index: int) -> bool:
        """Whether an equals sign or the like comes in this clause, from `index` on, before long."""
        for k in range(index, index + AHEAD):
            token = self.peek(k)
            if token.kind in ("end", "line", "stop", "restart") or token.text in (",", ";"):
                return False
            if token.text == ":" and not (token.tight and self.peek(k + 1).tight):
                return False
            if token.kind == "sign" and token.text.rstrip("=") in ("", *COMPARED):
                return True
        return False


def is_name(word: str) -> bool:
    """Whether a word can be a variable."""
    return len(word) == 1 and (word not in "aAI" or word in GREEK)


def operator_words(sign: str) -> str | None:
    """How an operator is read; None for other signs."""
    return OPERATORS.get("=" if sign.startswith("==") else sign)
