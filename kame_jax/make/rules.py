"""Which of the reference's data defects are kept when data is made: a named switch each, and two presets for all.

A switch that is on is the corrected behaviour; with all of them off, data is made as SakanaAI/kame_finetune makes it.
The rules that training applies are settings of a run, under the same presets: `kame_jax.config.presets`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from kame_jax.config.presets import TRAINING_RULES
from kame_jax.errors import InputError


@dataclass(frozen=True)
class Rules:
    """Corrections, all on by default (preset `kame-jax`)."""

    whole_turn: bool = True
    """T4: a pause does not end a turn, so that the answer does not come before the question is over."""
    bridge_backchannels: bool = True
    """T5: a turn and a hint continue across a short back-channel of the other speaker."""
    while_speaking: bool = True
    """T6: events continue for the speaker who has begun to answer, instead of turning to the other side at once."""
    skip_ticks: bool = True
    """T7: a moment without a next utterance is skipped; off: it ends the dialogue."""
    sort_words: bool = True
    """T8: words are taken by the time they end, without overlaps; off: as the file has them."""
    protect_kept: bool = True
    """T9: the event of a turn that is never skipped is chosen among those that stay."""
    exact_frames: bool = True
    """T10: text lands on frames by exact arithmetic, marks stand before words only, unknown characters are spelled."""
    paper_bounds: bool = True
    """T11: hint levels have the paper's bounds, and level 5 is the true answer itself."""


PRESETS = {"kame-jax": Rules(), "reference": Rules(**{f.name: False for f in dataclasses.fields(Rules)})}
"""All corrections, or none of them."""


def read_rules(preset: str, changes: Sequence[str] = ()) -> Rules:
    """A preset with single switches changed.

    Args:
        preset: a name in `PRESETS`.
        changes: `name=on` or `name=off`.

    Raises:
        InputError: an unknown preset or switch, one that training applies, or a value other than on and off.
    """
    if preset not in PRESETS:
        raise InputError(f"preset {preset!r}: expected one of {', '.join(PRESETS)}")
    known = [field.name for field in dataclasses.fields(Rules)]
    values, problems = {}, []
    for change in changes:
        name, _, value = change.partition("=")
        if name in TRAINING_RULES:
            settings = " and ".join(TRAINING_RULES[name].corrected)
            problems.append(f"{name!r} is applied by training: there the setting is {settings}")
        elif name not in known:
            problems.append(f"{name!r} is not a rule, expected one of {', '.join(known)}")
        elif value not in ("on", "off"):
            problems.append(f"{change!r}: expected {name}=on or {name}=off")
        else:
            values[name] = value == "on"
    if problems:
        raise InputError("rules", problems)
    return dataclasses.replace(PRESETS[preset], **values)
