"""The session slots of an engine on the device: one state, and pure functions that start, clear and advance its rows.

A slot is a row of everything: Mimi's two streams, the delay ring, the KV caches, the oracle's line, the random key and
the sampling settings. The host side, `engine.py`, only moves a frame's audio in and its tokens and audio out.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kame_jax import streams
from kame_jax.codec import mimi as codec
from kame_jax.codec.mimi import Mimi, MimiState
from kame_jax.config import ModelConfig
from kame_jax.decode.sampling import Sampling, greedy
from kame_jax.decode.step import DecodeState, Guidance, frame_step, init_state
from kame_jax.model import LM
from kame_jax.oracle import OracleSchedule, OracleState

NO_CHANGE = -1
"""In place of an index into `OPS`: the oracle is not changed in this frame."""
TOKENS_A_FRAME = 32
"""Most oracle tokens sent to the device with one frame. The model reads one per frame, so the rest may follow later."""
COUNTS = ("read", "erased", "late", "overflow")
"""What the oracle of a slot counts, in the order of `SlotOutputs.counts`."""


class SlotState(NamedTuple):
    """All session slots of an engine; every array's rows are slots (twice as many in guided KV caches)."""

    lm: DecodeState
    mimi: MimiState | None
    """None where codes go in and out instead of sound."""
    oracle: OracleState
    settings: Sampling
    scale: jax.Array | None
    """float32 `[slots]`, guidance; 1 is none. None where no slot runs its null half."""
    condition: jax.Array | None
    """float32 `[slots, 1 or 2, dim]`: of the conversation and, guided, of its null half; None for models without."""


class SlotStart(NamedTuple):
    """The inputs of a new conversation, in arrays of one row."""

    key: jax.Array
    """Random keys `[1]`."""
    settings: Sampling
    scale: jax.Array | None
    """float32 `[1]`, guidance; None where no slot runs its null half."""
    conditions: dict[str, tuple[jax.Array, jax.Array]]
    """As `LM.condition` takes them, `[1 or 2]` rows: of the conversation and, guided, of its null half."""


class SlotInputs(NamedTuple):
    """The inputs of a frame for every slot."""

    running: jax.Array
    """bool `[slots]`: rows that advance."""
    hears: jax.Array
    """bool `[slots]`: of these, rows that bring a frame of sound; the others run the column before the first one."""
    heard: jax.Array
    """float32 `[slots, frame_size]` samples, or int32 `[slots, n_q - dep_q]` codes where there is no codec."""
    op: jax.Array
    """int32 `[slots]`: index into `OPS`, or `NO_CHANGE`."""
    tokens: jax.Array
    """int32 `[slots, TOKENS_A_FRAME]` of the change."""
    count: jax.Array
    """int32 `[slots]`: how many of them are valid."""
    forced: jax.Array
    """int32 `[slots, 1 + dep_q]`: tokens to take instead of the model's own, -2 for none."""


class SlotOutputs(NamedTuple):
    """The outputs of a frame for every slot."""

    tokens: jax.Array
    """int32 `[slots, 1 + dep_q]`: text and own codes, time-aligned; -2 where not `ready`."""
    ready: jax.Array
    """bool `[slots]`."""
    audio: jax.Array | None
    """float32 `[slots, frame_size]`; means nothing where not `ready`. None without a codec or own voice."""
    oracle: jax.Array
    """int32 `[slots]`: the oracle token read in this frame."""
    counts: jax.Array
    """int32 `[slots, 4]`, see `COUNTS`."""
    extra_heads: jax.Array
    """float32 `[slots, extra_heads, extra_head_dim]`."""


def init_slots(
    config: ModelConfig,
    mimi: Mimi | None,
    schedule: OracleSchedule,
    slots: int,
    dtype: jnp.dtype,
    guided: bool,
) -> SlotState:
    """Unused slots.

    Args:
        config: the language model's.
        mimi: the codec, of which only shapes matter; None for codes in and out.
        schedule: rules of the oracle.
        slots: how many.
        dtype: of the KV cache: the model's compute dtype, or int8.
        guided: room for the null half of guidance.
    """
    keys = jax.random.split(jax.random.key(0), slots)
    halves = (slots, 1 + guided, config.temporal.dim)
    oracle = jax.tree.map(lambda a: jnp.repeat(a[None], slots, axis=0), schedule.initial())
    return SlotState(
        init_state(config, slots, keys, dtype, guided),
        None if mimi is None else codec.init_state(mimi, slots),
        oracle,
        greedy(slots),
        jnp.ones(slots, jnp.float32) if guided else None,
        jnp.zeros(halves, jnp.float32) if config.conditioners else None,
    )


