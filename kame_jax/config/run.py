"""What a run is made of: model, codec, data, training, loss, optimizer and mesh.

Defaults are those of kame_finetune (its `finetune.py`) where it has one, except for the defects that
`config/presets.py` lists.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from kame_jax.config.fields import Count, Fraction, NonNegativeFloat, OneOf, Positive, PositiveFloat, Range
from kame_jax.config.model import MimiConfig, ModelConfig

SPEAKERS = ("A", "B")
DTYPES = ("float32", "bfloat16")
REMATS = ("none", "dots", "attention", "full")
NORMALISATIONS = ("global", "micro_batch")
TRACKERS = ("tensorboard", "wandb")
ATTENTIONS = ("auto", "xla", "cudnn", "splash")
SCHEDULES = ("constant", "cosine")
TAILS = ("clear", "keep")
RULES = ("kame-jax", "reference")


@dataclass(frozen=True)
class RunModelConfig(ModelConfig):
    """The model of a run: its architecture, and where its first weights come from."""

    init_from: str | None = None
    """Checkpoint to start from, as the commands take it; None draws random weights."""

    @property
    def architecture(self) -> ModelConfig:
        """The architecture alone, equal for equal models wherever their weights come from."""
        return ModelConfig(
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(ModelConfig)}
        )


@dataclass(frozen=True)
class DataConfig:
    """Which dialogues are trained on, and how they are cut."""

    path: str | None = None
    """A data set that `kame-jax data build` made, a mixture of such (a .yaml file of path: weight), or a folder of
    dialogues or of records; needed to train."""
    eval_path: str | None = None
    """The same for evaluation (`SET:validation` names a split); None evaluates nothing."""
    tokenizer: str | None = None
    """SentencePiece model of the text; None takes `tokenizer.model` of the folder of dialogues, or the bundled one for
    a model with its text ids. Records need none."""
    codec: str | None = None
    """Checkpoint of Mimi for dialogues; None takes the bundled one where `codec` describes it (`tiny`), and is refused
    elsewhere. Records need none."""
    rules: Annotated[str, OneOf(RULES)] = "kame-jax"
    """By which rules a folder of dialogues is tokenised: corrected ones, or those of kame_finetune."""
    speakers: tuple[Annotated[str, OneOf(SPEAKERS)], ...] = ("A",)
    """Who is the model: a dialogue gives one sample per speaker named here."""
    max_frames: Positive | None = None
    """Longer dialogues are cut into nearly equal pieces of at most this many frames (80 ms each); None cuts nothing."""
    min_frames: Positive | None = None
    """Shorter pieces are dropped, and counted; None keeps all."""
    context: Count = 0
    """Frames that a later piece repeats from the one before, read but not learnt again."""
    carry_oracle: bool = True
    """An answer that began in an earlier piece continues in the next; kame_finetune loses it."""
    mask_fill: bool = True
    """The padding after a dialogue's last frame is not a label; in kame_finetune it is."""
    conditions: tuple[str, ...] = ()
    """What every dialogue is conditioned on, `name=value` for each condition of the model (`description=very_good`),
    `name=` for one that is not given. A model without conditions takes none."""
    pack: bool = False
    """Short samples share rows of `max_frames`, one after the other; none sees another. On GPU the attention is XLA's:
    cuDNN's kernel cannot keep samples apart."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield (field, what is wrong) for fields that do not fit together."""
        if not self.speakers or len(set(self.speakers)) < len(self.speakers):
            yield (
                "speakers",
                f"expected A, B or both, each once, got {', '.join(self.speakers) or 'an empty list'}",
            )
        if self.max_frames and self.min_frames and self.min_frames > self.max_frames:
            yield "min_frames", f"must be at most max_frames ({self.max_frames}), got {self.min_frames}"
        if self.max_frames and self.context >= self.max_frames:
            yield "context", f"must be less than max_frames ({self.max_frames}), got {self.context}"
        if self.pack and not self.max_frames:
            yield "pack", "needs max_frames, the length of a row"


