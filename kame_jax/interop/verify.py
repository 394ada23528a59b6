"""Comparing a checkpoint with reference outputs: the logits of every head, at every position that counts.

The reference is a safetensors file with the names of Moshi's own test assets: `codes [B, 1 + n_q, T]`, optionally
`oracle [B, 1, T]` (as the reference's `LMModel.forward` takes it) and `condition [B, dim]`, `text_logits [B, 1, T, V]`,
`logits [B, Q, T, card]`, `text_mask`, `mask`. What it lacks is not compared. The assets keep codes and outputs in two
files: several files count as one, and the codes for `x_out.safetensors` are looked for in `x_codes.safetensors`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kame_jax.config import ModelConfig
from kame_jax.errors import InputError
from kame_jax.interop.checkpoint import Checkpoint
from kame_jax.interop.load import build_lm
from kame_jax.interop.safetensors_file import SafetensorsFile

RELATIVE_TOLERANCE = {"float32": 2e-5, "float64": 2e-5}
"""Largest error allowed in each dtype of the reference logits, in units of the head's largest logit."""
COARSE_TOLERANCE = 2e-2
"""The same for narrower floating-point types: bfloat16 keeps eight bits, and errors add up over layers."""


@dataclass(frozen=True)
class HeadResult:
    """How one head compares."""

    name: str
    """`text`, or `audio k` for codebook k of the model's own voice."""
    positions: int
    """Positions compared."""
    max_error: float
    """Largest difference of a logit."""
    scale: float
    """Largest reference logit."""
    tolerance: float
    """The limit of `max_error`."""
    same_argmax: float
    """Fraction of positions where both have the same most likely token."""
    mask_equal: bool
    """Whether the positions that count are the same; true where the reference does not state them."""

    @property
    def ok(self) -> bool:
        """Whether the head passes."""
        return self.mask_equal and self.max_error <= self.tolerance


def verify(
    checkpoint: Checkpoint,
    references: Sequence[str | os.PathLike[str]],
    atol: float | None = None,
    dtype: Any = jnp.float32,
) -> list[HeadResult]:
    """Run the model on the reference's codes and compare.

    Args:
        checkpoint: the model.
        references: one or more safetensors files that together hold the reference.
        atol: largest allowed difference of a logit; None derives it from the reference's dtype and scale.
        dtype: dtype of weights and computation.

    Returns:
        One result for each head that the reference has.

    Raises:
        InputError: the reference lacks codes or logits, or they do not fit the model.
    """
    config = checkpoint.config
    if not isinstance(config, ModelConfig):
        raise InputError(f"{checkpoint.name}: this is the codec Mimi; only a language model is verified")
    given = _read(references)
    name = " + ".join(Path(r).name for r in references)
    _check(given, config, name)
    model = build_lm(checkpoint, dtype=dtype)
    oracle = given.get("oracle")
    condition = given.get("condition")
    with jax.default_matmul_precision("highest"):
        output = jax.jit(lambda m, c, o, v: m(c, o, v, oracle_first="initial"))(
            model,
            jnp.asarray(given["codes"], jnp.int32),
            None if oracle is None else jnp.asarray(oracle[:, 0], jnp.int32),
            None if condition is None else jnp.asarray(condition, jnp.float32).reshape(len(condition), -1),
        )
    own = {key: np.asarray(value) for key, value in output._asdict().items()}
    return list(_compare(own, given, atol))


def _read(references: Sequence[str | os.PathLike[str]]) -> dict[str, np.ndarray]:
    given: dict[str, np.ndarray] = {}
    for reference in references:
        with SafetensorsFile(reference) as file:
            given |= {key: file.read(key) for key in file.infos}
    beside = Path(str(references[-1]).removesuffix("out.safetensors") + "codes.safetensors")
    if "codes" not in given and beside.is_file():
        with SafetensorsFile(beside) as file:
            given |= {key: file.read(key) for key in file.infos if key == "codes"}
    return given


def _check(given: dict[str, np.ndarray], config: ModelConfig, name: str) -> None:
    if "codes" not in given or not {"text_logits", "logits"} & set(given):
        raise InputError(
            f"{name}: needs codes and text_logits or logits, has {', '.join(sorted(given)) or 'nothing'}"
        )
    codes = given["codes"]
    if codes.ndim != 3:
        raise InputError(f"{name}: codes must be [batch, {config.num_rows}, frames], got {list(codes.shape)}")
    batch, _, frames = codes.shape
    expected = {
        "codes": (batch, config.num_rows, frames),
        "oracle": (batch, 1, frames),
        "text_logits": (batch, 1, frames, config.text_card_out or config.text_card),
        "text_mask": (batch, 1, frames),
        "logits": (batch, config.dep_q, frames, config.card),
        "mask": (batch, config.dep_q, frames),
    }
    problems = [
        f"{key} is {list(given[key].shape)}, expected {list(shape)}"
        for key, shape in expected.items()
        if key in given and given[key].shape != shape
    ]
    if "oracle" in given and config.oracle == "none":
        problems.append("oracle is given, and the model has no oracle embedding")
    if config.conditioners and "condition" not in given:
        problems.append("condition is missing: the model adds one to every frame")
    if problems:
        raise InputError(f"{name}: does not fit the model", problems)


def _compare(
    own: dict[str, np.ndarray], given: dict[str, np.ndarray], atol: float | None
) -> Iterator[HeadResult]:
    for logits, mask, label in (("text_logits", "text_mask", "text"), ("logits", "mask", "audio {}")):
        if logits not in given:
            continue
        for head in range(given[logits].shape[1]):
            ours, theirs = own[logits][:, head], given[logits][:, head].astype(np.float32)
            counts = own[mask][:, head]
            same_mask = mask not in given or bool(np.array_equal(counts, given[mask][:, head]))
            ours, theirs = ours[counts], theirs[counts]
            error = float(np.max(np.abs(ours - theirs), initial=0.0))
            scale = float(np.max(np.abs(theirs), initial=0.0))
            relative = RELATIVE_TOLERANCE.get(given[logits].dtype.name, COARSE_TOLERANCE)
            yield HeadResult(
                name=label.format(head),
                positions=len(theirs),
                max_error=error if np.isfinite(error) else float("inf"),
                scale=scale,
                tolerance=relative * scale if atol is None else atol,
                same_argmax=float(np.mean(ours.argmax(-1) == theirs.argmax(-1))) if len(theirs) else 1.0,
                mask_equal=same_mask,
            )
