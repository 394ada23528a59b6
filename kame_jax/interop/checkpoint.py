"""Opening a checkpoint of any readable layout: its files, its configuration, and its weights under our names.

Nothing is read here but headers; `native.py`, `load.py` and `export.py` then move the bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kame_jax.checkpoint.native import NativeWeights, read_meta
from kame_jax.checkpoint.weights import Weights
from kame_jax.config import LoRAConfig, MimiConfig, ModelConfig
from kame_jax.errors import InputError
from kame_jax.interop import kwargs, lm_tables, recognise
from kame_jax.interop.assemble import Deviations, TensorSource, deviations
from kame_jax.interop.layouts import Layout, holds, readable_layout
from kame_jax.interop.locate import Located, locate
from kame_jax.interop.names import NamedTensors
from kame_jax.interop.safetensors_file import SafetensorsFile
from kame_jax.interop.table import expand
from kame_jax.interop.views import Dequantized, FilledAdapters, Union
from kame_jax.interop.weights import FileWeights, MergedLoRA, WithOracle
from kame_jax.model import tree

ORACLE_INITS = ("clone", "identity")
LORA_MODES = ("merge", "keep")


@dataclass
class Checkpoint:
    """An opened checkpoint."""

    name: str
    """What to call it in messages."""
    layout: Layout
    """How its tensors are named."""
    config: ModelConfig | MimiConfig
    weights: Weights
    provenance: dict[str, Any] = field(default_factory=dict)
    """Where the weights came from, kept so that they can be written again as they were: source layout, the files'
    own metadata and configuration, dtypes of slices that differ from their array's."""
    notes: list[str] = field(default_factory=list)
    """What a person should know about it."""

    @property
    def other_dtypes(self) -> Deviations:
        """See `assemble.deviations`."""
        return self.provenance.get("other_dtypes", {})


def open_checkpoint(
    spec: str | os.PathLike[str],
    *,
    wanted: str = "lm",
    config: ModelConfig | MimiConfig | str | os.PathLike[str] | None = None,
    base: str | os.PathLike[str] | None = None,
    lora: str = "merge",
    oracle: str | None = None,
) -> Checkpoint:
    """Open a checkpoint for reading.

    Args:
        spec: see `locate`.
        wanted: `lm`, or `mimi` where a folder or repository holds both. A single file is recognised by its keys.
        config: the configuration, where the file comes with none and its shapes do not reveal it: an object, a YAML
            file or ready name, or a JSON file of the reference's keyword arguments.
        base: the model that LoRA adapters belong to.
        lora: what happens to adapters: `merge` adds them to the weights, `keep` leaves them as they are.
        oracle: gives a model without an oracle embedding one: `clone` or `identity` (see `WithOracle`).

    Raises:
        InputError: nothing readable is there, tensors that do not fit, options that do not apply.
    """
    located = locate(spec, wanted)
    if located.native is not None:
        checkpoint = _open_native(located.native)
    else:
        checkpoint = _open_files(located, config, base, lora)
    if lora == "merge" and isinstance(checkpoint.config, ModelConfig) and checkpoint.config.lora is not None:
        checkpoint = merge_lora(checkpoint)
    return checkpoint if oracle is None else add_oracle(checkpoint, oracle)


def merge_lora(checkpoint: Checkpoint) -> Checkpoint:
    """The same model with its adapters added to the weights."""
    config = _lm_config(checkpoint)
    if config.lora is None:
        raise InputError(f"{checkpoint.name}: there are no LoRA adapters to merge")
    return dataclasses.replace(
        checkpoint,
        config=dataclasses.replace(config, lora=None),
        weights=MergedLoRA(checkpoint.weights, config.lora.scaling),
        provenance=checkpoint.provenance | {"lora_merged": dataclasses.asdict(config.lora)},
    )


def add_oracle(checkpoint: Checkpoint, init: str) -> Checkpoint:
    """The same model with an oracle embedding made from its text embedding, `clone` or `identity`."""
    config = _lm_config(checkpoint)
    if init not in ORACLE_INITS:
        raise InputError(f"oracle must be one of {', '.join(ORACLE_INITS)}, got {init!r}")
    if config.oracle == "tie":
        raise InputError(f"{checkpoint.name}: its oracle embedding is tied to the text embedding already")
    return dataclasses.replace(
        checkpoint,
        config=dataclasses.replace(config, oracle="separate"),
        weights=WithOracle(checkpoint.weights, init, config.text_padding_id, config.text_card),
        provenance=checkpoint.provenance | {"oracle_init": init},
    )


def _lm_config(checkpoint: Checkpoint) -> ModelConfig:
    if not isinstance(checkpoint.config, ModelConfig):
        raise InputError(f"{checkpoint.name}: this is the codec Mimi, expected a language model")
    return checkpoint.config


def _open_native(path: Path) -> Checkpoint:
    meta = read_meta(path)
    return Checkpoint(str(path), Layout.OURS, meta.config, NativeWeights(path, meta), meta.provenance)


