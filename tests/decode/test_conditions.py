"""Conditions reach the model: sessions say what the reference says with theirs, and none is left out in silence."""

import functools

import numpy as np
import pytest

from kame_jax.decode import greedy
from kame_jax.decode.engine import Engine, EngineOptions
from kame_jax.errors import InputError
from kame_jax.interop import load_checkpoint
from kame_jax.model.conditioner import condition_values
from tests.decode import small
from tests.golden.read import CONDITIONS, LM_FILES, QUICK, model, outputs

GIVEN = CONDITIONS["dev_2b"]
NULL = [{"description": "fair", "speaker": "another"}, {"description": None, "speaker": None}]


@functools.cache
def conditioned() -> Engine:
    """Its own sessions are the first row of the golden file's."""
    return Engine(
        load_checkpoint(LM_FILES / "dev_2b")[1],
        options=EngineOptions(slots=2, guided=True),
        conditions=GIVEN[0],
        compiler_options=QUICK,
    )


def test_guided_sessions_with_conditions_of_their_own_equal_the_reference():
    golden, engine = outputs("dev_2b", "guided"), conditioned()
    # The first row takes the engine's conditions, the second brings its own.
    sessions = [
        engine.join(settings=greedy(1), guidance=2.5, conditions=given, null_conditions=null)
        for given, null in zip((None, GIVEN[1]), NULL)
    ]
    said = []
    for heard in golden["user"]:
        frames = engine.step({s: codes.astype(np.int32) for s, codes in zip(sessions, heard)}).values()
        said.append([np.full(4, -2) if frame.tokens is None else frame.tokens for frame in frames])
    for session in sessions:
        session.leave()
    np.testing.assert_array_equal(np.array(said), golden["tokens"])


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        (
            {},
            "condition 'description' is missing, expected one of bad, fair, good; condition 'speaker' is missing",
        ),
        ({"description": "good"}, "condition 'speaker' is missing, expected any text"),
        ({"description": "best", "speaker": "x"}, "'description' is 'best', expected one of bad, fair, good"),
        (
            {"description": "bad", "speaker": "x", "mood": "x"},
            "'mood' is unknown (the model has description, speaker)",
        ),
        ({"description": "bad", "speaker": 3}, "'speaker' is 3, expected any text"),
    ],
)
def test_a_condition_that_is_missing_or_unknown_is_refused_in_one_line(conditions, message):
    for refuse in (
        lambda: conditioned().join(conditions=conditions),
        lambda: conditioned().join(null_conditions=conditions),
        lambda: Engine(model("dev_2b"), conditions=conditions),
    ):
        with pytest.raises(InputError) as error:
            refuse()
        assert message in str(error.value)
        assert "\n" not in str(error.value)
    assert conditioned().free == 2


def test_a_model_without_conditions_is_given_none():
    with pytest.raises(InputError, match=r"condition 'mood' is unknown \(the model has none\)"):
        Engine(small.model(), conditions={"mood": "calm"})


@pytest.mark.parametrize("vector", [[1.0] * 4, [np.nan] * 5, "calm", ["a"] * 5])
def test_a_vector_that_does_not_fit_its_condition_is_refused(vector):
    conditioners = model("norms").config.conditioners
    with pytest.raises(InputError, match="condition 'voice' is not 5 finite numbers"):
        condition_values(conditioners, [{"voice": vector}])
