"""Tokenising a folder of dialogues at once, in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from sentencepiece import SentencePieceProcessor

from kame_jax.codec import mimi as codec
from kame_jax.data.dialogue import Dialogue, read_stereo
from kame_jax.data.records import Record
from kame_jax.data.words import CHANNELS
from kame_jax.errors import InputError
from kame_jax.make.align import text_rows
from kame_jax.make.tokens import CHUNK_SECONDS, about, make_record

ENCODE_BATCH = 16
"""Channels that the codec takes at once."""

Encoder = Callable[[Sequence[np.ndarray]], Iterator[np.ndarray]]
"""Recordings float32 `[samples]` to their codes int32 `[codebooks, frames]`, in order."""


def mimi_encoder(mimi: codec.Mimi, codebooks: int) -> Encoder:
    """Encodes many short recordings with one compilation: padded to the longest, a batch at a time.

    Padding on the right does not reach earlier frames, so the codes are those of each recording alone.
    """
    ready = codec.prepare(mimi, codebooks)
    run = jax.jit(lambda m, audio: codec.encode(m, audio, codebooks))
    size = mimi.config.frame_size

    def encode(recordings: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        if not recordings:
            return
        longest = -(-max(len(r) for r in recordings) // size) * size
        for at in range(0, len(recordings), ENCODE_BATCH):
            part = recordings[at : at + ENCODE_BATCH]
            batch = np.zeros((min(ENCODE_BATCH, len(recordings)), longest), np.float32)
            for row, recording in zip(batch, part):
                row[: len(recording)] = recording
            codes = np.asarray(run(ready, jnp.asarray(batch)))
            for row, recording in zip(codes, part):
                yield row[:, : -(-len(recording) // size)].astype(np.int32)

    return encode


def build_records(
    dialogues: Sequence[Dialogue],
    tokenizer: SentencePieceProcessor,
    encode: Encoder,
    *,
    pad_id: int = 3,
    end_pad_id: int = 0,
    sample_rate: int = 24_000,
    frame_rate: float = 12.5,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Record]:
    """Tokenises dialogues: audio, text and oracle of both speakers.

    Text that runs past the audio is cut, as in the reference. A dialogue without oracle records has no events.

    Args:
        dialogues: as `read_dialogues` gives them.
        tokenizer: of the inner monologue.
        encode: the codec, as `mimi_encoder` makes it; runs at `sample_rate` and `frame_rate`.
        pad_id, end_pad_id: the text ids without a word.
        progress: called with the recordings encoded and their total.

    Raises:
        InputError: everything that is wrong with the dialogues, in one list; nothing is encoded then.
    """
    parts: list[tuple[Dialogue, list[np.ndarray], dict[str, list[int]]]] = []
    problems = []
    step = CHUNK_SECONDS * sample_rate
    for dialogue in dialogues:
        try:
            audio = read_stereo(dialogue, sample_rate)
            text = text_rows(dialogue.words, tokenizer, pad_id, end_pad_id, frame_rate)
        except InputError as e:
            problems.append(about(dialogue.id, e))
            continue
        parts.append(
            (dialogue, [side[i : i + step] for side in audio for i in range(0, len(side), step)], text)
        )
    if problems:
        raise InputError(f"{len(problems)} dialogues cannot be tokenised", problems)

    total = sum(len(chunks) for _, chunks, _ in parts)
    codes = _count(encode([chunk for _, chunks, _ in parts for chunk in chunks]), total, progress)
    records = []
    for dialogue, chunks, text in parts:
        half = len(chunks) // 2
        sides = {s: np.concatenate([next(codes) for _ in range(half)], axis=1) for s in CHANNELS}
        try:
            records.append(
                make_record(dialogue.id, text, sides, dialogue.oracle, tokenizer, pad_id, frame_rate)
            )
        except InputError as e:
            raise InputError(about(dialogue.id, e)) from e
    return records


def _count(
    codes: Iterable[np.ndarray], total: int, progress: Callable[[int, int], None]
) -> Iterator[np.ndarray]:
    for i, item in enumerate(codes):
        progress(i + 1, total)
        yield item
