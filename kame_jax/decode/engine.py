"""The streaming engine as Python sees it: open one, join a session, push 80 ms of samples, get samples and words.

All conversations share one compiled frame step of a fixed number of slots (`program.py`), made and warmed up at the
start; nothing is compiled afterwards. An engine belongs to one thread; a server keeps it off its event loop. What
happens on the device is `slots.py`.

    engine = Engine.open("ckpt", slots=2)
    with engine.join(seed=1) as session:
        session.replace("It is in the blue box.")
        frame = session.push(samples)          # 1,920 samples in; frame.samples, frame.text out
"""

from __future__ import annotations

import logging
import math
import os
import time
import weakref
from collections import deque
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from sentencepiece import SentencePieceProcessor

from kame_jax import streams
from kame_jax.codec.audio import LOUDEST
from kame_jax.codec.mimi import Mimi
from kame_jax.decode.program import EngineOptions, make_program, prepare
from kame_jax.decode.sampling import Sampling, checked
from kame_jax.decode.session import Frame, Session
from kame_jax.decode.slots import SlotInputs, SlotStart
from kame_jax.errors import InputError
from kame_jax.interop import load_checkpoint, load_mimi
from kame_jax.interop.beside import find_codec, find_tokenizer
from kame_jax.model import LM
from kame_jax.model.conditioner import condition_values
from kame_jax.oracle.text import load_tokenizer
from kame_jax.sharding import make_mesh

log = logging.getLogger(__name__)

KEPT_TIMES = 100_000
"""Frame times remembered: more than two hours of them."""

Conditions = Mapping[str, "str | np.ndarray | None"]
"""Condition of a model -> a word, a vector, or None for "not given"."""


