"""Compiles a step for devices that are not there, and reads what the compiler says of it."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kame_jax.config import RunConfig
from kame_jax.decode import step as decode
from kame_jax.decode.sampling import Sampling
from kame_jax.errors import InputError
from kame_jax.model import tree
from kame_jax.plan.estimate import Memory
from kame_jax.plan.hlo import Collective, Tensor, biggest_tensors, collectives
from kame_jax.sharding import activation_spec, shardings
from kame_jax.train.program import abstract_batch, make_program

GIB = 1 << 30


@dataclass(frozen=True)
class Compiled:
    """A step that the compiler has taken, or refused for want of memory."""

    fits: bool
    memory: Memory | None
    """None where it was refused and did not say."""
    limit: int | None
    """Bytes that the compiler may use of a device, where it said so."""
    seconds: float
    """Lowering and compiling."""
    collectives: tuple[Collective, ...] = ()
    tensors: tuple[Tensor, ...] = ()
    text: str | None = ""
    """The compiled program; None where neither JAX nor the compiler printed it: nothing is known of its collectives."""


def compile_train(config: RunConfig, mesh: Mesh, length: int) -> Compiled:
    """The very step that `train` runs, for the mesh's devices; no weight is made.

    Args:
        config: the run.
        mesh: its devices may be those of a topology.
        length: columns of a row of the batch.
    """
    program = make_program(config, mesh)
    batch = abstract_batch(config.model, config.train.batch_size, length, mesh, config.data.pack)
    return _compile(lambda: program.step.lower(program.abstract_state(), batch))


def compile_decode(config: RunConfig, mesh: Mesh, rows: int) -> Compiled:
    """The frame step of so many conversations, weights and caches in the run's dtype, for the mesh's devices."""
    kind = jnp.dtype(config.train.dtype)
    model = tree.abstract_lm(config.model.architecture, param_dtype=kind, dtype=kind)
    places = shardings(model, mesh)
    arrays = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=places[path])
        for path, leaf in tree.leaves(model).items()
    }
    state = jax.eval_shape(
        lambda: decode.init_state(config.model, rows, jax.random.split(jax.random.key(0), rows), kind)
    )

    def on_mesh(leaf: Any) -> jax.ShapeDtypeStruct:
        axes = ("batch", "heads", None, None) if leaf.ndim == 4 else ("batch", *(None,) * (leaf.ndim - 1))
        place = NamedSharding(mesh, activation_spec(axes, leaf.shape, mesh))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

    state = jax.tree.map(on_mesh, state)
    whole = NamedSharding(mesh, PartitionSpec())

    def each(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=whole)

    settings = Sampling(each(jnp.float32), each(jnp.int32), each(jnp.float32), each(jnp.int32))
    user, oracle, running = each(jnp.int32, config.model.num_user_rows), each(jnp.int32), each(jnp.bool_)
    if config.model.oracle == "none":
        oracle = None

    def step(model: Any, state: Any, user: Any, oracle: Any, running: Any, settings: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return decode.frame_step(model, state, user, oracle, running, settings)

    jitted = jax.jit(step, donate_argnums=1, out_shardings=(jax.tree.map(lambda x: x.sharding, state), None))
    return _compile(lambda: jitted.lower(tree.fill(model, arrays), state, user, oracle, running, settings))


def _compile(lower: Callable[[], Any]) -> Compiled:
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = lower().compile(compiler_options={"xla_dump_to": folder, "xla_dump_hlo_as_text": True})
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise InputError(
                    f"the compiler refuses the step: {' '.join(str(error).split())[:400]}"
                ) from error
            needed, limit = _refusal(str(error))
            memory = None if needed is None else Memory(0, needed)
            return Compiled(False, memory, limit, time.monotonic() - start)
        seconds, text = time.monotonic() - start, _text(done, Path(folder))
    found = done.memory_analysis()
    arguments = found.argument_size_in_bytes
    rest = found.temp_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return Compiled(
        True,
        Memory(arguments, rest + found.generated_code_size_in_bytes),
        None,
        seconds,
        tuple(collectives(text)) if text else (),
        tuple(biggest_tensors(text)) if text else (),
        text,
    )


def _text(done: Any, folder: Path) -> str | None:
    """The program as the compiler printed it: jaxlib's XLA cannot read all that a newer libtpu makes (v5p, v6e)."""
    printed = sorted(folder.glob("*.after_codegen.txt"), key=lambda path: path.stat().st_size)
    if printed:
        return printed[-1].read_text(encoding="utf-8")
    try:
        text: str = done.as_text()
    except jax.errors.JaxRuntimeError:
        return None
    return text


def _refusal(message: str) -> tuple[int | None, int | None]:
    """Bytes needed and bytes there, from the compiler's error; None where it does not say."""
    for pattern in (
        r"\(([\d.]+)([GM])\) exceeds available HBM \(([\d.]+)([GM])\)",
        r"Used ([\d.]+)([GM]) of ([\d.]+)([GM]) hbm",
    ):
        if found := re.search(pattern, message):
            scale = {"G": GIB, "M": 1 << 20}
            return int(float(found[1]) * scale[found[2]]), int(float(found[3]) * scale[found[4]])
    return None, None