def begun(model: LM, fresh: SlotState, start: SlotStart) -> SlotState:
    """The one row of `fresh`, with its conversation's inputs."""
    condition = model.condition(start.conditions)[None] if model.config.conditioners else None
    return fresh._replace(
        lm=fresh.lm._replace(keys=start.key),
        settings=start.settings,
        scale=start.scale,
        condition=condition,
    )


def put_slot(state: SlotState, fresh: SlotState, slot: jax.Array, slots: int) -> SlotState:
    """`state` with row `slot` of every array replaced by the one row of `fresh`: nothing of the old one stays."""

    def put(old: jax.Array, new: jax.Array) -> jax.Array:
        rows = old.reshape(len(old) // slots, slots, *old.shape[1:])
        return rows.at[:, slot].set(new).reshape(old.shape)

    return jax.tree.map(put, state, fresh)


def step_slots(
    model: LM, mimi: Mimi | None, schedule: OracleSchedule, state: SlotState, inputs: SlotInputs
) -> tuple[SlotState, SlotOutputs]:
    """One frame of every running slot: sound to codes, oracle, language model, codes to sound.

    Args:
        model: the weights, unstacked for speed.
        mimi: the codec, `prepare`d, or None.
        schedule: rules of the oracle.
        state: all slots; donate it.
        inputs: the frame.
    """
    config, sound = model.config, state.mimi
    if mimi is None or sound is None:
        user = inputs.heard
    else:
        codes, sound = codec.encode_frame(
            mimi,
            sound,
            inputs.heard,
            exec_mask=inputs.running & inputs.hears,
            codebooks=max(config.num_user_rows, 1),
        )
        user = codes[:, : config.num_user_rows, 0]

    read = jax.vmap(functools.partial(_oracle, schedule))
    token, oracle = read(state.oracle, state.lm.offset, inputs)

    halves = (None, None) if state.condition is None else (state.condition[:, 0], state.condition[:, -1])
    lm, out = frame_step(
        model,
        state.lm,
        user,
        None if config.oracle == "none" else token,
        inputs.running,
        state.settings,
        halves[0],
        inputs.forced,
        None if state.scale is None else Guidance(state.scale, halves[1]),
    )
    audio = None
    if mimi is not None and sound is not None and config.dep_q:
        own = jnp.maximum(out.tokens[:, 1:, None], 0)
        audio, sound = codec.decode_frame(mimi, sound, own, exec_mask=out.ready)
    counts = jnp.stack([getattr(oracle, name) for name in COUNTS], axis=1)
    state = state._replace(lm=lm, mimi=sound, oracle=oracle)
    return state, SlotOutputs(out.tokens, out.ready, audio, token, counts, out.extra_heads)


def _oracle(
    schedule: OracleSchedule, state: OracleState, step: jax.Array, row: SlotInputs
) -> tuple[jax.Array, OracleState]:
    """One slot: takes its change, if there is one, and reads the token of this step; a paused slot does neither."""
    changed = schedule.apply(state, step, row.op, row.tokens, row.count)
    state = _where(row.running & (row.op != NO_CHANGE), changed, state)
    token, read = schedule.read(state, step)
    return jnp.where(row.running, token, schedule.pad_id), _where(row.running, read, state)


def _where(mask: jax.Array, new: OracleState, old: OracleState) -> OracleState:
    return jax.tree.map(lambda a, b: jnp.where(mask, a, b), new, old)


def idle_inputs(config: ModelConfig, slots: int, frame_size: int | None) -> SlotInputs:
    """A frame in which nothing happens; `frame_size` in samples, None where codes go in."""
    shape = (slots, config.num_user_rows) if frame_size is None else (slots, frame_size)
    return SlotInputs(
        running=jnp.zeros(slots, bool),
        hears=jnp.zeros(slots, bool),
        heard=jnp.zeros(shape, jnp.int32 if frame_size is None else jnp.float32),
        op=jnp.full(slots, NO_CHANGE, jnp.int32),
        tokens=jnp.zeros((slots, TOKENS_A_FRAME), jnp.int32),
        count=jnp.zeros(slots, jnp.int32),
        forced=jnp.full((slots, 1 + config.dep_q), streams.UNGENERATED_ID, jnp.int32),
    )
