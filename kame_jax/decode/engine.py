"""The streaming engine as Python sees it: open one, join a session, push 80 ms of samples, get samples and words.

All conversations share one compiled frame step of a fixed number of slots, made and warmed up at the start; nothing is
compiled afterwards (a compiled step takes its own shapes only). An engine belongs to one thread; a server keeps it off
its event loop. What happens on the device is `slots.py`.

    engine = Engine.open("ckpt", slots=2)
    with engine.join(seed=1) as session:
        session.replace("It is in the blue box.")
        frame = session.push(samples)          # 1,920 samples in; frame.samples, frame.text out
"""

from __future__ import annotations

import functools
import os
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from sentencepiece import SentencePieceProcessor

from kame_jax.codec import mimi as codec
from kame_jax.codec.mimi import Mimi
from kame_jax.decode import slots as device
from kame_jax.decode.own_voice import own_voice
from kame_jax.decode.sampling import Sampling, sampling
from kame_jax.decode.session import Frame, Session
from kame_jax.decode.slots import SlotInputs, SlotState
from kame_jax.errors import InputError
from kame_jax.model import LM
from kame_jax.oracle import OracleSchedule

KEPT_TIMES = 100_000
"""Frame times remembered: more than two hours of them."""


@dataclass(frozen=True)
class EngineOptions:
    """How an engine computes."""

    slots: int = 1
    """Conversations at once."""
    int8_weights: bool = False
    """Linear maps rounded to int8 per output channel: half the bytes of bfloat16, logits a little off."""
    int8_cache: bool = False
    """Keys and values rounded to int8 per head: twice the conversations in the same memory."""
    guided: bool = False
    """Run every row twice, so that a session's `guidance` may differ from 1."""
    late: str = "queue"
    """What becomes of oracle tokens that come late, see `OracleSchedule`."""


