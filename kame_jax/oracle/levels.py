"""Hint levels: how much of the true reply a simulated oracle knows, by the share of the turn heard.

Semantics: arXiv 2510.02327, and SakanaAI/kame_finetune `tools/generate_oracle_from_text.py`.
"""

from __future__ import annotations

from kame_jax.errors import InputError

LEVEL_BOUNDS = {
    "released": ((0.5, 0.65, 0.8, 0.95, 0.99), True),
    "paper": ((0.5, 0.65, 0.8, 0.95, 1.0), False),
}
"""Upper bounds of hint levels 0 to 4 on the share of the turn heard, and whether a bound belongs to the level below it.

"released" is kame_finetune's `tools/generate_oracle_from_text.py`; "paper" is arXiv 2510.02327's table.
"""


def hint_level(ratio: float, bounds: str = "released") -> int:
    """Hint level 0 to 5 of a share of the turn heard.

    Raises:
      InputError: unknown `bounds`.
    """
    if bounds not in LEVEL_BOUNDS:
        raise InputError(f"hint bounds {bounds!r}: expected one of {sorted(LEVEL_BOUNDS)}")
    limits, inclusive = LEVEL_BOUNDS[bounds]
    for level, limit in enumerate(limits):
        if ratio < limit or (inclusive and ratio == limit):
            return level
    return 5
