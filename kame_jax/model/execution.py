"""How a whole-sequence forward runs: what its backward pass recomputes, which attention kernel it uses.

None of it changes a result beyond rounding; the streaming step has no such choices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax

F = TypeVar("F", bound=Callable[..., Any])

SAVED: dict[str, tuple[str, ...]] = {
    "full": (),
    "attention": ("attended",),
    "dots": ("qkv", "attended", "attention_update", "hidden", "ffn_update"),
}
"""Remat policy -> the named values of a layer that the forward pass keeps; the backward pass recomputes the rest.
A layer's input is always kept. "none", which is not a policy, keeps everything."""


class Execution(NamedTuple):
    """Choices of a forward over whole sequences."""

    remat: str = "none"
    """"none" or a policy of `SAVED`."""
    attention: str = "xla"
    """Kernel of the temporal transformer's attention; see `window_attention.attend_window`."""


def rematerialised(body: F, policy: str) -> F:
    """The body of a scan over layers, under a remat policy."""
    if policy == "none":
        return body
    keep = jax.checkpoint_policies.save_only_these_names(*SAVED[policy])
    # A scan does not share work between its iterations, which is what `prevent_cse` is about.
    return jax.checkpoint(body, policy=keep, prevent_cse=False)
