"""The PyTorch reference, with what KAME adds to it: the oracle embedding, its stream of tokens, kame_finetune's loss.

Runs in an environment of its own (`setup.sh`), never inside the test suite. Semantics: SakanaAI/kame
`src/kame/models/lm.py`; SakanaAI/kame_finetune `finetune.py`, `utils/data.py`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import numpy as np
import torch
from moshi.models import LMGen, LMModel, lm, loaders
from moshi.models.lm_utils import ScaledEmbedding, _init_layer
from torch import nn
from torch.nn import functional as F


class OracleLM(LMModel):
    """`LMModel` whose text embedding is followed by the embedding of an oracle token per step.

    Args:
        oracle: "none", "separate" (own table) or "tie" (the text table read twice).
        kwargs: what `LMModel` takes.
    """

    def __init__(self, oracle: str = "none", **kwargs):
        super().__init__(**kwargs)
        self.oracle = oracle
        self.oracle_row: torch.Tensor | None = None
        self.temporal_out: torch.Tensor | None = None
        if oracle == "separate":
            demux = kwargs.get("demux_second_text_stream", False)
            self.oracle_emb = ScaledEmbedding(
                self.text_card + 1, self.dim, norm=kwargs.get("norm_emb", False), demux_second_stream=demux
            )
            _init_layer(self.oracle_emb)
        # KAME adds the oracle to the text embedding before both join the audio; a hook keeps that order of sums.
        self.text_emb.register_forward_hook(self._add_oracle)

    def _add_oracle(self, module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        if self.oracle_row is None:
            return output
        table = self.oracle_emb if self.oracle == "separate" else module
        return output + table.forward(self.oracle_row)

    def forward_text(self, *args, **kwargs):
        self.temporal_out, logits = super().forward_text(*args, **kwargs)
        return self.temporal_out, logits

    def forward(self, codes, condition_tensors=None, oracle_tokens=None):
        """As KAME's: `oracle_tokens [B, 1, T]` gets the initial id in front and loses its last column."""
        if oracle_tokens is not None:
            first = torch.full_like(oracle_tokens[:, 0, :1], self.text_initial_token_id)
            self.oracle_row = torch.cat([first, oracle_tokens[:, 0, :-1]], dim=1)
        try:
            return super().forward(codes, condition_tensors)
        finally:
            self.oracle_row = None


class OracleGen(LMGen):
    """`LMGen` that is told each row's oracle token of every step (None: a model without an oracle).

    With guidance both halves read it, as in KAME.
    """

    def step_with_oracle(self, user: torch.Tensor, oracle: torch.Tensor | None, extra_heads: bool = False):
        halves = 1 if self.cfg_coef == 1.0 else 2
        self.lm_model.oracle_row = None if oracle is None else oracle[:, None].repeat(halves, 1)
        try:
            return self.step_with_extra_heads(user) if extra_heads else self.step(user)
        finally:
            self.lm_model.oracle_row = None


@dataclass
class OracleBuffer:
    """KAME's live oracle: `LMGen.update_oracle_tokens_streaming` and the look-up in `LMGen._step`."""

    initial: int
    padding: int
    tokens: list[int] = field(default_factory=list)
    started: int | None = None

    def apply(self, event: dict, step: int) -> None:
        """`event` is one line of an oracle log: `replace` starts over at this step, `append` adds to the end."""
        if event["op"] == "replace" or self.started is None:
            self.tokens, self.started = [self.initial], step
        self.tokens = self.tokens + event["tokens"]

    def token(self, step: int) -> int:
        if self.started is None or not 0 <= step - self.started < len(self.tokens):
            return self.padding
        return self.tokens[step - self.started]


def build(kwargs: dict, oracle: str, seed: int) -> OracleLM:
    """A random model from checkpoint-style LM kwargs, no weight of it at a value that hides a mistake."""
    torch.manual_seed(seed)
    kwargs = copy.deepcopy(kwargs)
    if "conditioners" in kwargs:
        kwargs["condition_provider"] = loaders.get_conditioner_provider(kwargs["dim"], "cpu", kwargs)
        del kwargs["conditioners"]
        kwargs["fuser"] = loaders.get_condition_fuser(kwargs)
    for name in ("lora", "lora_rank", "lora_scaling", "lora_name", "moshi_name", "model_type"):
        kwargs.pop(name, None)
    model = OracleLM(oracle, **kwargs).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name or "layer_scale" in name:
            nn.init.uniform_(parameter, 0.5, 1.5)
            if name.endswith("bias"):
                parameter.data.sub_(1.0)
        elif name.startswith(("emb.", "text_emb.", "oracle_emb.")):
            # Small inputs, so that the epsilon of the first norms shows.
            parameter.data.mul_(0.1)
    for norm in getattr(model, "depformer_norms", []):
        # The reference's own training forward hands a codebook's `[frames, dim]` to an RMSNorm that wants three axes.
        norm.register_forward_pre_hook(lambda module, args: args[0][:, None] if args[0].dim() == 2 else None)
    return model


@dataclass
class Batch:
    """Columns of kame_finetune's collator, `[B, rows, T]` and for the oracle `[B, T]`; -1 fills short rows."""

    inputs: torch.Tensor
    labels: torch.Tensor
    oracle: torch.Tensor