def _open_files(
    located: Located,
    config: ModelConfig | MimiConfig | str | os.PathLike[str] | None,
    base: str | os.PathLike[str] | None,
    lora: str,
) -> Checkpoint:
    if lora not in LORA_MODES:
        raise InputError(f"lora must be one of {', '.join(LORA_MODES)}, got {lora!r}")
    files = [NamedTensors(SafetensorsFile(path)) for path in located.weights]
    adapters = [NamedTensors(SafetensorsFile(located.adapter))] if located.adapter else []
    if len(files) == 1 and holds(files[0].infos) == "adapter":
        files, adapters = [], files
    if base is not None:
        if not adapters:
            raise InputError(f"{located.name}: a base is for LoRA adapters, and there are none here")
        below = locate(base)
        if below.native is not None:
            raise InputError(f"{below.name}: the base of adapters must be safetensors")
        files = [NamedTensors(SafetensorsFile(path)) for path in below.weights]
        located = dataclasses.replace(located, config={**(below.config or {}), **(located.config or {})})
    if not files:
        raise InputError(
            f"{located.name}: these are LoRA adapters without the model they belong to: give it as base"
        )
    source: TensorSource = Union([*files, *adapters])
    layout = readable_layout(Union(files).infos, located.name)
    notes = [*located.notes, *(note for file in [*files, *adapters] for note in file.notes)]
    provenance = _provenance(located, layout, [named.file for named in [*files, *adapters]])
    if layout.facts.holds == "mimi":
        return _open_mimi(located, config, source, layout, provenance, notes)
    if layout is Layout.MOSHI_Q8:
        table = source.infos.get("text_emb.weight")
        source = Dequantized(source, table.dtype if table else np.dtype(np.float32))
    return _open_lm(located, config, source, layout, provenance, notes)


def _provenance(located: Located, layout: Layout, files: Sequence[SafetensorsFile]) -> dict[str, Any]:
    digest = hashlib.sha256()
    metadata: dict[str, str] = {}
    for file in files:
        digest.update(file.header_bytes())
        metadata |= {
            key: text for key, text in file.metadata.items() if text not in file.infos
        }  # no tied names
    return {
        "source_layout": str(layout),
        "files": [file.path.name for file in files],
        "header_sha256": digest.hexdigest(),
        "metadata": metadata,
        "config": located.config,
        "config_name": located.config_name,
    }


def _open_lm(
    located: Located,
    given: object,
    source: TensorSource,
    layout: Layout,
    provenance: dict[str, Any],
    notes: list[str],
) -> Checkpoint:
    config = recognise.language_model(located, given, source.infos, layout, notes)
    raw, infos = located.config or {}, {key: i for key, i in source.infos.items() if ".lora_" not in key}
    ranks = [i.shape[-1] for key, i in source.infos.items() if key.endswith(".lora_B.weight")]
    plan = recognise.plan_for(config, infos, layout, located.name)
    if ranks:
        if not raw.get("lora"):
            notes.append(f"adapters without a configuration: scaling taken as {LoRAConfig.scaling}")
        config = dataclasses.replace(config, lora=kwargs.from_lora_kwargs(raw, max(ranks)))
        source = _filled(config, source, notes)
        plan = recognise.plan_for(config, source.infos, layout, located.name)
    elif raw.get("lora"):
        notes.append("the configuration says lora, but no adapters are here: taken as merged")
    if raw.get("model_type") == "hibiki":
        notes.append(
            "hibiki: the reference overwrites row 2 of the text embedding with row 3 when it loads this"
        )
    kinds = {info.dtype.name for info in source.infos.values()}
    if short := sorted(name for name in kinds if name.startswith("float8")):
        notes.append(
            f"{', '.join(short)}: held in bfloat16, which has all these numbers; the computation is in float32, or in "
            "the text embedding's dtype where that is longer"
        )
    if "float64" in kinds:
        notes.append("float64: held and computed in float32")
    if other := deviations(plan, source):
        provenance["other_dtypes"] = other
        notes.append(f"mixed dtypes within {', '.join(sorted(other))}: kept, and restored on export")
    return Checkpoint(located.name, layout, config, FileWeights(plan, source), provenance, notes)


def _filled(config: ModelConfig, source: TensorSource, notes: list[str]) -> FilledAdapters:
    """The file with adapters of one rank on every linear layer, under its own names."""
    fused = any(".in_proj.lora_" in key or ".out_proj.lora_" in key for key in source.infos)
    rules = lm_tables.written(config, Layout.MOSHI_FUSED if fused else Layout.MOSHI)
    shapes = tree.shapes(tree.abstract(config))
    filled = FilledAdapters(source, expand([rule for rule in rules if ".lora_" in rule.key], shapes))
    if filled.note:
        notes.append(filled.note)
    return filled


def _open_mimi(
    located: Located,
    given: object,
    source: TensorSource,
    layout: Layout,
    provenance: dict[str, Any],
    notes: list[str],
) -> Checkpoint:
    errors: list[InputError] = []
    for candidate in recognise.codecs(located, given):
        try:
            plan = recognise.plan_for(candidate, source.infos, layout, located.name)
        except InputError as error:
            errors.append(error)
            continue
        if other := deviations(plan, source):
            provenance["other_dtypes"] = other
        if "decoder.first.weight" not in plan.shapes:
            notes.append("the encoder of a codec, without the decoder: it encodes, and decodes to NaN")
        return Checkpoint(located.name, layout, candidate, FileWeights(plan, source), provenance, notes)
    raise min(errors, key=lambda error: len(error.problems))