class Engine:
    """A model, its codec and a fixed number of session slots.

    Args:
        model: the weights; they are unstacked (and rounded) in place, and belong to the engine from here on. What
            predicts the user is left out (`own_voice`).
        mimi: the codec, `prepare`d or not; None for codes in and out.
        tokenizer: turns the inner monologue into words and oracle text into tokens; None for tokens alone.
        options: how to compute.
        condition: float32 `[1 or 2, dim]`: the condition of every session, and of the null half of guidance.
        mesh: devices that share the weights (`load_checkpoint(..., mesh=...)`); KV caches are cut by heads.
        compiler_options: XLA's, for the step.

    Raises:
        InputError: a model that cannot stream, or options that do not fit it.
    """

    def __init__(
        self,
        model: LM,
        mimi: Mimi | None = None,
        tokenizer: SentencePieceProcessor | None = None,
        options: EngineOptions = EngineOptions(),
        *,
        condition: jax.Array | None = None,
        mesh: Mesh | None = None,
        compiler_options: dict[str, Any] | None = None,
    ) -> None:
        model = own_voice(model)
        config = model.config
        if options.slots < 1:
            raise InputError(f"an engine has at least one session slot, got {options.slots}")
        if config.temporal.context is None:
            raise InputError("this model has no attention window (`temporal.context`): it cannot stream")
        self.config, self.options, self.tokenizer = config, options, tokenizer
        self.schedule = OracleSchedule(config.text_card, config.text_padding_id, late=options.late)
        self.codec_config = None if mimi is None else mimi.config
        self.frame_seconds: deque[float] = deque(maxlen=KEPT_TIMES)
        """Wall time of every frame step, samples in to samples out."""
        model.unstack()
        if mesh is None:
            model.flatten()
        if options.int8_weights:
            model.quantize()
        if mimi is not None:
            mimi = codec.prepare(mimi, max(config.num_user_rows, config.dep_q, 2))
            if mesh is not None:
                mimi = jax.device_put(mimi, NamedSharding(mesh, PartitionSpec()))
        self._sessions: list[Session | None] = [None] * options.slots
        self._state: SlotState
        self._compile(model, mimi, condition, mesh, compiler_options)

    @classmethod
    def open(
        cls,
        checkpoint: str | os.PathLike[str],
        *,
        codec: str | os.PathLike[str] | None = None,
        tokenizer: str | os.PathLike[str] | None = None,
        dtype: str | None = None,
        mesh: Mesh | None = None,
        **options: Any,
    ) -> Engine:
        """An engine of a checkpoint with the codec and the tokenizer beside it.

        Args:
            checkpoint: as `load_checkpoint` takes it.
            codec: Mimi's weights; None looks beside the checkpoint.
            tokenizer: SentencePiece model; None looks beside the checkpoint.
            dtype: of weights and computation; None keeps the checkpoint's.
            mesh: devices that share the weights.
            **options: fields of `EngineOptions`.

        Raises:
            InputError: something is missing, or does not fit.
        """
        from kame_jax.interop import load_checkpoint, load_mimi
        from kame_jax.interop.beside import find_codec, find_tokenizer
        from kame_jax.oracle.text import load_tokenizer

        _, model = load_checkpoint(checkpoint, mesh=mesh, dtype=dtype)
        return cls(
            model,
            load_mimi(codec or find_codec(checkpoint)),
            load_tokenizer(Path(tokenizer or find_tokenizer(checkpoint))),
            EngineOptions(**options),
            mesh=mesh,
        )

    @property
    def frame_size(self) -> int | None:
        """Samples a frame; None where codes go in and out."""
        return None if self.codec_config is None else self.codec_config.frame_size

    @property
    def free(self) -> int:
        """Slots that nobody uses."""
        return self._sessions.count(None)

    def join(
        self,
        *,
        seed: int = 4242,
        settings: Sampling | None = None,
        guidance: float = 1.0,
        prompt: np.ndarray | None = None,
    ) -> Session:
        """Takes a free slot and runs the column before the first frame.

        Args:
            seed: of the session's random choices; nothing else random enters.
            settings: a `Sampling` of one row; None takes the defaults of Moshi's and KAME's servers.
            guidance: scale of the session's guidance; 1 is none.
            prompt: int32 `[1 + dep_q, frames]`: what the model says in its first frames, undelayed; -2 where it
                chooses itself (a text prompt, or a voice).

        Raises:
            InputError: no slot is free, or guidance is asked of an engine that was not made for it.
        """
        if not self.free:
            raise InputError(f"all {self.options.slots} session slots are taken")
        if guidance != 1.0 and not self.options.guided:
            raise InputError("guidance needs an engine opened with guided=True: every row then runs twice")
        slot = self._sessions.index(None)
        key = jax.random.key(seed)
        row = sampling(1) if settings is None else settings
        self._state = self._start(self._state, np.int32(slot), key, row, np.full(1, guidance, np.float32))
        self._sessions[slot] = session = Session(self, slot, prompt)
        if self.frame_size is not None:
            self.step({session: None})
        return session

    def step(self, heard: Mapping[Session, np.ndarray | None]) -> dict[Session, Frame]:
        """One frame for these sessions; the others pause.

        Args:
            heard: what each hears: float32 `[frame_size]` samples (or int32 `[n_q - dep_q]` codes where there is no
                codec). None runs a column without hearing anything.

        Returns:
            Each session's frame; one whose first frame is still on its way (`max_delay`) has no samples or tokens yet.

        Raises:
            ValueError: a session of another engine or one that has left, or the wrong number of samples.
        """
        started = time.perf_counter()
        inputs = self._idle()
        for session, samples in heard.items():
            slot = session.slot
            if self._sessions[slot] is not session:
                raise ValueError("this session has left, or belongs to another engine")
            inputs.running[slot] = True
            if samples is not None:
                shape = inputs.heard.shape[1:]
                if np.shape(samples) != shape:
                    raise ValueError(f"a frame has shape {list(shape)}, got {list(np.shape(samples))}")
                inputs.heard[slot], inputs.hears[slot] = samples, True
            session.fill(inputs)
        self._state, outputs = self._step(self._weights, self._state, inputs)
        out = jax.device_get(outputs)
        frames = {session: session.take(out, samples is not None) for session, samples in heard.items()}
        self.frame_seconds.append(time.perf_counter() - started)
        return frames

    def leave(self, session: Session) -> None:
        """Frees a session's slot; nothing of the conversation stays on the device."""
        if self._sessions[session.slot] is session:
            self._state = self._start(self._state, np.int32(session.slot), *self._blank)
            self._sessions[session.slot] = None

    def _idle(self) -> SlotInputs:
        """Fresh host arrays of a frame in which nothing happens."""
        return SlotInputs(*(a.copy() for a in self._idle_inputs))

    def _compile(
        self,
        model: LM,
        mimi: Mimi | None,
        condition: jax.Array | None,
        mesh: Mesh | None,
        flags: dict[str, Any] | None,
    ) -> None:
        """Compiles the step and the start of a slot, and runs each once.

        Weights go in as a flat list: taking a module apart in Python at every frame would cost milliseconds.
        """
        options, schedule, slots = self.options, self.schedule, self.options.slots
        dtype = jnp.dtype(jnp.int8) if options.int8_cache else model.dtype
        self._weights, structure = jax.tree.flatten((model, mimi, condition))
        self._structure = structure

        def fresh(count: int) -> SlotState:
            return device.init_slots(self.config, mimi, schedule, count, dtype, options.guided)

        def step(weights: list[jax.Array], state: SlotState, inputs: SlotInputs) -> Any:
            model, mimi, condition = jax.tree.unflatten(structure, weights)
            return device.step_slots(model, mimi, schedule, options.guided, state, inputs, condition)

        def start(
            state: SlotState, slot: jax.Array, key: jax.Array, settings: Sampling, scale: jax.Array
        ) -> SlotState:
            row = fresh(1)
            row = row._replace(lm=row.lm._replace(keys=key[None]), settings=settings, scale=scale)
            return device.put_slot(state, row, slot, slots)

        state = jax.jit(functools.partial(fresh, slots))()
        if mesh is not None:
            state = _on_mesh(state, self.config.temporal.num_heads, mesh)
        places = jax.tree.map(lambda a: a.sharding, state)
        idle = device.idle_inputs(self.config, slots, self.frame_size)
        self._idle_inputs = SlotInputs(*map(np.asarray, idle))
        self._blank = (jax.random.key(0), sampling(1), np.ones(1, np.float32))
        first = (state, np.int32(0), *self._blank)
        started = jax.jit(start, donate_argnums=0, out_shardings=places).lower(*first)
        stepped = jax.jit(step, donate_argnums=1, out_shardings=(places, None)).lower(
            self._weights, state, self._idle()
        )
        self._start, self._step = started.compile(flags), stepped.compile(flags)
        state = self._start(*first)
        self._state, _ = self._step(self._weights, state, self._idle())


def _on_mesh(state: SlotState, heads: int, mesh: Mesh) -> SlotState:
    """Puts a state on a mesh: KV rings of the language model cut by heads, the rest whole on every device."""
    whole = NamedSharding(mesh, PartitionSpec())
    cut = NamedSharding(mesh, PartitionSpec(None, "tensor"))
    rings = cut if heads % mesh.shape["tensor"] == 0 else whole
    caches = jax.device_put(state.lm.caches, rings)
    state = jax.device_put(state._replace(lm=state.lm._replace(caches=[])), whole)
    return state._replace(lm=state.lm._replace(caches=caches))
