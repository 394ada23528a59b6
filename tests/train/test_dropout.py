"""Dropout of the temporal transformer's inputs: what each rate drops, and that it drops nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kame_jax.config import DropoutConfig
from kame_jax.streams import ZERO_ID
from kame_jax.train.dropout import drop_inputs
from tests.train.small import MODEL, batch

INPUTS = batch(rows=64)["inputs"]
TEXT, SEMANTIC, OWN, USER = [0], [1], [1, 2], [3, 4]


def dropped(inputs=INPUTS, **rates):
    return np.asarray(drop_inputs(jnp.asarray(inputs), jax.random.key(0), DropoutConfig(**rates), MODEL))


@pytest.mark.parametrize(
    ("name", "rows"),
    [("text", TEXT), ("semantic", SEMANTIC), ("own", OWN), ("user", USER), ("code", OWN + USER)],
)
def test_a_rate_of_one_drops_its_rows_and_no_other(name, rows):
    found = dropped(**{name: 1.0})
    others = [row for row in range(INPUTS.shape[1]) if row not in rows]
    assert (found[:, rows] == ZERO_ID).all()
    np.testing.assert_array_equal(found[:, others], INPUTS[:, others])


def test_text_tokens_become_padding_and_special_ones_stay():
    inputs = INPUTS.copy()
    inputs[:, 0, 0] = MODEL.text_card  # the initial id
    found = dropped(inputs, text_token=1.0)
    special = np.isin(inputs[:, 0], [ZERO_ID, MODEL.text_card])
    np.testing.assert_array_equal(found[:, 0], np.where(special, inputs[:, 0], MODEL.text_padding_id))
    np.testing.assert_array_equal(found[:, 1:], inputs[:, 1:])


@pytest.mark.parametrize("name", ["text", "semantic", "own", "user"])
def test_streams_are_dropped_by_whole_samples_with_their_rate(name):
    changed = (dropped(**{name: 0.5}) != INPUTS).any(axis=1)
    whole = changed.any(axis=1)
    # Of 64 draws; four standard deviations of a fair coin are 16.
    assert 16 <= whole.sum() <= 48
    real = (INPUTS != ZERO_ID).all(axis=1)
    np.testing.assert_array_equal(changed, whole[:, None] & real)


def test_codes_are_dropped_one_by_one():
    real = INPUTS[:, 1:] != ZERO_ID
    share = (dropped(code=0.25) == ZERO_ID)[:, 1:][real].mean()
    assert share == pytest.approx(0.25, abs=0.04)  # four standard deviations of some 2,000 draws
