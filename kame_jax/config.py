"""Every setting of the project: frozen dataclasses, each field with its meaning and range.

This room knows numbers and names only; arrays, files of weights and devices belong to the rooms above.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

GATINGS = ("none", "silu", "gelu", "sigmoid", "relu", "tanh")
NORMS = ("rms_norm_f32", "rms_norm", "layer_norm", "layer_norm_f32")
POSITIONS = ("rope", "sin", "sin_rope", "none")
ORACLE_EMBEDDINGS = ("none", "separate", "tie")
CONDITIONERS = ("lut", "tensor")


@dataclass(frozen=True)
class TransformerConfig:
    """One stack of pre-norm transformer layers (temporal, depth, or Mimi's own)."""

    dim: int
    """Model width."""
    num_heads: int
    """Attention heads; must divide `dim`."""
    num_layers: int
    ffn_dim: int
    """Hidden width of the feed-forward, after gating (11264 for the 7B, not its `hidden_scale * dim`)."""
    context: int | None = None
    """Attention window in steps, the current one included; None sees everything (and cannot stream)."""
    gating: str = "silu"
    """Activation of the gated feed-forward, or "none" for a plain two-layer GELU one."""
    norm: str = "rms_norm_f32"
    positions: str = "rope"
    max_period: float = 10_000.0
    """Longest period of the positional encoding, in steps."""
    layer_scale: float | None = None
    """Initial value of the per-channel scale on both residual branches; None has no such weight."""

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads


@dataclass(frozen=True)
class DepthConfig(TransformerConfig):
    """The depth transformer, which runs over the codebooks of one frame."""

    positions: str = "none"
    weights_per_step: bool = True
    """One set of weights per codebook (or per entry of `schedule`); False shares one set."""
    schedule: tuple[int, ...] | None = None
    """Codebook -> weight set, length `dep_q`; None is the identity."""
    multi_linear: bool = True
    """One input projection per weight set; False shares one."""
    low_rank: int | None = None
    """Rank of the depth embeddings; None keeps them full."""
    head_norm: str | None = None
    """Norm before each codebook's head, one per codebook; None has none."""


@dataclass(frozen=True)
class ConditionerConfig:
    """A `sum` condition: one vector added to every frame of the temporal input."""

    name: str
    kind: str = "lut"
    """"lut" looks a value up in a table; "tensor" projects a given vector."""
    dim: int = 16
    """Width before the output projection."""
    num_bins: int = 0
    """Rows of the table, without the one for "not given" ("lut" only)."""
    possible_values: tuple[str, ...] = ()
    """Names of the rows; empty hashes the text to a row ("lut" only)."""


@dataclass(frozen=True)
class LoRAConfig:
    """Low-rank adapters on every linear layer: `W + scaling * B @ A`, scaling absolute (not alpha / rank)."""

    rank: int = 128
    scaling: float = 2.0


@dataclass(frozen=True)
class ModelConfig:
    """The four-stream language model. Row order of a token grid: text, own audio, user audio."""

    n_q: int
    """Audio codebooks in the input, own and user's together."""
    dep_q: int
    """Audio codebooks that the depth transformer predicts; 0 has no depth transformer."""
    card: int
    """Entries of an audio codebook; id `card` is the initial token."""
    text_card: int
    """Text vocabulary; id `text_card` is the initial token and the oracle's start."""
    delays: tuple[int, ...]
    """Frames by which each of the `1 + n_q` rows is delayed."""
    temporal: TransformerConfig
    depth: DepthConfig | None = None
    """Needed when `dep_q` is positive."""
    text_card_out: int | None = None
    """Classes of the text head; None is `text_card`."""
    text_padding_id: int = 3
    """Id of "no text here", also the idle oracle."""
    text_end_padding_id: int = 0
    """Id written just before a word that follows padding."""
    oracle: str = "none"
    """Oracle embedding: "none", "separate" (its own table) or "tie" (the text table)."""
    demux_text: bool = False
    """A text id carries two tokens, `left + (text_card + 1) * (right + 1)`."""
    norm_emb: bool = False
    """LayerNorm after each embedding lookup."""
    extra_heads: int = 0
    """Additional heads on the temporal output (voice activity in the STT models)."""
    extra_head_dim: int = 6
    conditioners: tuple[ConditionerConfig, ...] = ()
    lora: LoRAConfig | None = None
    unused_depth_input_dim: int | None = None
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


@dataclass(frozen=True)
class SeanetConfig:
    """Mimi's convolutional encoder and decoder."""

    dim: int = 512
    """Channels at the frame rate of the latent."""
    filters: int = 64
    """Channels at the audio rate; doubled at every resampling."""
    ratios: tuple[int, ...] = (8, 6, 5, 4)
    """Upsampling factors of the decoder, in its order; the encoder runs them backwards."""
    kernel: int = 7
    residual_kernel: int = 3
    last_kernel: int = 3
    residual_layers: int = 1
    dilation_base: int = 2
    compress: int = 2
    """Channel reduction inside a residual block."""


@dataclass(frozen=True)
class QuantizerConfig:
    """Mimi's split residual vector quantizer: one semantic codebook, the rest acoustic."""

    dim: int = 256
    n_q: int = 32
    """Codebooks stored; callers may use fewer."""
    bins: int = 2048


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
    sample_rate: int = 24_000
    """Samples a second of the audio, one channel."""
    frame_rate: float = 12.5
    """Frames of codes a second."""

    @property
    def frame_size(self) -> int:
        """Samples a frame (1920 in the released codec)."""
        return round(self.sample_rate / self.frame_rate)


