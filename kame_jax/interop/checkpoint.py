"""Opening a checkpoint of any readable layout: its files, its configuration, and its weights under our names.

Nothing is read here but headers; `native.py`, `load.py` and `export.py` then move the bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kame_jax.checkpoint.native import NativeWeights, read_meta
from kame_jax.config import (
    LoRAConfig,
    MimiConfig,
    ModelConfig,
    config_names,
    load_codec,
    load_model,
)
from kame_jax.errors import InputError
from kame_jax.files import read_json
from kame_jax.interop import kwargs, lm_tables, mimi_kwargs, mimi_tables
from kame_jax.interop.assemble import Deviations, TensorSource, deviations
from kame_jax.interop.layouts import has_base, readable_layout
from kame_jax.interop.locate import Located, locate
from kame_jax.interop.safetensors_file import SafetensorsFile
from kame_jax.interop.sizes import Sizes, config_sizes, lora_rank, read_sizes
from kame_jax.interop.table import match
from kame_jax.interop.weights import Dequantized, FileWeights, MergedLoRA, Union, Weights, WithOracle
from kame_jax.model import tree

ORACLE_INITS = ("clone", "identity")
LORA_MODES = ("merge", "keep")


@dataclass
class Checkpoint:
    """An opened checkpoint."""

    name: str
    """What to call it in messages."""
    layout: str
    """One of `layouts.READABLE`, or `kame_jax`."""
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
        wanted: `lm`, or `mimi` where a folder or repository holds both. A single file is what its keys say.
        config: the configuration, where the file has none beside it and its shapes do not tell: an object, a YAML
            file or ready name, or a JSON file of the reference's keyword arguments.
        base: the model that LoRA adapters belong to.
        lora: what becomes of adapters: `merge` adds them to the weights, `keep` leaves them as they are.
        oracle: gives a model without an oracle embedding one: `clone` or `identity` (see `WithOracle`).

    Raises:
        InputError: nothing readable there, tensors that do not fit, options that do not apply.
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
    return Checkpoint(str(path), "kame_jax", meta.config, NativeWeights(path, meta.config), meta.provenance)


def _open_files(
    located: Located,
    config: ModelConfig | MimiConfig | str | os.PathLike[str] | None,
    base: str | os.PathLike[str] | None,
    lora: str,
) -> Checkpoint:
    if lora not in LORA_MODES:
        raise InputError(f"lora must be one of {', '.join(LORA_MODES)}, got {lora!r}")
    files = [SafetensorsFile(path) for path in located.weights]
    adapters = [SafetensorsFile(located.adapter)] if located.adapter else []
    if len(files) == 1 and _is_adapter(files[0]):
        files, adapters = [], files
    if not files and base is None:
        raise InputError(
            f"{located.name}: these are LoRA adapters without the model they belong to: give it as base"
        )
    if base is not None:
        if not adapters:
            raise InputError(f"{located.name}: a base is for LoRA adapters, and there are none here")
        below = locate(base)
        if below.native is not None:
            raise InputError(f"{below.name}: the base of adapters must be safetensors")
        files = [SafetensorsFile(path) for path in below.weights]
        located = dataclasses.replace(located, config=(below.config or {}) | (located.config or {}) or None)
    source: TensorSource = Union([*files, *adapters])
    layout = readable_layout((files and Union(files).infos) or source.infos, located.name)
    provenance = _provenance(located, layout, [*files, *adapters])
    if layout.startswith("mimi"):
        return _open_mimi(located, config, source, layout, provenance)
    if layout == "moshi-q8":
        table = source.infos.get("text_emb.weight")
        source = Dequantized(source, table.dtype if table else np.dtype(np.float32))
    return _open_lm(located, config, source, layout, provenance)


def _is_adapter(file: SafetensorsFile) -> bool:
    return any(key.endswith(".lora_A.weight") for key in file.infos) and not has_base(file.infos)


def _provenance(located: Located, layout: str, files: Sequence[SafetensorsFile]) -> dict[str, Any]:
    digest = hashlib.sha256()
    metadata: dict[str, str] = {}
    for file in files:
        digest.update(file.header_bytes())
        metadata |= file.metadata
    return {
        "source_layout": layout,
        "files": [file.path.name for file in files],
        "header_sha256": digest.hexdigest(),
        "metadata": metadata,
        "config": located.config,
        "config_name": located.config_name,
    }


def _open_lm(
    located: Located, config: object, source: TensorSource, layout: str, provenance: dict[str, Any]
) -> Checkpoint:
    notes: list[str] = []
    lm_config = _find_config(located, config, source, notes)
    rank = lora_rank(source.infos)
    raw = located.config or {}
    adapters = kwargs.from_lora_kwargs(raw, rank)
    if raw.get("lora") and rank is None:
        notes.append("the configuration says lora, but no adapters are here: taken as merged")
    if rank is not None and not raw.get("lora"):
        notes.append(f"adapters without a configuration: scaling taken as {LoRAConfig().scaling}")
    lm_config = dataclasses.replace(lm_config, lora=adapters)
    shapes = tree.shapes(tree.abstract(lm_config))
    names = lm_tables.written(lm_config, layout if layout in lm_tables.SPELLINGS else "moshi")
    plan = match(source.infos, lm_tables.readable(lm_config), names, shapes, located.name)
    if raw.get("model_type") == "hibiki":
        notes.append(
            "hibiki: the reference overwrites row 2 of the text embedding with row 3 when it loads this"
        )
    if other := deviations(plan, source):
        provenance["other_dtypes"] = other
        notes.append(f"mixed dtypes within {', '.join(sorted(other))}: kept, and restored on export")
    return Checkpoint(located.name, layout, lm_config, FileWeights(plan, source), provenance, notes)


def _find_config(located: Located, config: object, source: TensorSource, notes: list[str]) -> ModelConfig:
    """The configuration given, or beside the file, or of a ready model of the same sizes; sizes as in the tensors."""
    oracle = "separate" if any(key.startswith("oracle_emb.") for key in source.infos) else "none"
    sizes: Sizes | None = None
    with contextlib.suppress(KeyError, IndexError, ZeroDivisionError):
        sizes = read_sizes(source.infos)
    raw = kwargs.lm_kwargs(located.config or {})
    where = f"{located.name} ({located.config_name})"
    if config is not None:
        found = _given_config(config)
    elif "dim" in raw:
        found = kwargs.from_kwargs(raw, where)
    elif ready := _ready_config(sizes, oracle):
        name, found = ready
        notes.append(f"configuration taken from the ready one with these sizes: {name}")
        if known := {key: value for key, value in raw.items() if key in kwargs.DEFAULTS}:
            found = kwargs.from_kwargs(kwargs.to_kwargs(found) | known, where)
    else:
        raise InputError(
            f"{located.name}: no configuration beside it ({_described(sizes)}), and no ready one has these sizes. "
            "Heads, delays, context and positions leave no trace in weights: give a config (YAML or JSON)"
        )
    found = dataclasses.replace(found, oracle=oracle, lora=None)
    return found if sizes is None else _with_sizes(found, sizes)


def _with_sizes(config: ModelConfig, sizes: Sizes) -> ModelConfig:
    """Hidden widths, and an unused projection, as the tensors have them: formulas for them differ between programs."""
    temporal = dataclasses.replace(config.temporal, ffn_dim=sizes.temporal.ffn_dim)
    depth = config.depth
    if depth is not None and sizes.depth is not None:
        depth = dataclasses.replace(depth, ffn_dim=sizes.depth.ffn_dim)
    unused = None if config.dep_q else sizes.unused_depth_input_dim
    return dataclasses.replace(config, temporal=temporal, depth=depth, unused_depth_input_dim=unused)


def _given_config(config: object) -> ModelConfig:
    if isinstance(config, ModelConfig):
        return config
    if isinstance(config, MimiConfig):
        raise InputError("a Mimi configuration was given for a language model")
    path = Path(str(config))
    return kwargs.from_kwargs(read_json(path), str(path)) if path.suffix == ".json" else load_model(path)


def _ready_config(sizes: Sizes | None, oracle: str) -> tuple[str, ModelConfig] | None:
    """The ready configuration with these sizes, the one with that oracle embedding first."""
    found: list[tuple[bool, str, ModelConfig]] = []
    for name in config_names() if sizes else ():
        with contextlib.suppress(InputError):
            config = load_model(name)
            if config_sizes(config) == sizes:
                found.append((config.oracle != oracle, name, config))
    return min(found, key=lambda entry: entry[:2])[1:] if found else None


def _described(sizes: Sizes | None) -> str:
    if sizes is None:
        return "too few tensors to tell its sizes"
    t = sizes.temporal
    return f"dim {t.dim}, {t.num_layers} layers, n_q {sizes.n_q}, dep_q {sizes.dep_q}, text_card {sizes.text_card}"


def _open_mimi(
    located: Located, config: object, source: TensorSource, layout: str, provenance: dict[str, Any]
) -> Checkpoint:
    if config is not None:
        candidates = [_given_codec(config)]
    elif located.mimi_config is not None:
        candidates = [mimi_kwargs.from_kwargs(located.mimi_config, f"{located.name}: configuration of Mimi")]
    else:
        candidates = list(_ready_codecs().values())
    errors: list[InputError] = []
    for candidate in candidates:
        shapes = tree.shapes(tree.abstract(candidate))
        rules, names = mimi_tables.readable(candidate), mimi_tables.written(candidate, layout)
        try:
            plan = match(source.infos, rules, names, shapes, located.name)
        except InputError as error:
            errors.append(error)
            continue
        if other := deviations(plan, source):
            provenance["other_dtypes"] = other
        return Checkpoint(located.name, layout, candidate, FileWeights(plan, source), provenance)
    raise min(errors, key=lambda error: len(error.problems))


def _given_codec(config: object) -> MimiConfig:
    if isinstance(config, MimiConfig):
        return config
    if isinstance(config, ModelConfig):
        raise InputError("a language model's configuration was given for Mimi")
    path = Path(str(config))
    return mimi_kwargs.from_kwargs(read_json(path), str(path)) if path.suffix == ".json" else load_codec(path)


def _ready_codecs() -> Mapping[str, MimiConfig]:
    """The released codec and those of ready configurations."""
    codecs = {"mimi": MimiConfig()}
    for name in config_names():
        with contextlib.suppress(InputError):
            codecs[name] = load_codec(name)
    return codecs
