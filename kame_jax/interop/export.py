"""Writing a checkpoint in a PyTorch layout: a folder with safetensors and the configuration that the reference loads.

Every tensor keeps the bytes it was imported with, in any layout. Nothing appears under its final name before it is
complete.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import kame_jax
from kame_jax.checkpoint.weights import Weights, whole
from kame_jax.config import MimiConfig, ModelConfig
from kame_jax.errors import InputError
from kame_jax.files import building, free_folder, settle
from kame_jax.interop import kwargs, lm_tables, mimi_kwargs, mimi_tables
from kame_jax.interop.assemble import slot_value, stored_dtype
from kame_jax.interop.beside import Beside
from kame_jax.interop.checkpoint import Checkpoint, add_oracle
from kame_jax.interop.layouts import LM_LAYOUTS, MIMI_LAYOUTS, Layout
from kame_jax.interop.locate import MIMI_CONFIG_NAME, NAMES
from kame_jax.interop.places import CONFIG_NAMES
from kame_jax.interop.safetensors_file import SafetensorsWriter, TensorInfo
from kame_jax.interop.table import Rule, Slot, expand
from kame_jax.interop.weights import FoldedOracle

WEIGHTS_NAME, LORA_NAME, MIMI_NAME = (NAMES[kind][0] for kind in ("lm", "adapter", "mimi"))


def export(
    checkpoint: Checkpoint,
    folder: str | os.PathLike[str],
    layout: str,
    *,
    fold_oracle: bool = False,
    dtype: np.dtype | None = None,
    beside: Beside | None = None,
) -> list[Path]:
    """Write a checkpoint.

    Adapters that were kept go into a separate file, as moshi-finetune writes them.

    Args:
        checkpoint: what to write (`open_checkpoint`; with its options an oracle table is added, or adapters merged).
        folder: where; it must not exist, or be empty.
        layout: one of `layouts.LM_LAYOUTS`, or of `MIMI_LAYOUTS` for the codec.
        fold_oracle: for a layout without an oracle: add its padding row to the text embedding (`FoldedOracle`).
        dtype: cast every weight but conditioners; None keeps each tensor's own.
        beside: the model's tokenizer and codec, copied into the folder and named in its `config.json`.

    Returns:
        The files written.

    Raises:
        InputError: the layout cannot hold the model, a number is too large for `dtype`, or there is something at
            `folder`.
    """
    if isinstance(checkpoint.config, MimiConfig):
        kind = _layout(layout, MIMI_LAYOUTS, "Mimi")
        config, weights = checkpoint.config, checkpoint.weights
        name = WEIGHTS_NAME if kind is Layout.MIMI_HF else MIMI_NAME
        files = {name: mimi_tables.written(config, kind)}
        texts = {} if kind is Layout.MIMI_HF else {MIMI_CONFIG_NAME: mimi_kwargs.to_kwargs(config)}
    else:
        kind = _layout(layout, LM_LAYOUTS, "a language model")
        checkpoint = _fit_oracle(checkpoint, kind, fold_oracle)
        lm_config, weights = checkpoint.config, checkpoint.weights
        assert isinstance(lm_config, ModelConfig)
        rules = lm_tables.written(lm_config, kind)
        files = {WEIGHTS_NAME: [rule for rule in rules if not _is_adapter(rule)]}
        if lm_config.lora is not None:
            if kind is Layout.FINETUNE:
                raise InputError("kame_finetune has no LoRA: merge the adapters first")
            files[LORA_NAME] = [rule for rule in rules if _is_adapter(rule)]
        texts = _config_files(checkpoint, lm_config, kind)
    target = free_folder(folder)
    with building(target, alone=True) as scratch:
        inside = scratch / "export"
        inside.mkdir()
        for name, some in files.items():
            _write(inside / name, some, checkpoint, weights, kind, dtype)
        if beside is not None:
            beside.copy(inside)
            if CONFIG_NAMES[0] in texts:
                texts[CONFIG_NAMES[0]] |= beside.names
        for name, text in texts.items():
            (inside / name).write_text(json.dumps(text, indent=4) + "\n")
        settle(inside, target)
    return sorted(target.iterdir())


def _layout(name: str, layouts: Sequence[Layout], what: str) -> Layout:
    found = next((layout for layout in layouts if layout == name), None)
    if found is None:
        raise InputError(f"layout {str(name)!r} cannot hold {what}, only {', '.join(layouts)}")
    return found


def _fit_oracle(checkpoint: Checkpoint, layout: Layout, fold: bool) -> Checkpoint:
    """The model with an oracle table exactly where the layout has one."""
    config = checkpoint.config
    assert isinstance(config, ModelConfig)
    if layout.facts.oracle is False and config.oracle != "none":
        if not fold:
            raise InputError(
                f"layout '{layout}' has no oracle embedding, and {checkpoint.name} has one: choose to fold its "
                "padding row into the text embedding (what is left behaves as with an idle oracle), or layout "
                f"'{Layout.KAME_FUSED if layout.facts.fused else Layout.KAME}'"
            )
        return dataclasses.replace(
            checkpoint,
            config=dataclasses.replace(config, oracle="none"),
            weights=FoldedOracle(checkpoint.weights, config.text_padding_id),
        )
    if fold:
        raise InputError(f"there is no oracle to fold: {checkpoint.name} as '{layout}' keeps what it has")
    if config.oracle == "tie":
        # The reference has no tied mode: kame_finetune copies the text embedding before each save.
        return add_oracle(
            dataclasses.replace(checkpoint, config=dataclasses.replace(config, oracle="none")), "clone"
        )
    if layout.facts.oracle and config.oracle == "none":
        raise InputError(
            f"layout '{layout}' needs an oracle embedding, and {checkpoint.name} has none: give it one with the oracle "
            "option, 'clone' (as the reference does) or 'identity' (no change without an oracle)"
        )
    return checkpoint


def _is_adapter(rule: Rule) -> bool:
    return rule.path.endswith((".lora_a", ".lora_b"))


def _write(
    path: Path,
    rules: Sequence[Rule],
    checkpoint: Checkpoint,
    weights: Weights,
    layout: Layout,
    dtype: np.dtype | None,
) -> None:
    """One safetensors file; reads one of our arrays at a time."""
    slots = expand(rules, weights.shapes)
    by_path: dict[str, list[Slot]] = {}
    infos: dict[str, TensorInfo] = {}
    for slot in slots.values():
        by_path.setdefault(slot.path, []).append(slot)
        infos[slot.key] = TensorInfo(slot.shape, _dtype_of(slot, checkpoint, weights, dtype))
    writer = SafetensorsWriter(path, infos, _metadata(checkpoint, layout))
    try:
        for name, some in by_path.items():
            array = whole(weights, name)
            for slot in some:
                value = slot_value(slot, array, infos[slot.key].dtype)
                _check_range(slot, array, value)
                writer.write(slot.key, value)
            del array
    except BaseException:
        writer.abandon()
        raise
    writer.close()


def _check_range(slot: Slot, array: np.ndarray, value: np.ndarray) -> None:
    """Raises InputError where a cast has made a number infinite."""
    if value.dtype == array.dtype or np.isfinite(value).all():
        return
    given = array[slot.at]
    if np.isfinite(given).sum() > np.isfinite(value).sum():
        largest = np.abs(np.where(np.isfinite(given), given, 0).astype(np.float64)).max()
        raise InputError(
            f"{slot.key}: a weight of {largest:g} is too large for {value.dtype}: choose another dtype"
        )


def _dtype_of(slot: Slot, checkpoint: Checkpoint, weights: Weights, dtype: np.dtype | None) -> np.dtype:
    if dtype is not None and not slot.path.startswith("conditioners."):
        return dtype
    return stored_dtype(slot, weights.shapes[slot.path], weights.dtype(slot.path), checkpoint.other_dtypes)


def _metadata(checkpoint: Checkpoint, layout: Layout) -> dict[str, str]:
    """A file's metadata: its source's, and how it was made."""
    provenance = checkpoint.provenance
    own = {
        "format": "pt",
        "producer": f"kame_jax {kame_jax.__version__}",
        "layout": str(layout),
        "rope_order": "half" if layout is Layout.MIMI_HF else "interleaved",
        "source_layout": str(provenance.get("source_layout", checkpoint.layout)),
    }
    if "header_sha256" in provenance:
        own["source_header_sha256"] = provenance["header_sha256"]
    return dict(provenance.get("metadata", {})) | own


def _config_files(checkpoint: Checkpoint, config: ModelConfig, layout: Layout) -> dict[str, dict[str, Any]]:
    """File name -> content of the configuration that the reference's loader takes."""
    raw: Mapping[str, Any] = checkpoint.provenance.get("config") or {}
    lm = _source_kwargs(raw, config) or kwargs.to_kwargs(config)
    if layout is Layout.FINETUNE:
        return {CONFIG_NAMES[1]: {k: v for k, v in lm.items() if k != "depformer_causal"}}
    loader = {key: raw[key] for key in kwargs.LOADER_KEYS if key in raw and key != "lora_name"}
    loader["moshi_name"] = WEIGHTS_NAME
    if config.lora is not None:
        loader["lora_name"] = LORA_NAME
    return {CONFIG_NAMES[0]: loader | lm | kwargs.lora_kwargs(config.lora)}


def _source_kwargs(raw: Mapping[str, Any], config: ModelConfig) -> dict[str, Any] | None:
    """The source's own keyword arguments, where they still describe the model."""
    own = {key: value for key, value in kwargs.lm_kwargs(raw).items() if key != "quantize"}
    try:
        found = kwargs.from_kwargs(own, "source", config.oracle)
    except InputError:
        return None
    # A leftover projection follows from the tensors; the keyword arguments only allow it.
    same = dataclasses.replace(found, unused_depth_input_dim=config.unused_depth_input_dim)
    return own if same == dataclasses.replace(config, lora=None) else None
