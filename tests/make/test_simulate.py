"""Simulated oracle events are those of the released generator, and hint levels reveal what they say."""

import json
from pathlib import Path

import pytest

from kame_jax.data.words import Word, words_from_json
from kame_jax.errors import InputError
from kame_jax.make.simulate import HintStrategy, simulate_oracle
from kame_jax.oracle.levels import hint_level

CASES = json.loads((Path(__file__).parents[1] / "golden" / "data" / "simulate.json").read_text())


def reference_predictor(request):
    """What make_data.py gave the released generator to ask."""
    return "" if request.word_count % 5 == 4 else f" {request.next_speaker} {request.hint[:9]}"


def test_events_equal_the_released_generator():
    assert sum(len(case["records"]) for case in CASES) > 100
    for case in CASES:
        words = words_from_json(case["words"])
        assert simulate_oracle(words, reference_predictor, interval=case["interval"]) == case["records"]


def test_levels_follow_the_bounds_of_the_release_and_of_the_paper():
    ratios = (0.2, 0.5, 0.65, 0.8, 0.95, 0.99, 1.0)
    assert [hint_level(r) for r in ratios] == [0, 0, 1, 2, 3, 4, 5]
    assert [hint_level(r, "paper") for r in ratios] == [0, 1, 2, 3, 4, 4, 5]
    with pytest.raises(InputError, match="expected one of"):
        hint_level(0.5, "thesis")


def test_the_hint_strategy_says_nothing_early_and_the_truth_when_the_question_is_over():
    asked = "who has the red key now please".split()
    words = [Word("B", w, 0.3 * i, 0.3 * i + 0.3) for i, w in enumerate(asked)]
    words += [Word("A", w, 2.8 + 0.4 * i, 3.2 + 0.4 * i) for i, w in enumerate("Martha from Rome".split())]
    said = {r["timestamp_ms"]: r["prediction"] for r in simulate_oracle(words, HintStrategy())}
    assert said == {
        1500: "Martha from",
        2000: "Martha from",
        2500: "Martha from Rome",
        3000: "Martha from Rome",
    }


def test_foreign_speakers_and_intervals_are_refused():
    word = Word("C", "hello", 0.0, 1.0)
    with pytest.raises(InputError, match=r"speakers \['C'\]"):
        simulate_oracle([word], HintStrategy())
    with pytest.raises(InputError, match="interval 0"):
        simulate_oracle([], HintStrategy(), interval=0)


@pytest.mark.parametrize(
    "item",
    [{"speaker": "A", "word": "x", "start": 0}, {"speaker": "A", "word": "x", "start": "?", "end": 1}, 3],
)
def test_a_broken_word_is_named_by_its_index(item):
    good = {"speaker": "A", "word": "x", "start": 0, "end": 1}
    with pytest.raises(InputError, match="word 1: "):
        words_from_json([good, item])
