"""The offline driver: whole conversations through the streaming frame step, on the same clock as a live one.

Two ways of counting meet here. The frame step's own (`generate`): step s hears the user frame given at step s, and
the frame given at step 0 is never heard. A recording's (`reply`): model frame t answers user frame t, so
the first user frame is given twice and silence follows the last, until every frame has its answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sentencepiece import SentencePieceProcessor

from kame_jax.data.events import build_events
from kame_jax.data.words import CHANNELS
from kame_jax.decode.sampling import Sampling
from kame_jax.decode.step import frame_step, init_state
from kame_jax.errors import InputError
from kame_jax.files import read_text
from kame_jax.model import LM
from kame_jax.oracle import OracleOp
from kame_jax.oracle.schedule import OPS
from kame_jax.oracle.text import encode_oracle

_step = jax.jit(frame_step, donate_argnames="state")


def generate(
    model: LM,
    user: np.ndarray,
    oracle: np.ndarray | None,
    settings: Sampling,
    keys: jax.Array,
    *,
    condition: jax.Array | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray:
    """Runs a batch of conversations, frame step by frame step.

    Args:
        model: the weights.
        user: int32 `[batch, n_q - dep_q, steps]`.
        oracle: int32 `[batch, steps]`, the oracle token of each step, or None for no oracle term.
        settings: sampling of each row.
        keys: random keys `[batch]`.
        condition: float32 `[batch, dim]`, or None.
        progress: called with the steps done and their total.

    Returns:
        int32 `[batch, 1 + dep_q, steps - max_delay]`: text and own codes, undelayed; empty when too short.

    Raises:
        ValueError: `user` has the wrong number of rows.
    """
    config = model.config
    batch, rows, steps = user.shape
    if rows != config.num_user_rows:
        raise ValueError(f"user codes have {rows} rows, the model hears {config.num_user_rows}")
    state = init_state(config, batch, keys, model.dtype)
    running = jnp.ones(batch, bool)
    frames: list[jax.Array] = []
    for step in range(steps):
        token = None if oracle is None else jnp.asarray(oracle[:, step], jnp.int32)
        heard = jnp.asarray(user[:, :, step], jnp.int32)
        state, out = _step(model, state, heard, token, running, settings, condition)
        if step >= config.max_delay:
            frames.append(out.tokens)
        progress(step + 1, steps)
    if not frames:
        return np.zeros((batch, 1 + config.dep_q, 0), np.int32)
    return np.stack([np.asarray(frame) for frame in frames], axis=2)


def reply(
    model: LM,
    user: np.ndarray,
    silence: np.ndarray,
    oracle: np.ndarray | None,
    settings: Sampling,
    keys: jax.Array,
    **options: Any,
) -> np.ndarray:
    """Answers recordings frame by frame: as `generate`, on the recording's clock.

    Args:
        model: the weights.
        user: int32 `[batch, n_q - dep_q, frames]`.
        silence: int32 `[n_q - dep_q]`, one frame of it, heard after the end.
        oracle: int32 `[batch, frames]`, the oracle token at each user frame, or None.
        settings: sampling of each row.
        keys: random keys `[batch]`.
        **options: as `generate` takes them.

    Returns:
        int32 `[batch, 1 + dep_q, frames]`: model frame t answers user frame t.
    """
    config = model.config
    batch, rows, _ = user.shape
    after = max(config.max_delay - 1, 0)
    tail = np.broadcast_to(silence[None, :, None], (batch, rows, after))
    heard = np.concatenate([user[:, :, :1], user, tail], axis=2)
    if oracle is not None:
        idle = config.text_padding_id
        oracle = np.pad(oracle, ((0, 0), (1, after)), constant_values=idle)
    tokens = generate(model, heard, oracle, settings, keys, **options)
    return tokens[:, :, : user.shape[2]]


def read_oracle_log(
    path: str | Path, tokenizer: SentencePieceProcessor | None, text_card: int
) -> list[OracleOp]:
    """An oracle log: JSON lines `{"frame", "op", "tokens"}`, or `"text"` in place of `"tokens"`.

    Lines with an `"event"`, of which the log of a live conversation has many, are skipped. A file of oracle records
    (`oracle_raw/<id>.json`, a JSON list) gives the oracle of speaker A as training shows it.

    Args:
        path: the file.
        tokenizer: turns text into tokens; needed only where the file has text.
        text_card: tokens are in `[0, text_card)`.

    Raises:
        InputError: everything that is wrong with the file, in one list.
    """
    text = read_text(path, "an oracle log or a list of oracle records")
    if text.lstrip().startswith("["):
        return _record_ops(path, text, tokenizer)
    ops: list[OracleOp] = []
    problems = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            if isinstance(value, dict) and "event" in value and "op" not in value:
                continue  # the rest of a conversation's log
            ops.append(_oracle_op(value, tokenizer, text_card))
            if len(ops) > 1 and ops[-1].step < ops[-2].step:
                problems.append(f"line {number}: frame {ops[-1].step} comes after frame {ops[-2].step}")
        except (ValueError, RecursionError) as error:
            problems.append(f"line {number}: {error}")
    if problems:
        raise InputError(f"{path}: {len(problems)} lines are not oracle changes", problems)
    return ops


def _record_ops(path: str | Path, text: str, tokenizer: SentencePieceProcessor | None) -> list[OracleOp]:
    """Oracle records as changes: each replaces the one before."""
    if tokenizer is None:
        raise InputError(f"{path}: oracle records need a tokenizer; give one")
    try:
        events = build_events(json.loads(text), CHANNELS["A"], np.iinfo(np.int32).max, tokenizer)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: {error}") from None
    shown = [events.hint(i) if events.shows_hint(i) else events.prediction(i) for i in range(len(events))]
    ops = [
        OracleOp(int(frame), "replace", tuple(tokens.tolist()))
        for frame, tokens in zip(events.frame_pos, shown, strict=True)
    ]
    return sorted(ops, key=lambda op: op.step)


def _oracle_op(value: Any, tokenizer: SentencePieceProcessor | None, text_card: int) -> OracleOp:
    if not isinstance(value, dict):
        raise ValueError("expected a JSON object")
    frame, op = value.get("frame"), value.get("op")
    if not isinstance(frame, int) or isinstance(frame, bool) or frame < 0:
        raise ValueError(f"frame is {frame!r}, expected a whole number from 0")
    if op not in OPS:
        raise ValueError(f"op is {op!r}, expected one of {', '.join(OPS)}")
    if "text" in value and "tokens" not in value:
        if tokenizer is None:
            raise ValueError('"text" needs a tokenizer; give one, or write "tokens"')
        tokens: Sequence[Any] = encode_oracle(tokenizer, str(value["text"]))
    else:
        tokens = value.get("tokens", [])
    whole = isinstance(tokens, list) and all(isinstance(t, int) and not isinstance(t, bool) for t in tokens)
    if not whole or any(not 0 <= t < text_card for t in tokens):
        raise ValueError(f"tokens must be a list of ids from 0 to {text_card - 1}")
    return OracleOp(frame, op, tuple(tokens))
