"""Tensors under the names that the tables know: without wrappers' prefixes, and with tied tensors restored.

`torch.compile`, FSDP, DDP, PEFT and whole training modules add their own parts before and inside a tensor's name; and
`safetensors.torch.save_model` keeps one of several tied tensors and lists in the metadata which ones it replaces.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from kame_jax.checkpoint.weights import Box
from kame_jax.errors import InputError
from kame_jax.interop.safetensors_file import SafetensorsFile, TensorInfo

WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module", "base_layer")
"""Modules that wrap another one, anywhere in a name."""

ROOTS = frozenset((
    "emb", "text_emb", "oracle_emb", "transformer", "out_norm", "text_linear", "extra_heads", "condition_provider",
    "depformer", "depformer_in", "depformer_emb", "depformer_text_emb", "depformer_norms", "linears",
    "encoder", "decoder", "encoder_transformer", "decoder_transformer", "quantizer", "downsample", "upsample",
))  # fmt: skip
"""First words of the names in files of Moshi and Mimi; anything before one is a wrapper's."""


NOT_WEIGHTS = re.compile(r"grad|exp_avg|adam|optim|moment", re.IGNORECASE)
"""In a name: an optimizer's state of a weight, not the weight."""


def plain(key: str) -> tuple[str, str]:
    """The prefix that an enclosing model put before a tensor's name, and the name without it and without wrappers."""
    words = [word for word in key.split(".") if word not in WRAPPERS]
    start = next((i for i, word in enumerate(words) if word in ROOTS), 0)
    # PEFT names a set of adapters: lora_A.default.weight.
    if len(words) > 2 and words[-3] in ("lora_A", "lora_B"):
        del words[-2]
    return ".".join(words[:start]), ".".join(words[start:])


class NamedTensors:
    """A safetensors file under plain names, tied tensors included. `notes` says what differs from the file.

    A prefix of all names is left out.

    Raises:
        InputError: two of the file's tensors have the same plain name.
    """

    def __init__(self, file: SafetensorsFile):
        self.file = file
        names = {key: plain(key) for key in file.infos}
        before = {prefix for prefix, _ in names.values()}
        same = len(before) == 1 and not NOT_WEIGHTS.search(min(before))
        self.stored: dict[str, str] = {}
        for key, (prefix, name) in names.items():
            name = name if same or not prefix else f"{prefix}.{name}"
            if (other := self.stored.setdefault(name, key)) != key:
                raise InputError(
                    f"{file.path}: {other} and {key} are one tensor of the model twice: keep one"
                )
        changed = {name: key for name, key in self.stored.items() if name != key}
        self.notes = _notes(changed) if changed else []
        for alias, kept in file.metadata.items():
            _, name = plain(alias)
            if kept in file.infos and alias not in file.infos and name not in self.stored:
                self.stored[name] = kept
                self.notes.append(f"{alias} was tied to {kept} when it was saved, and is read as its copy")
        self.infos: dict[str, TensorInfo] = {key: file.infos[stored] for key, stored in self.stored.items()}

    def read_box(
        self, key: str, view: tuple[int, ...], box: Box, out: np.ndarray | None = None
    ) -> np.ndarray:
        """See `TensorSource`."""
        return self.file.read_box(self.stored[key], view, box, out)


def _notes(changed: Mapping[str, str]) -> list[str]:
    """What names lack, once each; `changed` has the name in the file by the plain one."""
    words = (
        (word for word in key.split(".") if word not in name.split(".")) for name, key in changed.items()
    )
    return [f"names are read without {text!r}" for text in sorted({".".join(some) for some in words})[:3]]
