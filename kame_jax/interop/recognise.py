"""Which configuration a checkpoint has: the one given, the one next to it, or a ready one that its tensors fit."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kame_jax.config import MimiConfig, ModelConfig, config_names, load_codec, load_model
from kame_jax.errors import InputError
from kame_jax.files import read_json
from kame_jax.interop import kwargs, lm_tables, mimi_kwargs, mimi_tables
from kame_jax.interop.layouts import Layout
from kame_jax.interop.locate import Located
from kame_jax.interop.safetensors_file import TensorInfo
from kame_jax.interop.table import Plan, match
from kame_jax.model import tree

Infos = Mapping[str, TensorInfo]

DECODER = r"(decoder|upsample)|quantizer\.\w+\.output_proj"
"""Names of the half of a codec that only decoding needs, in files and in our tree."""


def plan_for(config: ModelConfig | MimiConfig, infos: Infos, layout: Layout, where: str) -> Plan:
    """Ties a file's tensors to the arrays of a model.

    Raises:
        InputError: the tensors are not those of the model, all misfits in one list. A codec may be its encoder alone.
    """
    tables = mimi_tables if isinstance(config, MimiConfig) else lm_tables
    try:
        shapes = tree.shapes(tree.abstract(config))
    except (TypeError, ValueError, ArithmeticError) as error:  # a size beyond 64 bits
        raise InputError(f"{where}: no model has the sizes of its configuration: {error}") from None
    if isinstance(config, MimiConfig) and not any(re.match(DECODER, key) for key in infos):
        shapes = {path: shape for path, shape in shapes.items() if not re.match(DECODER, path)}
    return match(infos, tables.readable(config), tables.written(config, layout), shapes, where)  # type: ignore[arg-type]


def language_model(
    located: Located, given: object, infos: Infos, layout: Layout, notes: list[str]
) -> ModelConfig:
    """The configuration of the language model in a file, without adapters.

    Args:
        located: the file and what is next to it.
        given: a configuration in place of that: an object, a YAML file or ready name, the reference's JSON; or None.
        infos: the file's tensors.
        layout: theirs.
        notes: gets a line where the configuration was neither given nor next to the file.

    Raises:
        InputError: it is of another kind or cannot be built, or there is none and no ready one fits.
    """
    raw, where = kwargs.lm_kwargs(located.config or {}), f"{located.name} ({located.config_name})"
    if given is not None:
        return _as_stored(_given(given, ModelConfig), infos)
    if "dim" in raw:
        return _as_stored(kwargs.from_kwargs(raw, where), infos)
    return _ready(located, raw, infos, layout, notes)


def codecs(located: Located, given: object) -> Iterator[MimiConfig]:
    """The configurations that a codec may have, in the order to try them: given, next to it, or ready."""
    if given is not None:
        yield _given(given, MimiConfig)
    elif located.mimi_config is not None:
        yield mimi_kwargs.from_kwargs(located.mimi_config, f"{located.name}: configuration of Mimi")
    else:
        yield MimiConfig()
        for name in config_names():
            try:
                yield load_codec(name)
            except InputError:  # a run's configuration, or a language model's
                continue


def _given(config: object, kind: type) -> Any:
    """A configuration object, or the one in a YAML file, under a ready name, or in the reference's JSON."""
    if isinstance(config, ModelConfig | MimiConfig):
        if not isinstance(config, kind):
            raise InputError(f"a {type(config).__name__} was given where a {kind.__name__} is needed")
        return config
    path = Path(str(config))
    if path.suffix == ".json":
        reader: Any = kwargs if kind is ModelConfig else mimi_kwargs
        return reader.from_kwargs(read_json(path), str(path))
    return load_model(path) if kind is ModelConfig else load_codec(path)


def _ready(
    located: Located, raw: Mapping[str, Any], infos: Infos, layout: Layout, notes: list[str]
) -> ModelConfig:
    """The ready configuration that the tensors fit, with the few settings of the file's own."""
    where = f"{located.name} ({located.config_name})"
    closest: list[InputError] = []
    ready = [(name, config, _as_stored(config, infos)) for name, config in _ready_models()]
    for name, _, found in sorted(ready, key=lambda entry: entry[1].oracle != entry[2].oracle):
        if (found.text_card + 1, found.temporal.dim) != _shape(infos, r"text_emb\.weight"):
            continue
        try:
            plan_for(
                found,
                {k: v for k, v in infos.items() if ".lora_" not in k},
                layout,
                f"{located.name} as {name}",
            )
        except InputError as error:
            closest.append(error)
            continue
        notes.append(f"configuration taken from the ready one with these sizes: {name}")
        known = {key: value for key, value in raw.items() if key in kwargs.KNOWN}
        overlaid = kwargs.from_kwargs(kwargs.to_kwargs(found) | known, where) if known else found
        return _as_stored(overlaid, infos)
    problems = min(closest, key=lambda error: len(error.problems)).problems if closest else ()
    raise InputError(
        f"{located.name}: no configuration next to it ({_described(infos)}), and no ready one has these sizes. "
        "Heads, delays, context and positions leave no trace in weights: give a config (YAML or JSON)",
        problems,
    )


def _ready_models() -> Iterator[tuple[str, ModelConfig]]:
    """The ready models, by name."""
    for name in config_names():
        try:
            config = load_model(name)
        except InputError:  # the codec's
            continue
        yield name, config


def _as_stored(config: ModelConfig, infos: Infos) -> ModelConfig:
    """What the tensors determine better than any configuration: whether there is an oracle, and hidden widths.

    Formulas for the widths differ between programs; and some models without a depth transformer carry an unused
    projection.
    """
    oracle = "separate" if any(key.startswith("oracle_emb.") for key in infos) else "none"
    out = r"\.layers\.0\.(gating\.(0\.)?linear_out|linear2)(\.frozen_W)?[._]weight"
    widths = {name: _shape(infos, name + out) for name in ("transformer", "depformer")}
    temporal, depth = config.temporal, config.depth
    if (width := widths["transformer"]) and width[-1]:
        temporal = dataclasses.replace(temporal, ffn_dim=width[-1])
    if depth is not None and (width := widths["depformer"]) and width[-1]:
        depth = dataclasses.replace(depth, ffn_dim=width[-1])
    unused = None if config.dep_q else _shape(infos, r"depformer_in\.0\.weight")
    return dataclasses.replace(
        config,
        oracle=oracle,
        lora=None,
        temporal=temporal,
        depth=depth,
        unused_depth_input_dim=unused[0] or None if unused else None,
    )


def _shape(infos: Infos, pattern: str) -> tuple[int, ...] | None:
    """The shape of the first tensor with such a name."""
    return next((info.shape for key, info in infos.items() if re.fullmatch(pattern, key)), None)


def _described(infos: Infos) -> str:
    """The sizes that the tensors reveal, for a message."""

    def count(pattern: str) -> int:
        return 1 + max((int(found[1]) for key in infos if (found := re.match(pattern, key))), default=-1)

    text = _shape(infos, r"text_emb\.weight")
    if text is None or len(text) != 2:
        return "too few tensors to determine its sizes"
    layers, n_q, dep_q = (
        count(rf"{name}\.(\d{{1,9}})\.") for name in (r"transformer\.layers", "emb", "linears")
    )
    return f"dim {text[1]}, {layers} layers, n_q {n_q}, dep_q {dep_q}, text_card {text[0] - 1}"
