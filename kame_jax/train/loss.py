"""The training loss: cross-entropies of text and audio over delayed columns, and what a run logs about them.

Semantics: SakanaAI/kame_finetune `finetune.py` (`tempformer_forward`, `depformer_forward`, `forward`). Sums and counts
are kept apart until the end, so that micro-batches and devices add up to the mean over the *global* batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kame_jax.config import LossConfig, ModelConfig
from kame_jax.model import LM, Execution
from kame_jax.streams import ZERO_ID

Batch = dict[str, jax.Array]
"""`inputs` and `labels` int32 `[batch, rows, length]` (model columns; -1 in labels does not count), `oracle` int32
`[batch, length]`; optionally `heard`, what the temporal transformer reads in place of `inputs` (`dropout.py`), and
`segments` int32 `[batch, length]`, the samples that share a row (`data.collate.pack_row`). Column t predicts the labels
of column t + 1."""


Conditions = dict[str, tuple[Any, Any]]
"""Condition -> (values, given), as `model.conditioner.condition_values` makes them."""


class Part(NamedTuple):
    """One part of the loss over some tokens: sums, not means."""

    loss: jax.Array
    """float32: summed cross-entropy, nats."""
    correct: jax.Array
    """float32: tokens whose argmax is the label."""
    count: jax.Array
    """float32: tokens."""


Parts = dict[str, Part]


def loss_parts(
    model: LM,
    batch: Batch,
    *,
    use_oracle: bool = True,
    conditions: Conditions | None = None,
    execution: Execution = Execution(),
    chunks: int = 1,
) -> Parts:
    """Every part of the loss of a batch, summed over its tokens.

    Args:
        model: the weights.
        batch: columns, labels and oracle.
        use_oracle: False leaves the oracle embedding out altogether; a model without one leaves it out anyway.
        conditions: `[1]` or a value for each row, see `LM.condition`; None leaves them out.
        execution: how the forward runs.
        chunks: parts of the sequence: their logits are computed, used and discarded one part at a time.

    Returns:
        `text_non_pad`, `text_pad`, `audio_semantic`, `audio_acoustic`; with a user stream (`dep_q == n_q`) also
        `audio_semantic_user`, `audio_acoustic_user`. Without a depth transformer only the text parts.
    """
    config = model.config
    inputs, labels = batch["inputs"], batch["labels"]
    oracle = batch["oracle"][:, :-1] if use_oracle and config.oracle != "none" else None
    heard = batch.get("heard", inputs)
    segments = batch["segments"][:, :-1] if "segments" in batch else None
    condition = model.condition(conditions) if conditions else None
    h = model.temporal_hidden(heard[:, :, :-1], oracle, condition, execution, segments)
    loss, correct = (x[:, None] for x in _token_losses(model.text_logits, h, labels[:, 0, 1:], chunks))
    if model.depth is not None:
        x = model.depth_hidden(inputs[:, :, 1:], h, execution)
        targets = labels[:, 1 : 1 + config.dep_q, 1:].swapaxes(0, 1)
        audio = (y.swapaxes(0, 1) for y in _token_losses(model.audio_logits, x, targets, chunks))
        loss, correct = (jnp.concatenate(both, axis=1) for both in zip((loss, correct), audio, strict=True))
    return {
        name: Part(*(jnp.sum(x, where=mask) for x in (loss, correct, jnp.ones_like(loss))))
        for name, mask in _label_masks(labels, config).items()
    }


def _token_losses(
    head: Callable[[jax.Array], jax.Array], x: jax.Array, labels: jax.Array, chunks: int
) -> tuple[jax.Array, jax.Array]:
    """`cross_entropy` of `head(x [..., steps, dim])` and `labels [..., steps]`, in chunks of the steps."""
    if chunks == 1:
        return cross_entropy(head(x), labels)
    lead, steps = labels.shape[:-1], labels.shape[-1]
    size = -(-steps // chunks)
    filling = [(0, 0)] * len(lead) + [(0, chunks * size - steps)]
    x = jnp.pad(x, [*filling, (0, 0)]).reshape(*lead, chunks, size, x.shape[-1])
    labels = jnp.pad(labels, filling, constant_values=ZERO_ID).reshape(*lead, chunks, size)

    def body(_: None, part: tuple[jax.Array, jax.Array]) -> tuple[None, tuple[jax.Array, jax.Array]]:
        return None, cross_entropy(head(part[0]), part[1])

    parts = jnp.moveaxis(x, len(lead), 0), jnp.moveaxis(labels, len(lead), 0)
    found = jax.lax.scan(jax.checkpoint(body, prevent_cse=False), None, parts)[1]
    loss, correct = (jnp.moveaxis(y, 0, len(lead)).reshape(*lead, -1)[..., :steps] for y in found)
    return loss, correct


def label_counts(labels: jax.Array, config: ModelConfig) -> dict[str, jax.Array]:
    """The tokens of each part of `labels [batch, rows, length]`, known before any forward: float32 scalars."""
    return {name: jnp.sum(mask, dtype=jnp.float32) for name, mask in _label_masks(labels, config).items()}


def _label_masks(labels: jax.Array, config: ModelConfig) -> dict[str, jax.Array]:
    """Which labels count for each part: bool `[batch, 1 + dep_q, length - 1]`."""
    targets, row = labels[:, : 1 + config.dep_q, 1:], jnp.arange(1 + config.dep_q)[:, None]
    is_pad = targets == config.text_padding_id
    masks = {"text_non_pad": (row == 0) & ~is_pad, "text_pad": (row == 0) & is_pad}
    voices = 2 if config.dep_q == config.n_q else 1
    own = config.dep_q // voices
    for first, name in zip(range(1, 1 + config.dep_q, max(own, 1)), ("", "_user"), strict=False):
        masks[f"audio_semantic{name}"] = row == first
        masks[f"audio_acoustic{name}"] = (row > first) & (row < first + own)
    return {name: mask & (targets != ZERO_ID) for name, mask in masks.items()}


def cross_entropy(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Per-token cross-entropy (nats) and whether the argmax is right; both float32 `[...]`, 0 where the label is -1.

    Args:
        logits: float32 `[..., classes]`.
        labels: int32 `[...]`.
    """
    safe = jnp.maximum(labels, 0)
    chosen = jnp.take_along_axis(logits, safe[..., None], axis=-1)[..., 0]
    loss = jax.nn.logsumexp(logits, axis=-1) - chosen
    counts = labels != ZERO_ID
    return jnp.where(counts, loss, 0.0), jnp.where(counts, logits.argmax(-1) == safe, False).astype(
        jnp.float32
    )


