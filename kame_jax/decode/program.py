"""What an engine compiles: its frame step and the start of a slot, on a mesh, from shapes alone.

`engine` runs both and `kame_jax.plan` compiles the step for hardware that is not present; neither adds anything to it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.stages import Lowered, Wrapped
from jax.tree_util import PyTreeDef

from kame_jax.codec import mimi as codec
from kame_jax.codec.mimi import Mimi
from kame_jax.decode import slots
from kame_jax.decode.own_voice import own_voice
from kame_jax.decode.sampling import sampling
from kame_jax.decode.slots import SlotInputs, SlotOutputs, SlotStart, SlotState
from kame_jax.errors import InputError
from kame_jax.model import LM
from kame_jax.model.conditioner import condition_values
from kame_jax.oracle import OracleSchedule
from kame_jax.sharding import activation_spec, jit_on, tree_shardings


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
    """What happens to oracle tokens that come late, see `OracleSchedule`."""


class Program(NamedTuple):
    """Everything about an engine except its weights and its conversations."""

    weights: list[jax.ShapeDtypeStruct]
    """Of model and codec, flat: taking a module apart in Python at every frame would cost milliseconds."""
    structure: PyTreeDef
    """The structure of those leaves."""
    state: SlotState
    """Abstract."""
    idle: SlotInputs
    """NumPy: a frame in which nothing happens."""
    blank: SlotStart
    """The start of an unused slot."""
    init: Wrapped
    """() -> the state of unused slots."""
    start: Wrapped
    """(weights, state, slot, SlotStart) -> the state with that slot restarted."""
    step: Wrapped
    """(weights, state, SlotInputs) -> the next state, and SlotOutputs."""

    def lower_step(self) -> Lowered:
        """The frame step, ready to be compiled."""
        return self.step.lower(self.weights, self.state, self.idle)

    def lower_start(self) -> Lowered:
        """The start of a slot, ready to be compiled."""
        return self.start.lower(self.weights, self.state, np.int32(0), self.blank)


def prepare(model: LM, mimi: Mimi | None, options: EngineOptions, mesh: Mesh) -> tuple[LM, Mimi | None]:
    """Model and codec as the step reads them: unstacked, rounded if asked, and without what predicts the user.

    Args:
        model: weights, or abstract under `jax.eval_shape`; changed in place.
        mimi: the codec, `prepare`d or not; None for codes in and out.
        options: how to compute.
        mesh: where.

    Raises:
        InputError: a model that cannot stream.
    """
    model = own_voice(model)
    config = model.config
    if config.temporal.context is None:
        raise InputError("this model has no attention window (`temporal.context`): it cannot stream")
    model.unstack()
    if mesh.size == 1:
        model.flatten()
    if options.int8_weights:
        model.quantize()
    if mimi is not None:
        mimi = codec.prepare(mimi, max(config.num_user_rows, config.dep_q, 2))
    return model, mimi


def make_program(model: LM, mimi: Mimi | None, options: EngineOptions, mesh: Mesh) -> Program:
    """The program of an engine; of model and codec, as `prepare` gives them, only shapes matter.

    Raises:
        InputError: invalid options.
    """
    if options.slots < 1:
        raise InputError(f"an engine has at least one session slot, got {options.slots}")
    config = model.config
    schedule = OracleSchedule(config.text_card, config.text_padding_id, late=options.late)
    kept = jnp.dtype(jnp.int8) if options.int8_cache else model.dtype
    leaves, structure = jax.tree.flatten((model, mimi))

    def init(count: int) -> SlotState:
        return slots.init_slots(config, mimi, schedule, count, kept, options.guided)

    def start(weights: list[jax.Array], state: SlotState, slot: jax.Array, begin: SlotStart) -> SlotState:
        model, _ = jax.tree.unflatten(structure, weights)
        return slots.put_slot(state, slots.begun(model, init(1), begin), slot, options.slots)

    def step(weights: list[jax.Array], state: SlotState, inputs: SlotInputs) -> tuple[SlotState, SlotOutputs]:
        model, mimi = jax.tree.unflatten(structure, weights)
        return slots.step_slots(model, mimi, schedule, state, inputs)

    state = _on_mesh(jax.eval_shape(functools.partial(init, options.slots)), mesh)
    places = jax.tree.map(lambda leaf: leaf.sharding, state)
    whole = NamedSharding(mesh, PartitionSpec())
    homes = jax.tree.leaves((tree_shardings(model, mesh), jax.tree.map(lambda _: whole, mimi)))
    frame_size = None if mimi is None else mimi.config.frame_size
    unnamed = dict.fromkeys(conditioner.name for conditioner in config.conditioners)
    conditions = condition_values(config.conditioners, [unnamed] * (1 + options.guided))
    scale = np.ones(1, np.float32) if options.guided else None
    return Program(
        [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=home) for leaf, home in zip(leaves, homes)],
        structure,
        state,
        SlotInputs(*map(np.asarray, slots.idle_inputs(config, options.slots, frame_size))),
        SlotStart(jax.random.key(0)[None], sampling(1), scale, conditions),
        jit_on(mesh, functools.partial(init, options.slots), out_shardings=places),
        jit_on(mesh, start, donate_argnums=1, out_shardings=places),
        jit_on(mesh, step, donate_argnums=1, out_shardings=(places, None)),
    )


def _on_mesh(state: SlotState, mesh: Mesh) -> SlotState:
    """An abstract state with its shardings: slots cut as a batch is, KV rings of the language model also by heads."""

    def place(leaf: jax.ShapeDtypeStruct, heads: str | None = None) -> jax.ShapeDtypeStruct:
        axes = ("batch", heads, None, None)[: leaf.ndim]
        home = NamedSharding(mesh, activation_spec(axes, leaf.shape, mesh))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=home)

    rings = jax.tree.map(lambda leaf: place(leaf, "heads"), state.lm.caches)
    state = jax.tree.map(place, state)
    return state._replace(lm=state.lm._replace(caches=rings))