@dataclass(frozen=True)
class OracleConfig:
    """How the oracle is shown in training, and how it is disturbed (`data.collate`, `oracle.schedule`)."""

    use: bool = True
    """False leaves the oracle embedding out of training and evaluation altogether."""
    tail: Annotated[str, OneOf(TAILS)] = "clear"
    """What a new answer does to the rest of a longer old one; "keep" is the reference's collator."""
    shift_prob: Fraction = 1.0
    """Probability of moving a sample's whole oracle row, earlier or later with equal chances."""
    right_shift: tuple[Count, Count] = (1, 10)
    """Fewest and most frames later."""
    left_shift: tuple[Count, Count] = (1, 15)
    """Fewest and most frames earlier (the oracle may then know what was not yet said)."""
    skip: tuple[Fraction, Fraction] = (0.1, 0.7)
    """Each event but a turn's last is dropped, with a probability drawn per sample from this range."""
    jitter: Count = 0
    """Each event comes up to this many frames later."""
    hint_only: bool = False
    """Only the true reply is ever shown; events without one, or that are not to show it, are dropped."""
    hint_warmup: tuple[Count, Count] | None = None
    """With `hint_only`: always up to the first step, never from the second on, linearly rarer between."""
    causal: bool = True
    """The oracle row is only ever moved later, never before the words it is based on."""
    start_first: bool = False
    """A dialogue's first oracle column is a start, as in the reference's forward pass, not idle as in its collator."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield (field, what is wrong) for fields that do not fit together."""
        for name in ("right_shift", "left_shift", "skip", "hint_warmup"):
            limits = getattr(self, name)
            if limits is not None and limits[0] > limits[1]:
                yield name, f"expected the smaller one first, got {limits[0]:g}, {limits[1]:g}"


@dataclass(frozen=True)
class TrainConfig:
    """Length and rhythm of the training."""

    steps: Positive = 1000
    """Optimizer steps."""
    batch_size: Positive = 8
    """Sequences a step, over all devices and processes."""
    micro_batches: Positive = 1
    """Parts into which a batch is cut to save memory; must divide `batch_size`."""
    checkpoint_every: Count = 500
    """Steps between checkpoints; 0 writes only the last."""
    checkpoint_minutes: NonNegativeFloat = 0.0
    """Also a checkpoint when the last one is this old; 0 counts steps alone."""
    keep_checkpoints: Positive = 3
    """How many checkpoints are kept, the newest."""
    keep_best: Count = 0
    """How many more are kept: those whose evaluation has the smallest `best_metric`."""
    best_metric: str = "loss/total"
    """A figure of the evaluation (`loss/text_non_pad`, `idle/loss/total`, ...); of accuracies and gaps the largest."""
    ema: Fraction | None = None
    """Decay of a moving average of the weights (0.999, for example), evaluated as well and written to `ema/` at the
    end; None keeps none."""
    hang_minutes: NonNegativeFloat = 0.0
    """The run ends with status 75 when no step has ended for this long; 0 waits for ever. Half an hour more is allowed
    for what compiles (the first step, the first batch of an evaluation) and for writing a checkpoint."""
    profile: tuple[Count, Count] | None = None
    """First and last step of a trace in `profile/`, for XProf or Perfetto."""
    trackers: tuple[Annotated[str, OneOf(TRACKERS)], ...] = ()
    """Where metrics go besides `metrics.jsonl`; each is an extra to install."""
    eval_every: Count = 0
    """Steps between evaluations on `data.eval_path`; 0 evaluates only after the last."""
    log_every: Positive = 10
    """Steps between lines of metrics."""
    dtype: Annotated[str, OneOf(DTYPES)] = "float32"
    """Type of the activations; weights, norms and losses stay float32."""
    remat: Annotated[str, OneOf(REMATS)] = "none"
    """What of a layer the backward pass recomputes, to save memory: nothing, all but matrix products ("dots"),
    all but attention ("attention"), or all of it ("full")."""
    attention: Annotated[str, OneOf(ATTENTIONS)] = "auto"
    """Kernel of the temporal attention; "auto" takes splash on TPU, cuDNN on GPU, XLA's where neither fits."""
    loss_chunks: Positive = 1
    """Parts of a sequence: logits are computed part by part, so that they are never all in memory."""
    frozen_dtype: Annotated[str, OneOf(DTYPES)] = "float32"
    """Type in which frozen weights are kept (bfloat16 halves the memory of LoRA)."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield (field, what is wrong) for fields that do not fit together."""
        if self.profile and self.profile[0] > self.profile[1]:
            yield "profile", f"expected the first step first, got {self.profile[0]}, {self.profile[1]}"
        if self.batch_size % self.micro_batches:
            yield "micro_batches", f"must divide batch_size ({self.batch_size}), got {self.micro_batches}"


@dataclass(frozen=True)
class LossConfig:
    """Weights of the loss parts: text + audio, each a weighted mean of cross-entropies."""

    text_padding_weight: NonNegativeFloat = 0.5
    """Weight of the padding ids of the inner monologue, whose other ids have weight 1."""
    semantic_weight: NonNegativeFloat = 100.0
    """Weight of the first codebook of each speaker."""
    acoustic_weight: NonNegativeFloat = 1.0
    """Weight of the other codebooks."""
    audio_weight: NonNegativeFloat = 1.0
    """Factor of the whole audio loss relative to the text loss (KAME's paper has 1.5, its released code none)."""
    normalise: Annotated[str, OneOf(NORMALISATIONS)] = "global"
    """Means over the tokens of the whole batch, or of each micro-batch and then over those, as kame_finetune has it
    (one micro-batch for each of its processes and accumulation steps)."""


