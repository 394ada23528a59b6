"""Compiles a step for devices that are not present, and reads what the compiler reports."""

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
from jax.sharding import Mesh

from kame_jax.config import RunConfig
from kame_jax.decode import program as decode
from kame_jax.errors import InputError
from kame_jax.model import tree
from kame_jax.plan.estimate import Memory
from kame_jax.plan.hlo import Collective, Tensor, biggest_tensors, collectives
from kame_jax.train.program import abstract_batch, make_program

GIB = 1 << 30


@dataclass(frozen=True)
class Compiled:
    """A step that the compiler accepted, or refused for lack of memory."""

    fits: bool
    memory: Memory | None
    """None where the step was refused without a figure."""
    limit: int | None
    """Bytes of a device that the compiler may use, where it reports them."""
    seconds: float
    """Lowering and compiling."""
    collectives: tuple[Collective, ...] = ()
    tensors: tuple[Tensor, ...] = ()
    text: str | None = ""
    """The compiled program; None where neither JAX nor the compiler printed it: nothing is known of its collectives."""


def compile_train(config: RunConfig, mesh: Mesh, length: int) -> Compiled:
    """The same step that `train` runs, for the mesh's devices; no weights are made.

    Args:
        config: the run.
        mesh: its devices may be those of a topology.
        length: columns of a row of the batch.
    """
    program = make_program(config, mesh)
    batch = abstract_batch(config.model, config.train.batch_size, length, mesh, config.data.pack)
    return _compile(lambda: program.step.lower(program.state, batch))


def compile_decode(config: RunConfig, mesh: Mesh, options: decode.EngineOptions) -> Compiled:
    """The same step that an engine runs, codec, oracle and sampling included; no weights are made.

    Args:
        config: of model, codec and dtype.
        mesh: its devices may be those of a topology.
        options: of the engine.
    """
    kind = jnp.dtype(config.train.dtype)
    model = tree.abstract_lm(config.model.architecture, param_dtype=kind, dtype=kind)
    both = model, tree.abstract_mimi(config.codec)
    model, mimi = jax.eval_shape(lambda model, mimi: decode.prepare(model, mimi, options, mesh), *both)
    return _compile(decode.make_program(model, mimi, options, mesh).lower_step)


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
    """Bytes needed and bytes available, from the compiler's error; None where it does not say."""
    for pattern in (
        r"\(([\d.]+)([GM])\) exceeds available HBM \(([\d.]+)([GM])\)",
        r"Used ([\d.]+)([GM]) of ([\d.]+)([GM]) hbm",
    ):
        if found := re.search(pattern, message):
            scale = {"G": GIB, "M": 1 << 20}
            return int(float(found[1]) * scale[found[2]]), int(float(found[3]) * scale[found[4]])
    return None, None
