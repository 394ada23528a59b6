"""Whatever a language model writes comes out as words, periods and commas; what was changed is counted."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kame_jax.oracle.numbers import cardinal, ordinal
from kame_jax.oracle.speakable import KINDS, speakable

CASES = {
    "It is Paris.": "It is Paris.",
    "<think>user asks\nfor 2</think>Paris.": "Paris.",
    "<think>never closed, 3 + 4": "",
    "thinking aloud</think> Paris.": "Paris.",
    "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Paris.": "assistant Paris.",
    "**Paris**, *really* `sure`!": "Paris, really sure.",
    "# Answer\n- one\n- two": "Answer. one. two",
    "See [the page](http://x.org/a?b=1) or https://y.org": "See the page or",
    "```python\nprint(1)\n```\nDone": "Done",
    "It costs $5.": "It costs five dollars.",
    "$1 or $2.50 or €3 million": "one dollar or two dollars and fifty cents or three million euros",
    "1,234 people, 3.14 and 0.5%": "one thousand two hundred and thirty-four people, three point one four and "
    "zero point five percent",
    "At 12:30, 7:05 and 9:00": "At twelve thirty, seven oh five and nine o'clock",
    "the 21st and 3rd of 1999, 2005 and 2024": "the twenty-first and third of nineteen ninety-nine, "
    "two thousand and five and twenty twenty-four",
    "from 3-5 to 1/2": "from three to five to one over two",
    "-5 degrees": "minus five degrees",
    "20°C & 5km": "twenty degrees Celsius and five km",
    "x = 4 × 3 + 2": "x equals four times three plus two",
    "$\\frac{1}{2}x^2$": "one over two x to the power of two",
    "Don't, well-known “quotes”": "Don't, well-known quotes",
    "Really?! Yes... (maybe)": "Really. Yes. maybe",
    "Sure 😀👍🏽!": "Sure.",
    "e.g. Dr. Who": "for example Doctor Who",
    "...": "",
    "": "",
}


@pytest.mark.parametrize(("written", "spoken"), CASES.items())
def test_text_is_spoken_like_this(written, spoken):
    assert speakable(written).text == spoken


def test_changes_are_counted_by_kind():
    changes = speakable("<think>x</think>**7** cats & 2 dogs 😀!").changes
    assert changes == {"thinking": 1, "markup": 1, "number": 2, "symbol": 1, "emoji": 1, "punctuation": 1}
    assert speakable("It is Paris.").changes == {}


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60) | st.text(alphabet="<>think/|$*_`#-.,!?()[]{}\\^=+%&12305: ab\n", max_size=60))
def test_only_words_periods_and_commas_are_left_and_a_second_time_changes_nothing(text):
    once = speakable(text)
    assert set(once.changes) <= set(KINDS)
    assert re.fullmatch(r"[\w\s.,'-]*", once.text)
    assert "\n" not in once.text
    assert not re.search(r"[0-9_]", once.text)
    assert speakable(once.text).text == once.text


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
    assert cardinal(10**15).startswith("one zero zero")
    assert [ordinal(n) for n in (1, 2, 12, 20, 33, 100)] == [
        "first",
        "second",
        "twelfth",
        "twentieth",
        "thirty-third",
        "one hundredth",
    ]
