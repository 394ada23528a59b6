"""The streaming frame step against the PyTorch reference, token for token, and against our own training forward."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kame_jax.decode import frame_step, greedy, init_state
from kame_jax.oracle.schedule import OracleOp, OracleSchedule
from tests.decode import small
from tests.golden.read import LM_FILES, QUICK, condition, distance, model, outputs
from tests.rounding import LOGITS


@functools.cache
def step():
    return jax.jit(frame_step, donate_argnums=1, compiler_options=QUICK)


def run(case: str, golden: dict[str, np.ndarray], batch: int) -> dict[str, np.ndarray]:
    """Streams the golden inputs; missing rows of the batch repeat the first, so that runs share a compilation."""
    lm = model(case)
    steps, rows = golden["user"].shape[:2]
    spread = [*range(rows), *[0] * (batch - rows)]
    keys = jax.random.split(jax.random.key(0), batch)
    state = init_state(lm.config, batch, keys, jnp.float32)
    running = golden.get("running", np.ones((steps, rows), bool))[:, spread]
    starts = golden.get("reset", np.zeros((steps, rows), bool))[:, spread]
    oracle = golden["oracle"][:, spread] if "oracle" in golden else None
    user, vectors, settings, frames = golden["user"][:, spread], condition(case), greedy(batch), []
    for t in range(steps):
        if starts[t].any():
            state = small.started_over(state, starts[t], init_state(lm.config, batch, keys, jnp.float32))
        row = None if oracle is None else oracle[t]
        state, frame = step()(lm, state, user[t], row, running[t], settings, vectors)
        frames.append(frame)
    names = ("tokens", "text_logits", "extra_heads")
    return {name: np.stack([getattr(f, name) for f in frames])[:, :rows] for name in names}


def test_no_choice_of_a_golden_conversation_is_near_a_tie():
    """Or its tokens would be another CPU's to choose: logits of up to 4 are off by 5e-6 at most, on any seen."""
    margins = {
        path: outputs(path.parent.name, path.stem)["margin"]
        for path in LM_FILES.glob("*/stream*.safetensors")
    }
    assert len(margins) == 9
    assert all(margin > 1e-4 for margin in margins.values()), margins


@functools.cache
def kame(name: str) -> dict[str, np.ndarray]:
    return run("kame", outputs("kame", name), batch=4)


@pytest.mark.parametrize("name", ["stream_oracle", "stream_idle"])
def test_300_greedy_frames_past_the_ring_equal_kame(name):
    golden, ours = outputs("kame", name), kame(name)
    assert len(golden["user"]) == 300 > 12 * model("kame").config.temporal.context
    np.testing.assert_array_equal(ours["tokens"], golden["tokens"])
    assert distance(ours["text_logits"], golden["text_logits"]) <= LOGITS


def test_rows_that_pause_and_start_over_equal_the_reference():
    golden, ours = outputs("kame", "stream_pauses"), kame("stream_pauses")
    assert not golden["running"].all(axis=1).all()
    assert golden["reset"].sum() > 4
    np.testing.assert_array_equal(ours["tokens"], golden["tokens"])
    running = golden["running"][:, :, None]
    assert distance(np.where(running, ours["text_logits"], 0), golden["text_logits"]) <= LOGITS


@pytest.mark.parametrize("case", ["dev_2b", "stt", "norms", "no_positions", "lora"])
def test_greedy_frames_of_every_kind_of_model_equal_the_reference(case):
    golden = outputs(case, "stream")
    ours = run(case, golden, batch=golden["user"].shape[1])
    np.testing.assert_array_equal(ours["tokens"], golden["tokens"])
    assert distance(ours["text_logits"], golden["text_logits"]) <= LOGITS
    if "extra_heads" in golden:
        assert distance(ours["extra_heads"][-len(golden["extra_heads"]) :], golden["extra_heads"]) <= LOGITS


def test_the_oracle_log_read_the_reference_way_gives_the_reference_tokens():
    config = model("kame").config
    lines = (LM_FILES / "kame" / "oracle.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    ops = [OracleOp(event["frame"], event["op"], tuple(event["tokens"])) for event in events]
    schedule = OracleSchedule(config.text_card, config.text_padding_id, late="drop", tail="clear")
    row, _ = schedule.play(ops, 300, capacity=512)
    np.testing.assert_array_equal(row, outputs("kame", "stream_oracle")["oracle"][:, 0])


def test_streaming_equals_teacher_forcing_at_every_frame_past_the_ring():
    golden, lm = outputs("kame", "stream_oracle"), model("kame")
    delay, own = lm.config.max_delay, 1 + lm.config.dep_q
    frames = len(golden["user"]) - delay
    # Step s returns the model's frame s - max_delay, and hears the user's frame s in column s: training's frame s - 1.
    said = golden["tokens"][delay:].transpose(1, 2, 0)
    heard = golden["user"][1 : 1 + frames].transpose(1, 2, 0)
    oracle = golden["oracle"][1 : 1 + frames].T
    # This log starts an oracle at step 0, so column 0 holds the initial id.
    assert (golden["oracle"][0] == lm.config.text_card).all()
    codes = np.concatenate([said, heard], axis=1)
    forced = jax.jit(lambda *args: lm(*args, oracle_first="initial"), compiler_options=QUICK)
    out = forced(codes, oracle)
    streamed = kame("stream_oracle")["text_logits"][:frames].swapaxes(0, 1)
    assert distance(out.text_logits[:, 0], streamed) <= LOGITS
    chosen = np.asarray(out.logits.argmax(-1))
    predicted = np.asarray(out.mask)
    np.testing.assert_array_equal(chosen[predicted], codes[:, 1:own][predicted])