@dataclass(frozen=True)
class DropoutConfig:
    """What is hidden from the temporal transformer in training. All 0 by default."""

    text_token: Fraction = 0.0
    """Probability of an ordinary text token to read as padding (kame_finetune's `text_token_dropout`)."""
    text: Fraction = 0.0
    """Probability of a sample to read no text at all (`text_emb_dropout`)."""
    semantic: Fraction = 0.0
    """Probability of a sample not to read the model's own semantic codebook (`semantic_emb_dropout`)."""
    code: Fraction = 0.0
    """Probability of a single audio code, of either speaker, not to be read."""
    own: Fraction = 0.0
    """Probability of a sample not to hear the model's own voice at all."""
    user: Fraction = 0.0
    """Probability of a sample not to hear the user at all."""


@dataclass(frozen=True)
class GroupConfig:
    """What is different for one group of weights."""

    learning_rate: NonNegativeFloat | None = None
    """None is the run's (`optimizer.depth_learning_rate` for the depth transformer)."""
    weight_decay: NonNegativeFloat | None = None
    """None is the run's."""
    freeze: bool = False
    """The weights stay as they are: no gradient, no moments."""


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with a linear warm-up, then a constant learning rate or a cosine."""

    learning_rate: NonNegativeFloat = 3e-5
    """For everything but the depth transformer."""
    depth_learning_rate: NonNegativeFloat = 3e-5
    """For the depth transformer, its embeddings and its heads."""
    warmup_steps: Count = 0
    """Steps over which both rates rise from 0, in DeepSpeed's form (see `train/optimizer.py`); 0 has no warm-up."""
    schedule: Annotated[str, OneOf(SCHEDULES)] = "constant"
    """What follows the warm-up, up to `train.steps`."""
    final_learning_rate: NonNegativeFloat = 0.0
    """Where the cosine ends, for both rates."""
    beta1: Fraction = 0.9
    beta2: Fraction = 0.95
    eps: PositiveFloat = 1e-5
    weight_decay: NonNegativeFloat = 0.1
    """Decoupled, on every weight."""
    clip_norm: PositiveFloat | None = 1.0
    """Largest global norm of the gradient; None clips nothing."""
    moments: Annotated[str, OneOf(DTYPES)] = "float32"
    """Type in which both moments are kept; they are computed in float32."""
    temporal: GroupConfig = GroupConfig()
    """The temporal transformer, its norms and the text head."""
    depth: GroupConfig = GroupConfig()
    """The depth transformer, its embeddings and heads."""
    embeddings: GroupConfig = GroupConfig()
    """Text and audio embeddings of the temporal transformer."""
    oracle: GroupConfig = GroupConfig()
    """The oracle embedding, where it is separate."""
    adapters: GroupConfig = GroupConfig()
    """LoRA, on any layer."""


@dataclass(frozen=True)
class MeshConfig:
    """Devices along each mesh axis; one of them may be -1, which takes all devices that are left."""

    replica: Annotated[int, Range(-1)] = 1
    """Whole copies of the weights (pure data parallelism)."""
    fsdp: Annotated[int, Range(-1)] = -1
    """Devices over which weights, optimizer state and batch are cut."""
    tensor: Annotated[int, Range(-1)] = 1
    """Devices over which heads and feed-forward widths are cut."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield (field, what is wrong) for fields that do not fit together."""
        sizes = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name, size in sizes.items():
            if size == 0:
                yield name, "expected a number of devices, or -1 for all that are left, got 0"
        left = [name for name, size in sizes.items() if size == -1]
        for name in left[1:]:
            yield name, f"only one axis may be -1, and {left[0]} is"


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run, from a YAML file and overrides; written to its folder as `config.yaml`.

    A file or an override may also say `preset: kame-jax` (the defaults) or `preset: reference`, which sets what
    `config/presets.py` lists; explicit settings win over it.
    """

    run_dir: str = "runs/default"
    """Folder of everything that the run writes."""
    seed: Count = 0
    """Every random number of the run follows from it."""
    model: RunModelConfig
    codec: MimiConfig = MimiConfig()
    data: DataConfig = DataConfig()
    oracle: OracleConfig = OracleConfig()
    train: TrainConfig = TrainConfig()
    loss: LossConfig = LossConfig()
    dropout: DropoutConfig = DropoutConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    mesh: MeshConfig = MeshConfig()

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield (field, what is wrong) for fields that do not fit together."""
        if self.model.card != self.codec.quantizer.bins:
            yield (
                "model.card",
                f"must equal codec.quantizer.bins ({self.codec.quantizer.bins}), got {self.model.card}",
            )
        used = max(self.model.dep_q, self.model.num_user_rows)
        if used > self.codec.quantizer.n_q:
            yield (
                "codec.quantizer.n_q",
                f"the model uses {used} codebooks of a speaker, got {self.codec.quantizer.n_q}",
            )