class Engine:
    """A model, its codec and a fixed number of session slots.

    Args:
        model: the weights; they are unstacked (and rounded) in place, and belong to the engine from here on. What
            predicts the user is left out (`own_voice`).
        mimi: the codec, `prepare`d or not; None for codes in and out.
        tokenizer: turns the inner monologue into words and oracle text into tokens; None for tokens alone.
        options: how to compute.
        conditions: default of the sessions; None where each brings its own, or the model has no conditions.
        mesh: devices that share the weights (`load_checkpoint(..., mesh=...)` puts them there at once); KV caches are
            cut by heads. None takes the first device alone.
        compiler_options: XLA's, for the step.

    Raises:
        InputError: a model that cannot stream, or options or conditions that do not fit it.
    """

    def __init__(
        self,
        model: LM,
        mimi: Mimi | None = None,
        tokenizer: SentencePieceProcessor | None = None,
        options: EngineOptions = EngineOptions(),
        *,
        conditions: Conditions | None = None,
        mesh: Mesh | None = None,
        compiler_options: dict[str, Any] | None = None,
    ) -> None:
        if conditions is not None:
            condition_values(model.config.conditioners, [conditions])
        mesh = make_mesh(1, 1, 1, jax.devices()[:1]) if mesh is None else mesh
        _say_if_slow(mesh, model.dtype, options.int8_weights)
        model, mimi = prepare(model, mimi, options, mesh)
        program = make_program(model, mimi, options, mesh)
        self.config, self.options, self.tokenizer = model.config, options, tokenizer
        self.codec_config = None if mimi is None else mimi.config
        self.frame_seconds: deque[float] = deque(maxlen=KEPT_TIMES)
        """Wall time of every frame step, samples in to samples out."""
        self._conditions = conditions
        self._sessions: list[weakref.ref[Session] | None] = [None] * options.slots
        homes = [weight.sharding for weight in program.weights]
        self._weights = jax.device_put(jax.tree.leaves((model, mimi)), homes)
        self._structure, self._idle, self._blank = program.structure, program.idle, program.blank
        self._start = program.lower_start().compile(compiler_options)
        self._step = program.lower_step().compile(compiler_options)
        # Each runs once, so that both are warm for the first conversation.
        self.state = self._start(self._weights, program.init(), np.int32(0), self._blank)
        """All slots, on the device."""
        self.state, _ = self._step(self._weights, self.state, self._idle)

    @classmethod
    def open(
        cls,
        checkpoint: str | os.PathLike[str],
        *,
        codec: str | os.PathLike[str] | None = None,
        tokenizer: str | os.PathLike[str] | None = None,
        dtype: str | None = None,
        conditions: Conditions | None = None,
        mesh: Mesh | None = None,
        **options: Any,
    ) -> Engine:
        """An engine of a checkpoint with the codec and the tokenizer next to it.

        Args:
            checkpoint: as `load_checkpoint` takes it.
            codec: Mimi's weights; None looks next to the checkpoint.
            tokenizer: SentencePiece model; None looks next to the checkpoint.
            dtype: of weights and computation; None keeps the checkpoint's.
            conditions: default of the sessions.
            mesh: devices that share the weights.
            **options: fields of `EngineOptions`.

        Raises:
            InputError: something is missing, or does not fit.
        """
        _, model = load_checkpoint(checkpoint, mesh=mesh, dtype=dtype)
        return cls(
            model,
            load_mimi(codec or find_codec(checkpoint)),
            load_tokenizer(os.fspath(tokenizer) if tokenizer else find_tokenizer(checkpoint)),
            EngineOptions(**options),
            conditions=conditions,
            mesh=mesh,
        )

    @property
    def frame_size(self) -> int | None:
        """Samples a frame; None where codes go in and out."""
        return None if self.codec_config is None else self.codec_config.frame_size

    @property
    def weights(self) -> tuple[LM, Mimi | None]:
        """The model and the codec, as the step reads them."""
        model, mimi = jax.tree.unflatten(self._structure, self._weights)
        return model, mimi

    @property
    def free(self) -> int:
        """Free slots."""
        return sum(self._session(slot) is None for slot in range(self.options.slots))

    def join(
        self,
        *,
        seed: int = 4242,
        settings: Sampling | None = None,
        guidance: float = 1.0,
        prompt: np.ndarray | None = None,
        conditions: Conditions | None = None,
        null_conditions: Conditions | None = None,
    ) -> Session:
        """Takes a free slot and runs the column before the first frame.

        Args:
            seed: of the session's random choices; there is no other randomness.
            settings: a `Sampling` of one row; None takes the defaults of Moshi's and KAME's servers.
            guidance: scale of the session's guidance; 1 is none.
            prompt: int32 `[1 + dep_q, frames]`: what the model says in its first frames, undelayed; -2 where it
                chooses itself (a text prompt, or a voice).
            conditions: of a model that has them; None takes the engine's.
            null_conditions: what guidance leads away from; None takes `conditions`, so that only the oracle guides.

        Raises:
            InputError: no slot is free, a condition is missing or unknown, seed or guidance is out of range, or the
                engine was not made for guidance.
            ValueError: settings or a prompt that are out of range.
        """
        free = [slot for slot in range(self.options.slots) if self._session(slot) is None]
        if not free:
            raise InputError(f"all {self.options.slots} session slots are taken")
        if not 0 <= seed < 1 << 32:
            raise InputError(f"the seed is {seed}, expected 0 to {(1 << 32) - 1}: JAX drops further bits")
        if not math.isfinite(guidance):
            raise InputError(f"guidance is {guidance}, expected a finite number")
        if not self.options.guided and (guidance != 1.0 or null_conditions is not None):
            raise InputError("guidance needs an engine opened with guided=True: every row then runs twice")
        given = (self._conditions or {}) if conditions is None else conditions
        null = given if null_conditions is None else null_conditions
        begin = SlotStart(
            jax.random.key(seed)[None],
            self._blank.settings if settings is None else checked(settings, 1),
            np.full(1, guidance, np.float32) if self.options.guided else None,
            condition_values(self.config.conditioners, [given, null][: 1 + self.options.guided]),
        )
        session = Session(self.config, self.tokenizer, free[0], self._push, self.leave, prompt)
        self.state = self._start(self._weights, self.state, np.int32(session.slot), begin)
        self._sessions[session.slot] = weakref.ref(session)
        if self.frame_size is not None:
            self.step({session: None})
        return session

    def step(self, heard: Mapping[Session, np.ndarray | None]) -> dict[Session, Frame]:
        """One frame for these sessions; the others pause.

        Args:
            heard: what each hears: `[frame_size]` samples, floats at full scale 1 or int16 (or int `[n_q - dep_q]`
                codes where there is no codec). None runs a column without hearing anything. Samples that are not
                finite, or beyond `LOUDEST`, are heard as silence and counted (`Session.silenced`): one of them would
                stay in the codec's memory for minutes.

        Returns:
            Each session's frame; one whose first frame is still on its way (`max_delay`) has no samples or tokens yet.

        Raises:
            ValueError: a session of another engine or one that has left, or a malformed frame. No session has then run.
        """
        started = time.perf_counter()
        inputs = SlotInputs(*(array.copy() for array in self._idle))
        silenced = {}
        for session, frame in heard.items():
            if self._session(session.slot) is not session:
                raise ValueError("this session has left, or belongs to another engine")
            inputs.running[session.slot] = True
            if frame is not None:
                inputs.heard[session.slot], silenced[session] = self._checked(frame)
                inputs.hears[session.slot] = True
        for session in heard:
            session.fill(inputs)
        self.state, outputs = self._step(self._weights, self.state, inputs)
        out = jax.device_get(outputs)
        self.frame_seconds.append(time.perf_counter() - started)
        return {
            session: session.take(out, silenced.get(session), self.frame_seconds[-1]) for session in heard
        }

    def leave(self, session: Session) -> None:
        """Frees a session's slot; nothing of the conversation stays on the device."""
        if self._session(session.slot) is session:
            self.state = self._start(self._weights, self.state, np.int32(session.slot), self._blank)
            self._sessions[session.slot] = None

    def _push(self, session: Session, heard: np.ndarray) -> Frame:
        return self.step({session: heard})[session]

    def _session(self, slot: int) -> Session | None:
        """The session in a slot; one that was dropped without leaving is in none."""
        reference = self._sessions[slot]
        return None if reference is None else reference()

    def _checked(self, frame: np.ndarray) -> tuple[np.ndarray, int]:
        """A frame as the device takes it, and how many of its samples became silence.

        Raises:
            ValueError: a wrong shape or dtype, or an invalid code.
        """
        frame, shape = np.asarray(frame), self._idle.heard.shape[1:]
        if frame.shape != shape:
            raise ValueError(f"a frame has shape {list(shape)}, got {list(frame.shape)}")
        if self.frame_size is None:
            card, whole = self.config.card, np.issubdtype(frame.dtype, np.integer)
            if not whole or ((frame < streams.ZERO_ID) | (frame > card)).any():
                raise ValueError(f"codes are integers from 0 to {card}, or -1 for none, got {frame}")
            return frame, 0
        if frame.dtype == np.int16:
            return frame / np.float32(1 << 15), 0
        if not np.issubdtype(frame.dtype, np.floating):
            raise ValueError(f"samples are floats, at full scale 1, or int16, got {frame.dtype}")
        sound = np.abs(frame) <= LOUDEST
        return np.where(sound, frame, 0.0), int(np.sum(~sound))


def _say_if_slow(mesh: Mesh, dtype: jnp.dtype, int8_weights: bool) -> None:
    """XLA's products of types other than float32 read 1 to 2 GB/s on a CPU, those of float32 the whole bandwidth."""
    if mesh.devices.flat[0].platform == "cpu" and (int8_weights or dtype != jnp.float32):
        kind = "int8" if int8_weights else dtype.name
        log.warning(
            "%s weights make a frame about 4 times slower than float32 on a CPU (XLA's products)", kind
        )
