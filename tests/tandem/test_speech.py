"""A streaming answer becomes the tokens of the whole answer, however it is cut."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kame_jax.assets import TINY
from kame_jax.oracle.text import encode_oracle, load_tokenizer
from kame_jax.tandem.speech import SpokenTokens, speakable

TOKENIZER = load_tokenizer(TINY / "tokenizer.model")
TEXT = st.text(alphabet="abcdeo TOé.,'-\n\t  ", max_size=60)
ANSWERS = [
    "It is four. Yes, four.",
    "<think>Let me see. 2 + 2 is four, or is it?</think> The answer is four.",
    "<think>never closed, so nothing is said",
    "Before <think> inside\nmore </think> after it all goes on",
    "a [link](http://example.org/a b) and a `code` < 3 words > more to come",
    "  leading and trailing   spaces \n\n and lines \n",
    "",
]


def cut(text, places):
    """`text` cut at these places."""
    edges = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[a:b] for a, b in itertools.pairwise(edges)]


def stream(pieces, **options):
    answer = SpokenTokens(TOKENIZER, **options)
    ids = [token for piece in pieces for token in answer.push(piece)]
    return ids + answer.finish(), answer


@settings(max_examples=200, deadline=None)
@given(st.one_of(TEXT, st.sampled_from(ANSWERS)), st.lists(st.integers(0, 200), max_size=30))
def test_any_chunking_gives_the_tokens_of_the_whole(text, places):
    ids, answer = stream(cut(text, places))
    assert ids == encode_oracle(TOKENIZER, speakable(text)) == answer.ids
    assert answer.text == speakable(text)


def test_the_references_way_gives_other_tokens():
    """Defect I3: each delta stripped and encoded alone."""
    pieces = ["It is four", ".", " Y", "es"]
    alone = [token for piece in pieces for token in TOKENIZER.encode(piece.strip())]
    assert stream(pieces)[0] == TOKENIZER.encode("It is four. Yes") != alone


def test_tokens_come_while_the_answer_still_streams():
    answer = SpokenTokens(TOKENIZER)
    given = [bool(answer.push(word)) for word in ("It ", "is ", "in ", "the ", "blue ", "box ")]
    assert given == [False, False, True, True, True, True]


def test_half_a_word_is_never_given_out():
    answer = SpokenTokens(TOKENIZER)
    for letter in "one two three fo":
        answer.push(letter)
    assert answer.ids == TOKENIZER.encode("one")


@pytest.mark.parametrize("piece", ["word ", "word " * 1000])
def test_an_endless_answer_is_cut_at_whole_words(piece):
    answer = SpokenTokens(TOKENIZER, max_words=5)
    for _ in range(100_000):
        answer.push(piece)
        if answer.full:
            break
    answer.finish()
    assert answer.ids == TOKENIZER.encode("word word word word word")
