"""What counts as the user's words: in any language, and not a recogniser's remarks."""

import time

import pytest

from kame_jax.tandem.words import count_words, join_words, split_words, spoken_part


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "...",
        ". .",
        "♪",
        "♪ ♪",
        "[Music]",
        "(applause) ...",
        "*laughs*",
        "<noise>",
        "[BLANK_AUDIO]",
        "【音楽】",
    ],
)
def test_punctuation_and_notes_are_not_said(text):
    assert spoken_part(text) == ""
    assert count_words(spoken_part(text)) == 0


def test_what_is_said_between_notes_stays():
    assert spoken_part("[Music] Which one\n is the (coughs) key?") == "Which one is the key?"
    assert spoken_part("♪ la la ♪") == "la la"
    assert spoken_part("two * three") == "two * three"
    assert spoken_part("half a character \ud800") == "half a character \ufffd"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Which one is the key?", 5),
        ("Well - yes ...", 2),
        ("鍵はどれですか", 4),
        ("iPhoneはどこ", 3),
        ("أين المفتاح", 2),
        ("열쇠는 어디에", 2),
        ("กุญแจอยู่ไหน", 5),
    ],
)
def test_words_are_counted_in_every_language(text, words):
    assert count_words(text) == words


@pytest.mark.parametrize("text", ["Which one is the key?", "鍵はどれですか", "Where is 鍵は now", "क्या यह"])
def test_words_joined_again_are_the_text(text):
    # A space beside a character of such a language is not kept: it means nothing there.
    assert join_words(split_words(text)).replace(" ", "") == text.replace(" ", "")
    assert split_words(join_words(split_words(text))) == split_words(text)


def test_time_grows_with_the_text_alone():
    for piece in ("(", "[a ", "*a", "* ", "<", "♪", "鍵", "\ud800", "()"):
        started = time.perf_counter()
        spoken_part(piece * 100_000)
        split_words(piece * 100_000)
        assert time.perf_counter() - started < 2.0, piece