def token_counts(parts: Parts) -> dict[str, jax.Array]:
    """The token counts of some parts, as `total_loss` takes them for normalisation."""
    return {name: part.count for name, part in parts.items()}


def total_loss(parts: Parts, weights: LossConfig, counts: dict[str, jax.Array] | None = None) -> jax.Array:
    """Text plus audio loss.

    Text is the mean over spoken ids plus `text_padding_weight` times the mean over padding; audio the mean over all
    audio tokens, a semantic one weighing `semantic_weight` and an acoustic one `acoustic_weight`. A part without tokens
    adds nothing.

    Args:
        parts: of one micro-batch, or summed over several.
        weights: of the parts.
        counts: tokens to divide by, when `parts` are only a share of them (default: those of `parts`).
    """
    counts = counts or token_counts(parts)
    text = _mean(parts["text_non_pad"].loss, counts["text_non_pad"])
    text = text + weights.text_padding_weight * _mean(parts["text_pad"].loss, counts["text_pad"])
    return text + weights.audio_weight * _audio_loss(parts, weights, counts)


def _audio_loss(parts: Parts, weights: LossConfig, counts: dict[str, jax.Array]) -> jax.Array:
    loss = weight = jnp.zeros((), jnp.float32)
    for name, part in parts.items():
        if name.startswith("audio"):
            factor = weights.semantic_weight if "semantic" in name else weights.acoustic_weight
            loss, weight = loss + factor * part.loss, weight + factor * counts[name]
    return _mean(loss, weight)


def report(parts: Parts, weights: LossConfig) -> dict[str, jax.Array]:
    """What a run logs, under kame_finetune's names: `loss/total`, `loss/text_non_pad`, `accuracy/audio_semantic`, ...

    A part without tokens is NaN. Sums of several micro-batches (`[micro_batches]`) are divided each by its own counts,
    and averaged over those that have tokens: kame_finetune's `nanmean` over its processes and accumulation steps.
    """
    values = {}
    for name, part in parts.items():
        values[f"loss/{name}"] = part.loss / part.count
        values[f"accuracy/{name}"] = part.correct / part.count
    counts = token_counts(parts)
    audio = _audio_loss(parts, weights, counts)
    total = total_loss(parts, weights)
    text = total - weights.audio_weight * audio
    values |= {"loss/text_total": text, "loss/audio_total": audio, "loss/total": total}
    return {name: jnp.nanmean(value) if value.ndim else value for name, value in values.items()}


def _mean(total: jax.Array, count: jax.Array) -> jax.Array:
    return jnp.where(count > 0, total / jnp.maximum(count, 1e-9), 0.0)
