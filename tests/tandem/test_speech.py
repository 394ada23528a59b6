"""A streaming answer becomes the tokens of the whole answer, however it is cut."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kame_jax.assets import TINY
from kame_jax.oracle.speakable import speakable
from kame_jax.oracle.text import encode_oracle, load_tokenizer
from kame_jax.tandem.speech import SpokenTokens

TOKENIZER = load_tokenizer(TINY / "tokenizer.model")
TEXT = st.text(alphabet="abcdeo TOé.,'-\n\t  ", max_size=60)
ANSWERS = [
    "It is four. Yes, four.",
    "<think>Let me see. 2 + 2 is four, or is it?</think> The answer is four.",
    "<think>never closed, so nothing is said",
    "Before <think> inside\nmore </think> after it all goes on",
    "a [link](http://example.org/a) and a `code` < 3 words > more to come",
    "It costs $5 million, or 3 - 4 % more, **much** more; that is 1,234.5 m in 1999.",
    "Here:\n```python\nprint(1)\n```\nThat is all of it.",
    "1. First do this\n2. Then do that\n- and this, at 10:30",
    "  leading and trailing   spaces \n\n and lines \n",
    "",
]


def cut(text, places):
    """`text` cut at these places."""
    edges = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[a:b] for a, b in itertools.pairwise(edges)]


def stream(pieces, **options):
    """What a conversation ends up with: a restart puts the whole answer in the place of what was given."""
    answer, ids, restarts = SpokenTokens(TOKENIZER, **options), [], 0
    for piece in [*pieces, None]:
        new = answer.finish() if piece is None else answer.push(piece)
        ids = new if answer.restarts > restarts else ids + new
        restarts = answer.restarts
    return ids, answer


@settings(max_examples=200, deadline=None)
@given(st.one_of(TEXT, st.sampled_from(ANSWERS)), st.lists(st.integers(0, 200), max_size=30))
def test_any_chunking_gives_the_tokens_of_the_whole(text, places):
    ids, answer = stream(cut(text, places))
    assert ids == encode_oracle(TOKENIZER, speakable(text).text) == answer.ids
    assert answer.restarts == stream(list(text))[1].restarts == stream([text])[1].restarts


@pytest.mark.parametrize("text", ANSWERS)
def test_what_was_given_out_is_not_taken_back(text):
    assert stream(list(text))[1].restarts == 0


def test_thinking_that_nobody_saw_begin_is_taken_back():
    ids, answer = stream(list("First I think about it for a while </think> It is four."))
    assert answer.restarts == 1
    assert ids == encode_oracle(TOKENIZER, "It is four.")


def test_the_references_way_gives_other_tokens():
    """Defect I3: each delta stripped and encoded alone."""
    pieces = ["It is four", ".", " Y", "es"]
    alone = [token for piece in pieces for token in TOKENIZER.encode(piece.strip())]
    assert stream(pieces)[0] == TOKENIZER.encode("It is four. Yes") != alone


def test_tokens_come_while_the_answer_still_streams():
    answer = SpokenTokens(TOKENIZER)
    given = [bool(answer.push(word)) for word in ("It ", "is ", "in ", "the ", "blue ", "box ")]
    assert given == [False, True, True, True, True, True]


def test_half_a_word_is_never_given_out():
    answer = SpokenTokens(TOKENIZER)
    for letter in "one two three four fi":
        answer.push(letter)
    assert answer.ids == TOKENIZER.encode("one two three")


@pytest.mark.parametrize("piece", ["word ", "word " * 1000])
def test_an_endless_answer_is_cut_at_whole_words(piece):
    answer = SpokenTokens(TOKENIZER, max_words=5)
    for _ in range(100_000):
        answer.push(piece)
        if answer.full:
            break
    answer.finish()
    assert answer.ids == TOKENIZER.encode("word word word word word")


class Counting:
    """A tokenizer that counts the characters it encodes."""

    characters = 0

    def encode(self, text):
        self.characters += len(text)
        return TOKENIZER.encode(text)


def test_a_word_is_encoded_when_it_comes_and_once_more_with_the_whole():
    tokenizer, text = Counting(), "in the blue box " * 50
    answer = SpokenTokens(tokenizer)
    for piece in cut(text, range(0, len(text), 3)):
        answer.push(piece)
    answer.finish()
    assert tokenizer.characters < 2.1 * len(text)


def test_what_is_too_long_is_cut_at_a_whole_word_and_told():
    answer = SpokenTokens(TOKENIZER, max_chars=18)
    answer.push("in the blue box with red")
    assert answer.full
    answer.finish()
    assert answer.text == "in the blue box"
    assert [refusal.reason for refusal in answer.refused] == ["long"]
    assert answer.changes["refused"] == 1


def test_a_tokenizer_whose_pieces_span_words_gives_those_of_the_whole():
    class Spanning:
        def encode(self, text):
            return [len(text)]

    answer = SpokenTokens(Spanning())
    assert answer.push("in the blue ") == [2, 3]
    assert answer.finish() == answer.ids == [len("in the blue")]
    assert answer.restarts == 1
