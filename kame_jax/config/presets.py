"""What `preset: reference` or `preset: kame-jax` of a run chooses: the rules of the data that training applies.

The rules that apply when data is made are `kame_jax.make.rules`', under the same two names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class TrainingRule(NamedTuple):
    """A correction of the reference, and the settings that apply it."""

    number: str
    corrected: Mapping[str, Any]
    """Dotted setting -> value; the default of a run."""
    reference: Mapping[str, Any]
    """As SakanaAI/kame_finetune trains with `--use_oracle`."""


TRAINING_RULES = {
    "clear_tail": TrainingRule("T1", {"oracle.tail": "clear"}, {"oracle.tail": "keep"}),
    "causal": TrainingRule("T2", {"oracle.causal": True}, {"oracle.causal": False}),
    # The reference's collator is right; `true` is what its model's own forward pass would add.
    "idle_first": TrainingRule("T3", {"oracle.start_first": False}, {"oracle.start_first": False}),
    "carry_oracle": TrainingRule(
        "T14",
        {"data.carry_oracle": True, "data.mask_fill": True},
        {"data.carry_oracle": False, "data.mask_fill": False},
    ),
    # `false` is the reference without `--use_oracle`, which embeds no oracle at all, not even an idle one.
    "idle_row": TrainingRule("T15", {"oracle.use": True}, {"oracle.use": True}),
}
"""By the names that docs/pages/data.md has."""

RUN_PRESETS: dict[str, dict[str, Any]] = {
    name: {"data.rules": name}
    | {key: value for rule in TRAINING_RULES.values() for key, value in getattr(rule, which).items()}
    for name, which in (("kame-jax", "corrected"), ("reference", "reference"))
}
"""Preset -> dotted setting -> value. `data.rules` are `kame_jax.make.rules`' for a folder of dialogues."""
