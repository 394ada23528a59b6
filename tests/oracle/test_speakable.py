"""Whatever a language model writes comes out as words, periods and commas; what was changed is counted."""

import itertools
import re
import time
import unicodedata
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kame_jax.oracle.numbers import cardinal, ordinal, spell
from kame_jax.oracle.speakable import KINDS, REASONS, RESTART, Speaker, speakable
from kame_jax.oracle.spoken.cursor import Cursor
from kame_jax.oracle.spoken.lexer import Lexer

CASES = {
    "It is Paris.": "It is Paris.",
    "<think>user asks\nfor 2</think>Paris.": "Paris.",
    "<think>never closed, 3 + 4": "",
    "thinking aloud</think> Paris.": "Paris.",
    "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Paris.": "assistant Paris.",
    "**Paris**, *really* `sure`!": "Paris, really sure.",
    "# Answer\n- one\n- two": "Answer. one. two",
    "See [the page](http://x.org/a?b=1) or https://y.org": "See the page or y dot org",
    "```python\nprint(1)\n```\nDone": "Done",
    "It costs $5.": "It costs five dollars.",
    "$1 or $2.50 or €3 million": "one dollar or two dollars and fifty cents or three million euros",
    "1,234 people, 3.14 and 0.5%": "one thousand two hundred and thirty-four people, three point one four and "
    "zero point five percent",
    "At 12:30, 7:05 and 9:00": "At twelve thirty, seven oh five and nine o'clock",
    "the 21st and 3rd of 1999, 2005 and 2024": "the twenty-first and third of nineteen ninety-nine, "
    "two thousand and five and twenty twenty-four",
    "from 3-5 to 1/2": "from three to five to one half",
    "-5 degrees": "minus five degrees",
    "20°C & 5km": "twenty degrees Celsius and five kilometers",
    "x = 4 × 3 + 2": "x equals four times three plus two",
    "$\\frac{1}{2}x^2$": "one half x squared",
    "Don't, well-known “quotes”": "Don't, well-known quotes",
    "Really?! Yes... (maybe)": "Really. Yes. maybe",
    "Sure 😀👍🏽!": "Sure.",
    "e.g. Dr. Who": "for example Doctor Who",
    "...": "",
    "": "",
}


def read_table():
    """Rows of the table: what is written, and how it is spoken."""
    rows = []
    for line in Path(__file__).with_name("speakable_table.tsv").read_text("utf-8").splitlines():
        if line and "\t" in line:
            written, spoken = line.split("\t")
            rows.append((re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], written), spoken))
    return rows


TABLE = read_table()


@pytest.mark.parametrize(("written", "spoken"), CASES.items())
def test_text_is_spoken_like_this(written, spoken):
    assert speakable(written).text == spoken


def test_changes_are_counted_by_kind():
    changes = speakable("<think>x</think>**7** cats & 2 dogs 😀!").changes
    assert changes == {"thinking": 1, "markup": 1, "number": 2, "symbol": 1, "emoji": 1, "punctuation": 1}
    assert speakable("It is Paris.").changes == {}


def test_forms_are_spoken_by_their_value():
    said = {written: speakable(written).text for written, _ in TABLE}
    assert {w: said[w] for w, spoken in TABLE if said[w] != spoken} == {}
    assert [spoken for _, spoken in TABLE if speakable(spoken).text != spoken] == []


def test_the_table_is_large():
    assert len(TABLE) >= 500
    assert len({written for written, _ in TABLE}) == len(TABLE)


NUMBERS = st.one_of(
    st.integers(0, 10**12).map(str),
    st.integers(0, 10**12).map("{:,}".format),
    st.decimals(0, 10**6, places=2).map(str),
    st.integers(0, 99).map(".{:02}".format),
)
VALUES = {word: value for value, word in enumerate(map(cardinal, range(20)))} | {
    cardinal(ten): ten for ten in range(20, 100, 10)
}
SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
OPERATORS = {
    "+": "plus",
    "-": "minus",
    "*": "times",
    "×": "times",
    "÷": "divided by",
    "=": "equals",
    "<": "less than",
}


def understood(words):
    """The number that was spoken, worked out from its words by other means."""
    whole, _, decimals = words.replace(" and ", " ").partition(" point ")
    total = group = 0
    for word in whole.replace("-", " ").split():
        if word == "hundred":
            group *= 100
        elif word in SCALES:
            total, group = total + group * SCALES[word], 0
        else:
            group += VALUES[word]
    digits = "".join(str(VALUES[word]) for word in decimals.split())
    return Fraction(total + group) + (Fraction(int(digits), 10 ** len(digits)) if digits else 0)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(NUMBERS, min_size=2, max_size=6),
    st.lists(st.sampled_from(sorted(OPERATORS)), min_size=6, max_size=6),
    st.booleans(),
)
def test_as_many_numbers_and_operators_come_out_as_went_in_with_their_values(numbers, signs, spaced):
    signs = [*signs[: len(numbers) - 2], "="]
    space = " " if spaced else ""
    written = numbers[0] + "".join(
        f"{space}{sign}{space}{number}" for sign, number in zip(signs, numbers[1:])
    )
    said = speakable(written).text
    assert re.findall("|".join(OPERATORS.values()), said) == [OPERATORS[sign] for sign in signs]
    parts = [part.strip() for part in re.split("|".join(OPERATORS.values()), said)]
    assert [understood(part) for part in parts] == [Fraction(number.replace(",", "")) for number in numbers]