def make_batch(
    model: OracleLM, lengths: tuple[int, ...], rng: np.random.Generator, padding: float = 0.6
) -> Batch:
    """Random dialogues after kame_finetune's preprocessing: delays without cutting, initial column, fills, labels.

    The last dialogue has no initial column, like every chunk of a recording after the first. `padding` is the share
    of padding among its text tokens.
    """
    rows, total = model.num_codebooks, max(lengths) + max(model.delays) + 1
    initial = np.array([model.text_card] + [model.card] * model.n_q)
    inputs = np.full((len(lengths), rows, total), -1)
    labels = inputs.copy()
    oracle = np.full((len(lengths), total), model.text_padding_token_id)
    for index, frames in enumerate(lengths):
        text = rng.integers(0, model.text_card, frames)
        text[text == model.text_padding_token_id] = model.end_of_text_padding_id
        text[rng.random(frames) < padding] = model.text_padding_token_id
        codes = np.concatenate([text[None], rng.integers(0, model.card, (model.n_q, frames))])
        columns = np.full((rows, frames + max(model.delays) + 1), model.card)
        columns[0] = model.text_padding_token_id
        for row, delay in enumerate(model.delays):
            columns[row, : 1 + delay] = initial[row]
            columns[row, 1 + delay : 1 + delay + frames] = codes[row]
        if index == len(lengths) - 1:
            columns = columns[:, max(model.delays) + 1 :]
        length = columns.shape[1]
        inputs[index, :, :length] = columns
        labels[index, :, :length] = np.where(columns < initial[:, None], columns, -1)
        start = int(rng.integers(1, length // 2))
        sentence = np.concatenate([[model.text_card], rng.integers(4, model.text_card, length)])
        oracle[index, start : start + length // 2] = sentence[: length // 2]
    return Batch(torch.from_numpy(inputs), torch.from_numpy(labels), torch.from_numpy(oracle))


@dataclass(frozen=True)
class LossWeights:
    """kame_finetune's `--text_padding_loss_weight`, `--semantic_loss_weight`, `--acoustic_loss_weight`."""

    padding: float = 0.5
    semantic: float = 100.0
    acoustic: float = 1.0


def loss(model: OracleLM, batch: Batch, weights: LossWeights = LossWeights()) -> dict[str, torch.Tensor]:
    """kame_finetune's `forward`: the total under "loss/total", everything else under the name that it is logged by.

    All `dep_q` predicted rows count; past the own ones (`dep_q > n_q / 2`) they are the user's.
    """
    columns, labels = batch.inputs, batch.labels[:, :, 1:]
    model.oracle_row = batch.oracle if model.oracle != "none" else None
    h, text_logits = model.forward_text(columns)
    model.oracle_row = None
    logits = model.forward_depformer_training(columns[:, :, 1:], h[:, :-1])

    text, text_right = _losses(text_logits[:, 0, :-1], labels[:, 0])
    is_padding = labels[:, 0] == model.text_padding_token_id
    spoken = (labels[:, 0] >= 0) & ~is_padding
    zero = torch.zeros(())
    text_total = zero
    logged = {}
    for name, cells, weight in (("text_non_pad", spoken, 1.0), ("text_pad", is_padding, weights.padding)):
        if cells.any():
            text_total = text_total + weight * text[cells].mean()
        logged |= {f"loss/{name}": text[cells].mean(), f"accuracy/{name}": text_right[cells].mean()}
    logged["loss/text_total"] = text_total

    audio_sum, audio_weight = zero, 0.0
    own = min(model.dep_q, model.n_q // 2)
    for suffix, first, last in (("", 0, own), ("_user", own, model.dep_q)):
        if first == last:
            continue
        kept, right = [], []
        for row in range(first, last):
            target = labels[:, 1 + row]
            for found, into in zip(_losses(logits[:, row], target), (kept, right), strict=True):
                into.append(found[target >= 0])
        semantic, acoustic = kept[0], torch.cat(kept[1:])
        audio_sum = audio_sum + weights.semantic * semantic.sum() + weights.acoustic * acoustic.sum()
        audio_weight += weights.semantic * len(semantic) + weights.acoustic * len(acoustic)
        logged |= {
            f"loss/audio_semantic{suffix}": semantic.mean(),
            f"loss/audio_acoustic{suffix}": acoustic.mean(),
            f"accuracy/audio_semantic{suffix}": right[0].mean(),
            f"accuracy/audio_acoustic{suffix}": torch.cat(right[1:]).mean(),
        }
    logged["loss/audio_total"] = audio_sum / audio_weight if audio_weight else audio_sum
    logged["loss/total"] = text_total + logged["loss/audio_total"]
    return logged


def _losses(logits: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross entropy per cell, 0 where the target is -1, and whether the best class is it.

    `logits [B, T, card]`, `target [B, T]` to twice float `[B, T]`.
    """
    flat = F.cross_entropy(logits.float().flatten(0, 1), target.flatten(), ignore_index=-1, reduction="none")
    return flat.view(target.shape), (logits.argmax(-1) == target).float()


def smallest_margins(run) -> tuple[object, torch.Tensor]:
    """The result of `run()`, and for each row the smallest gap between the two best logits of any greedy choice."""
    margins = []
    original = lm.sample_token

    def watch(logits, *args, **kwargs):
        best = logits.topk(2, dim=-1).values
        gap = (best[..., 0] - best[..., 1]).nan_to_num(torch.inf)
        margins.append(gap.flatten(1).amin(dim=1) if gap.dim() > 1 else gap)
        return original(logits, *args, **kwargs)

    lm.sample_token = watch
    try:
        return run(), torch.stack(margins).amin(dim=0)
    finally:
        lm.sample_token = original
