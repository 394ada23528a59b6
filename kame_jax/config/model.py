"""The shape of the networks: the four-stream language model and the Mimi codec, as frozen dataclasses.

Numbers and names only, each with its range; a class that relates several of its fields says so in `conflicts`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from kame_jax.config.fields import Count, OneOf, Positive, PositiveFloat, Range

GATINGS = ("none", "silu", "gelu", "sigmoid", "relu", "tanh")
NORMS = ("rms_norm_f32", "rms_norm", "layer_norm", "layer_norm_f32")
POSITIONS = ("rope", "sin", "sin_rope", "none")
ORACLE_EMBEDDINGS = ("none", "separate", "tie")
CONDITIONERS = ("lut", "tensor")


@dataclass(frozen=True)
class TransformerConfig:
    """One stack of pre-norm transformer layers (temporal, depth, or Mimi's own)."""

    dim: Positive
    """Model width."""
    num_heads: Positive
    """Attention heads; must divide `dim`."""
    num_layers: Positive
    ffn_dim: Positive
    """Hidden width of the feed-forward, after gating (11264 for the 7B, not its `hidden_scale * dim`)."""
    context: Positive | None = None
    """Attention window in steps, the current one included; None sees everything (and cannot stream)."""
    gating: Annotated[str, OneOf(GATINGS)] = "silu"
    """Activation of the gated feed-forward, or "none" for a plain two-layer GELU one."""
    norm: Annotated[str, OneOf(NORMS)] = "rms_norm_f32"
    positions: Annotated[str, OneOf(POSITIONS)] = "rope"
    max_period: PositiveFloat = 10_000.0
    """Longest period of the positional encoding, in steps."""
    layer_scale: PositiveFloat | None = None
    """Initial value of the per-channel scale on both residual branches; None has no such weight."""

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.num_heads

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield (field, what is wrong) for fields that do not fit together."""
        if self.dim % self.num_heads:
            yield "num_heads", f"must divide dim ({self.dim}), got {self.num_heads}"
        elif "rope" in self.positions and self.head_dim % 2:
            yield (
                "num_heads",
                f"rotary positions need an even head width, got {self.dim} / {self.num_heads} = {self.head_dim}",
            )
        if "sin" in self.positions and self.dim % 2:
            yield "dim", f"sinusoidal positions need an even width, got {self.dim}"


@dataclass(frozen=True)
class DepthConfig(TransformerConfig):
    """The depth transformer, which runs over the codebooks of one frame."""

    positions: Annotated[str, OneOf(POSITIONS)] = "none"
    weights_per_step: bool = True
    """One set of weights per codebook (or per entry of `schedule`); False shares one set."""
    schedule: tuple[Count, ...] | None = None
    """Codebook -> weight set, length `dep_q`; None is the identity."""
    multi_linear: bool = True
    """One input projection per weight set; False shares one."""
    low_rank: Positive | None = None
    """Rank of the depth embeddings; None keeps them full."""
    head_norm: Annotated[str, OneOf(NORMS)] | None = None
    """Norm before each codebook's head, one per codebook; None has none."""


@dataclass(frozen=True)
class ConditionerConfig:
    """A `sum` condition: one vector added to every frame of the temporal input."""

    name: str
    kind: Annotated[str, OneOf(CONDITIONERS)] = "lut"
    """"lut" looks a value up in a table; "tensor" projects a given vector."""
    dim: Positive = 16
    """Width before the output projection."""
    num_bins: Count = 0
    """Rows of the table, without the one for "not given" ("lut" only)."""
    possible_values: tuple[str, ...] = ()
    """Names of the rows; empty hashes the text to a row ("lut" only)."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield (field, what is wrong) for fields that do not fit together."""
        if self.kind == "lut" and self.num_bins < max(1, len(self.possible_values)):
            yield (
                "num_bins",
                f"a lut needs at least one row, and one per possible value, got {self.num_bins}",
            )
        if self.kind != "lut" and (self.num_bins or self.possible_values):
            yield "kind", f"num_bins and possible_values belong to a lut, not to {self.kind!r}"


@dataclass(frozen=True)
class LoRAConfig:
    """Low-rank adapters on every linear layer: `W + scaling * B @ A`, scaling absolute (not alpha / rank)."""

    rank: Positive = 128
    scaling: PositiveFloat = 2.0


@dataclass(frozen=True)
class ModelConfig:
    """The four-stream language model. Row order of a token grid: text, own audio, user audio."""

    n_q: Positive
    """Audio codebooks in the input, own and user's together."""
    dep_q: Count
    """Audio codebooks that the depth transformer predicts; 0 has no depth transformer."""
    card: Positive
    """Entries of an audio codebook; id `card` is the initial token."""
    text_card: Positive
    """Text vocabulary; id `text_card` is the initial token and the oracle's start."""
    delays: tuple[Count, ...]
    """Frames by which each of the `1 + n_q` rows is delayed."""
    temporal: TransformerConfig
    depth: DepthConfig | None = None
    """Needed when `dep_q` is positive."""
    text_card_out: Positive | None = None
    """Classes of the text head; None is `text_card`."""
    text_padding_id: Count = 3
    """Id of "no text here", also the idle oracle."""
    text_end_padding_id: Count = 0
    """Id written just before a word that follows padding."""
    oracle: Annotated[str, OneOf(ORACLE_EMBEDDINGS)] = "none"
    """Oracle embedding: "none", "separate" (its own table) or "tie" (the text table)."""
    demux_text: bool = False
    """A text id carries two tokens, `left + (text_card + 1) * (right + 1)`."""
    norm_emb: bool = False
    """LayerNorm after each embedding lookup."""
    extra_heads: Count = 0
    """Additional heads on the temporal output (voice activity in the STT models)."""
    extra_head_dim: Positive = 6
    conditioners: tuple[ConditionerConfig, ...] = ()
    lora: LoRAConfig | None = None
    unused_depth_input_dim: Positive | None = None
    """Width of a depth input projection that some `dep_q` 0 files carry and nothing reads; kept to export it again."""

    @property
    def num_rows(self) -> int:
        """Rows of a token grid: text plus `n_q` audio rows."""
        return 1 + self.n_q

    @property
    def num_user_rows(self) -> int:
        """Audio rows that come from outside: `n_q - dep_q`."""
        return self.n_q - self.dep_q

    @property
    def max_delay(self) -> int:
        """Frames from a token's own time to the last of its frame's tokens."""
        return max(self.delays)

    @property
    def depth_sets(self) -> int:
        """Weight sets of the depth transformer."""
        if self.depth is None or not self.depth.weights_per_step:
            return 1
        return max(self.depth.schedule) + 1 if self.depth.schedule else self.dep_q

    @property
    def depth_schedule(self) -> tuple[int, ...]:
        """Codebook -> weight set, length `dep_q`."""
        if self.depth is None:
            return ()
        if not self.depth.weights_per_step:
            return (0,) * self.dep_q
        return self.depth.schedule or tuple(range(self.dep_q))

    @property
    def depth_input_schedule(self) -> tuple[int, ...]:
        """Codebook -> depth input projection, length `dep_q`."""
        if self.depth is None:
            return ()
        if not self.depth.multi_linear:
            return (0,) * self.dep_q
        return self.depth.schedule or tuple(range(self.dep_q))

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield (field, what is wrong) for fields that do not fit together."""
        if self.dep_q > self.n_q:
            yield "dep_q", f"must be at most n_q ({self.n_q}), got {self.dep_q}"
        if len(self.delays) != self.num_rows:
            yield "delays", f"needs 1 + n_q = {self.num_rows} numbers, got {len(self.delays)}"
        for name in ("text_padding_id", "text_end_padding_id"):
            if getattr(self, name) >= self.text_card:
                yield name, f"must be below text_card ({self.text_card}), got {getattr(self, name)}"
        if self.dep_q and self.depth is None:
            yield "depth", f"needed because dep_q is {self.dep_q}, got null"
        if not self.dep_q and self.depth is not None:
            yield "depth", "must be null because dep_q is 0"
        if self.dep_q and self.unused_depth_input_dim is not None:
            yield "unused_depth_input_dim", f"only for dep_q 0, got dep_q {self.dep_q}"
        if (
            self.depth is not None
            and self.depth.schedule is not None
            and len(self.depth.schedule) != self.dep_q
        ):
            yield "depth.schedule", f"needs dep_q = {self.dep_q} numbers, got {len(self.depth.schedule)}"
        names = [conditioner.name for conditioner in self.conditioners]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield "conditioners", f"the name {name!r} is used {names.count(name)} times"


MOST_STAGES = 16
"""Stages of a codec, and blocks in each: more are a mistake, and would be built one by one."""


@dataclass(frozen=True)
class SeanetConfig:
    """Mimi's convolutional encoder and decoder."""

    dim: Positive = 512
    """Channels at the frame rate of the latent."""
    filters: Positive = 64
    """Channels at the audio rate; doubled at every resampling."""
    ratios: tuple[Positive, ...] = (8, 6, 5, 4)
    """Upsampling factors of the decoder, in its order; the encoder runs them backwards."""
    kernel: Positive = 7
    residual_kernel: Positive = 3
    last_kernel: Positive = 3
    residual_layers: Annotated[int, Range(1, MOST_STAGES)] = 1
    dilation_base: Positive = 2
    compress: Positive = 2
    """Channel reduction inside a residual block."""


@dataclass(frozen=True)
class QuantizerConfig:
    """Mimi's split residual vector quantizer: one semantic codebook, the rest acoustic."""

    dim: Positive = 256
    n_q: Positive = 32
    """Codebooks stored; callers may use fewer."""
    bins: Positive = 2048


@dataclass(frozen=True)
class MimiConfig:
    """The neural audio codec."""

    seanet: SeanetConfig = SeanetConfig()
    transformer: TransformerConfig = TransformerConfig(
        dim=512,
        num_heads=8,
        num_layers=8,
        ffn_dim=2048,
        context=250,
        gating="none",
        norm="layer_norm",
        positions="rope",
        layer_scale=0.01,
    )
    quantizer: QuantizerConfig = QuantizerConfig()
    sample_rate: Positive = 24_000
    """Samples a second of the audio, one channel."""
    frame_rate: PositiveFloat = 12.5
    """Frames of codes a second."""

    @property
    def frame_size(self) -> int:
        """Samples a frame (1920 in the released codec)."""
        return round(self.sample_rate / self.frame_rate)

    @property
    def steps_per_frame(self) -> int:
        """Latent steps of convolutions and transformers a frame (2 in the released codec)."""
        return self.frame_size // math.prod(self.seanet.ratios)

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield (field, what is wrong) for fields that do not fit together."""
        if len(self.seanet.ratios) > MOST_STAGES:
            yield "seanet.ratios", f"expected at most {MOST_STAGES} numbers, got {len(self.seanet.ratios):,}"
            return
        hop = math.prod(self.seanet.ratios)
        if self.sample_rate % hop:
            yield "seanet.ratios", f"their product {hop} must divide sample_rate ({self.sample_rate})"
        elif (self.sample_rate / hop / self.frame_rate) % 1:
            steps = self.sample_rate / hop
            yield (
                "frame_rate",
                f"must divide the convolutions' {steps:g} steps a second, got {self.frame_rate:g}",
            )
        if self.transformer.dim != self.seanet.dim:
            yield "transformer.dim", f"must equal seanet.dim ({self.seanet.dim}), got {self.transformer.dim}"
