"""A model that predicts the user too says the same without those predictions."""

import dataclasses

import jax
import numpy as np
import pytest

from kame_jax.decode.own_voice import own_voice
from kame_jax.model import tree
from tests.decode import small
from tests.golden.read import QUICK


@pytest.mark.parametrize("schedule", [None, (0, 1, 2, 2), (0, 0, 1, 1)])
def test_without_the_users_codebooks_the_own_ones_get_the_same_logits(schedule):
    depth = dataclasses.replace(small.CONFIG.depth, schedule=schedule)
    whole = small.model(dataclasses.replace(small.CONFIG, dep_q=4, depth=depth))
    cut = own_voice(whole)
    assert (cut.config.dep_q, cut.config.num_user_rows) == (2, 2)
    assert tree.shapes(cut) == tree.shapes(tree.abstract_lm(cut.config))
    rng = np.random.default_rng(0)
    codes = rng.integers(0, small.CONFIG.card, (1, 5, 12)).astype(np.int32)
    oracle = rng.integers(0, small.CONFIG.text_card, (1, 12)).astype(np.int32)
    forward = jax.jit(lambda model: model(codes, oracle), compiler_options=QUICK)
    given, found = forward(whole), forward(cut)
    np.testing.assert_array_equal(found.mask, given.mask[:, :2])
    # The same float32 sums, cut into products of other sizes.
    np.testing.assert_allclose(found.logits, given.logits[:, :2], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.text_logits, given.text_logits, rtol=1e-5, atol=1e-5)


def test_a_model_that_predicts_its_own_voice_alone_stays_as_it_is():
    model = small.model()
    assert own_voice(model) is model
