"""What a language model is told when it stands in for the back end of a recorded dialogue, hint level by level."""

from __future__ import annotations

from kame_jax.make.simulate import Request

VERSION = 1
"""Increases when a prompt changes: cached answers to older ones are not used in any case, since their texts differ."""

SYSTEM = (
    "You listen in on a conversation between two people and foresee what will be said next. You answer with the next "
    "reply only, as it would be spoken."
)

LEVELS = (
    "Little of this turn has been heard. Go by the conversation so far.",
    "About half of this turn has been heard. Go mainly by the conversation so far; a key word of the hint may slip in.",
    "Most of this turn has been heard. Let the hint guide you, but say something else as well.",
    "The turn is nearly over. Take the hint as a strong clue, in words of your own.",
    "Only a word or two are missing. You may say much the same as the hint.",
    "The turn is over. You may say the same as the hint.",
)
"""Guidance at levels 0 to 5; at level 0 no hint is shown."""


def messages(request: Request, context_chars: int = 6000) -> list[dict[str, str]]:
    """The chat that asks for one prediction.

    Args:
        request: the moment.
        context_chars: of the conversation so far, its end, that are shown.
    """
    context = request.context
    if len(context) > context_chars:
        context = "..." + context[-context_chars:]
    parts = [
        f"The conversation so far:\n{context}",
        f"{request.speaker} is speaking; {request.ratio:.0%} of the turn has been heard. "
        f"What will {request.next_speaker} say when the turn is over?",
    ]
    if request.level > 0:
        parts.append(
            f'A secret hint, never to be mentioned or quoted: {request.next_speaker} will say "{request.hint}"'
        )
    parts.append(LEVELS[request.level])
    parts.append(
        "Be confident, ask nothing back. Between 10 and 30 words of everyday spoken language, no quotation marks, no "
        "lists, no explanations, no punctuation but periods and commas. "
        f"Write only what {request.next_speaker} says."
    )
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "\n\n".join(parts)}]