PIECES = (
    "Dr . St No vs etc U S a m II Henry 3 14 2026 - / = * ( ) $ km % the a x , : ; ' \" ^ | < > & # @ ~ _ ` ``` $x$ "
    "\\( \\) [ ](b) March <think> </think> **"
).split(" ") + [" ", " ", " ", "\n", "²", "½", "₂", "°", "√", "–", "—", "😀", "e\u0301", "न\u093f"]  # fmt: skip
ANYTHING = st.one_of(
    st.text(max_size=60),
    st.text(alphabet="<>think/|$*_`#-.,!?()[]{}\\^=+%&12305: ab\n", max_size=60),
    st.lists(st.sampled_from(PIECES), max_size=25).map("".join),
)


@settings(max_examples=150, deadline=None)
@given(ANYTHING, st.lists(st.integers(0, 100), max_size=10))
def test_only_words_periods_and_commas_are_left_and_a_second_time_or_a_cut_changes_nothing(text, cuts):
    once = speakable(text)
    assert set(once.changes) <= set(KINDS)
    assert {refusal.reason for refusal in once.refused} <= set(REASONS)
    assert len(once.refused) == once.changes.get("refused", 0)
    for character in once.text:
        assert character in " .,'-" or unicodedata.category(character)[0] in "LM"
    assert not re.search(r"[ .,][ .,](?<!, )(?<!\. )|^[ .,'-]|[ ,'-]$", once.text)
    assert speakable(once.text).text == once.text
    speaker, words = Speaker(), []
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    for start, end in itertools.pairwise(edges):
        words += speaker.push(text[start:end])
    words += speaker.finish()
    words = words[words.index(RESTART) + 1 :] if RESTART in words else words
    assert (" ".join(words), speaker.refused) == (once.text, once.refused)
    assert +speaker.changes == once.changes


@pytest.mark.parametrize(
    ("written", "spoken", "reason"),
    [
        ("Sum $\\int_0^1 x dx$ it.", "Sum it.", "formula"),
        ("\\begin{align} x &= 5 \\end{align} Done.", "Done.", "formula"),
        ("Run:\n```\nx = 1\n```\nDone.", "Run, Done.", "code"),
        ("See https://x.org/a?b=1 there.", "See there.", "address"),
        ("It is 5 ⊕ 3.", "It is five three.", "symbol"),
        (f"It is {'7' * 200}.", "It is.", "number"),
        ("one two " * 10, "one two one two", "long"),
    ],
)
def test_what_cannot_be_spoken_is_left_out_and_told(written, spoken, reason):
    said = speakable(written, max_chars=17) if reason == "long" else speakable(written)
    assert said.text == spoken
    assert [refusal.reason for refusal in said.refused] == [reason]
    assert said.changes["refused"] == 1


HOSTILE = (
    "\n|😀|👍🏽|<s> </s> <unk> |$$ |$|$1|$x|```|`|( |(|((1+|(1|. |.|\\|\\(|\\[ |\\frac{|\\a |1|1 |1,|1.|1-|1-1 - |"
    "1/|1:|12 345 |a\u0301|क\u093e|* |*|**a** |_|<|<a |<a b=|<think>|<think></think>|</think>|[|](|](a|[1, 1|&|&amp;|"
    "a@|a.|http://|x^|--|- |=|~|²|½|a-|'|\"|日本|Dr. |U.S. |II |March 7 |$5-|$5 - $6 |5!|5%|√(|{|\x00|\u200b|\ud800|①|"
    "ﷺ|x - y |3 - 2 |\t"
).split("|")


def work(text, monkeypatch):
    """Tokens that are looked at for a text, and the characters that pass through the lexer's buffer."""
    done = Counter()

    def counted(name, function):
        def call(self, *arguments):
            done[name] += 1 if name == "peek" else len(self._text)
            return function(self, *arguments)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(Cursor, "peek", counted("peek", Cursor.peek))
        patch.setattr(Lexer, "_take", counted("take", Lexer._take))
        speakable(text, max_chars=len(text))
    return done["peek"] + done["take"]


@pytest.mark.parametrize("unit", HOSTILE[::6])
def test_work_is_linear_in_a_hostile_text(unit, monkeypatch):
    once, twice = (work((unit * size)[:size], monkeypatch) for size in (4096, 8192))
    assert twice < 2.3 * once + 200
    assert once < 100 * 4096, "what is looked at for one character is bounded"


def test_a_hundred_thousand_hostile_characters_take_no_time():
    """They took minutes when patterns were tried over and over; ten times what they take now is allowed."""
    started = time.process_time()
    for unit in HOSTILE[::6]:
        assert speakable((unit * 100_000)[:100_000]).changes
    assert time.process_time() - started < 20


def test_numbers_in_words():
    said = {
        0: "zero",
        13: "thirteen",
        40: "forty",
        105: "one hundred and five",
        1_000_001: "one million and one",
    }
    assert {n: cardinal(n) for n in said} == said
    assert cardinal(-7) == "minus seven"
    assert cardinal(10**15) == "one quadrillion"
    assert spell("1" + "0" * 15).startswith("one zero zero"), "so many digits are an identifier"
    assert [ordinal(n) for n in (1, 2, 12, 20, 33, 100)] == [
        "first",
        "second",
        "twelfth",
        "twentieth",
        "thirty-third",
        "one hundredth",
    ]
