"""The offline driver: codes and recordings in, and oracle logs that say what is wrong with them."""

import json

import jax
import numpy as np
import pytest
from flax import nnx

from kame_jax.assets import TINY
from kame_jax.config import DepthConfig, ModelConfig, TransformerConfig
from kame_jax.decode import greedy
from kame_jax.decode.offline import generate, read_oracle_log, reply
from kame_jax.errors import InputError
from kame_jax.model import LM
from kame_jax.oracle import OracleOp
from kame_jax.oracle.text import load_tokenizer
from kame_jax.train.state import make_quickly

CONFIG = ModelConfig(
    n_q=4,
    dep_q=2,
    card=11,
    text_card=13,
    delays=(0, 0, 2, 0, 2),
    temporal=TransformerConfig(dim=16, num_heads=2, num_layers=2, ffn_dim=24, context=9),
    depth=DepthConfig(dim=8, num_heads=2, num_layers=1, ffn_dim=12),
    oracle="separate",
)


@pytest.fixture(scope="module")
def model():
    return make_quickly(lambda: LM(CONFIG, rngs=nnx.Rngs(0)))


def test_generate_returns_the_frames_that_lmgen_does_and_reply_answers_every_frame(model):
    rng = np.random.default_rng(0)
    user = rng.integers(0, 11, (2, 2, 12))
    oracle = rng.integers(0, 13, (2, 12))
    keys = jax.random.split(jax.random.key(0), 2)
    silence = np.array([1, 2])
    steps = generate(model, user, oracle, greedy(2), keys)
    assert steps.shape == (2, 3, 10)
    answered = reply(model, user, silence, oracle, greedy(2), keys)
    assert answered.shape == (2, 3, 12)
    # The same conversation said in steps: the first frame twice, then silence for what is still to come.
    heard = np.concatenate([user[:, :, :1], user, np.broadcast_to(silence[None, :, None], (2, 2, 1))], axis=2)
    shown = np.concatenate([np.full((2, 1), 3), oracle, np.full((2, 1), 3)], axis=1)
    np.testing.assert_array_equal(answered, generate(model, heard, shown, greedy(2), keys))


def test_a_conversation_shorter_than_the_delay_gives_no_frame(model):
    keys = jax.random.split(jax.random.key(0), 1)
    assert generate(model, np.zeros((1, 2, 2), int), None, greedy(1), keys).shape == (1, 3, 0)


def test_user_codes_with_other_rows_are_refused(model):
    with pytest.raises(ValueError, match="3 rows, the model hears 2"):
        generate(model, np.zeros((1, 3, 4), int), None, greedy(1), jax.random.split(jax.random.key(0), 1))


def test_an_oracle_log_is_read(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text('{"frame": 2, "op": "replace", "tokens": [4, 5]}\n\n{"frame": 6, "op": "clear"}\n')
    assert read_oracle_log(log, None, 13) == [OracleOp(2, "replace", (4, 5)), OracleOp(6, "clear")]


def test_oracle_records_are_a_log_of_what_training_shows_speaker_a(tmp_path):
    log = tmp_path / "d.json"
    records = [
        {
            "timestamp_ms": 1000,
            "prediction": "the red one",
            "hint": "the blue one",
            "current_spoken_ratio": 0.5,
        },
        {"timestamp_ms": 600, "prediction": "one", "channel": 0},
        {"timestamp_ms": 1200, "prediction": "where", "channel": 1},
        {
            "timestamp_ms": 1500,
            "prediction": "the red one",
            "hint": "the blue one",
            "current_spoken_ratio": 1.0,
        },
    ]
    log.write_text(json.dumps(records))
    tokenizer = load_tokenizer(TINY / "tokenizer.model")
    ops = read_oracle_log(log, tokenizer, 512)
    assert [(op.step, op.op) for op in ops] == [(7, "replace"), (12, "replace"), (18, "replace")]
    told = [tokenizer.decode(list(op.tokens)) for op in ops]
    assert told == ["one", "the red one", "the blue one"]
    for content in ("[1]", "[", '[{"timestamp_ms": "x", "prediction": "a"}]', "[" * 100_000):
        log.write_text(content)
        with pytest.raises(InputError, match=f"{log}: "):
            read_oracle_log(log, tokenizer, 512)


def test_everything_wrong_with_an_oracle_log_comes_at_once(tmp_path):
    log = tmp_path / "log.jsonl"
    lines = [
        '{"frame": 5, "op": "replace", "tokens": [99]}',
        '{"frame": -1, "op": "clear"}',
        '{"frame": 5, "op": "push"}',
        '{"frame": 5, "op": "append", "text": "hello"}',
        "[]",
        "not json",
    ]
    log.write_text("\n".join(lines))
    with pytest.raises(InputError) as error:
        read_oracle_log(log, None, 13)
    text = str(error.value)
    assert all(f"line {number}" in text for number in range(1, 7)), text
    assert "0 to 12" in text
    assert "tokenizer" in text
