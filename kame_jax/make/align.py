"""Words with times to one text token per frame: the inner monologue of one speaker.

Semantics: SakanaAI/kame_finetune `tools/tokenize_text.py`, its float arithmetic included.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

from sentencepiece import SentencePieceProcessor

from kame_jax.data.words import CHANNELS, Word
from kame_jax.errors import InputError
from kame_jax.streams import FRAME_RATE

TAIL_SECONDS = 1.0
"""Seconds of frames after the last word."""


def align_text(
    words: Sequence[Word],
    tokenizer: SentencePieceProcessor,
    *,
    pad_id: int = 3,
    end_pad_id: int = 0,
    frame_rate: float = FRAME_RATE,
    spaces: bool = True,
    spell_bytes: bool = False,
    exact: bool = False,
) -> list[int]:
    """One speaker's text as frames: each piece at the frame its first character begins in, or the next free one.

    A word's characters share its duration equally. The frame before a piece that follows padding gets `end_pad_id`.
    Unless `exact`, an exact multiple of the frame length is one frame early, as in the reference (float floor
    division).

    Args:
        words: of one speaker, in any order.
        tokenizer: writes the pieces.
        pad_id: frames without text.
        end_pad_id: the mark before a piece that follows padding.
        frame_rate: frames a second.
        spaces: words are separated by spaces (not so in Japanese or Chinese).
        spell_bytes: a character outside the vocabulary is written as its byte pieces, at its time. False does what
            the reference does: its bytes are looked up as one piece, found unknown and written as id 0, and when the
            tokenizer puts a space in front of a text they come last, after all other pieces.
        exact: times are taken to the microsecond and frames from whole numbers; `end_pad_id` stands before words only,
            not inside one (without `spaces`, before each piece that follows padding).

    Returns:
        Token ids, one per frame, up to a second after the last word; empty without words.

    Raises:
        InputError: several speakers, a time that is negative or goes backwards, pieces that do not fit the
            characters, or more pieces than frames.
    """
    words = sorted(words, key=lambda w: w.start)
    if len({w.speaker for w in words}) > 1:
        raise InputError(f"text of speakers {sorted({w.speaker for w in words})} together, expected one")
    for w in words:
        if not 0 <= w.start <= w.end:
            raise InputError(f"word {w.word!r} from {w.start} s to {w.end} s, expected 0 <= start <= end")
    texts = [w.word for w in words]
    if spaces:
        texts = [(" " if i else "") + text.strip() for i, text in enumerate(texts)]
    text = "".join(texts)
    units = list(spelled_units(tokenizer, text) if spell_bytes else reference_units(tokenizer, text))
    placed = _place(units, _characters(words, texts))
    opens = [text.startswith("▁") for text, _ in units][len(units) - len(placed) :]

    end = placed[-1][2] + TAIL_SECONDS if placed else 0.0
    frames = exact_frame(end, frame_rate) if exact else int(end * frame_rate)
    row = [pad_id] * frames
    seconds = 1 / frame_rate
    for i, (ids, start, _) in enumerate(placed):
        at = exact_frame(start, frame_rate) if exact else int(start // seconds)
        marked = not exact or not spaces or i == 0 or opens[i]
        for token in ids:
            while at < frames and row[at] != pad_id:
                at += 1
            if at >= frames:
                raise InputError(f"{len(placed) - i} of {len(placed)} text pieces do not fit {frames} frames")
            row[at] = token
            if marked and at > 0 and row[at - 1] == pad_id:
                row[at - 1] = end_pad_id
    return row


def exact_frame(seconds: float, frame_rate: float) -> int:
    """The frame of a moment, from whole microseconds."""
    rate = Fraction(frame_rate).limit_denominator(1000)
    return round(seconds * 1_000_000) * rate.numerator // (rate.denominator * 1_000_000)


Unit = tuple[str, list[int]]
"""A stretch of text (its characters are counted, not compared) and the tokens that write it."""


def reference_units(tokenizer: SentencePieceProcessor, text: str) -> Iterator[Unit]:
    """Pieces as the reference walks them: byte pieces held back until they spell the text that comes next."""
    rest = text
    held: list[str] = []
    for piece in tokenizer.encode(text, out_type=str):
        if not piece.startswith("<0x"):
            rest = rest[len(piece) :]
            yield piece, [tokenizer.piece_to_id(piece)]
            continue
        held.append(piece)
        spelled = tokenizer.decode_pieces(held)
        if rest.startswith(spelled):
            rest = rest[len(spelled) :]
            held = []
            yield spelled, [tokenizer.piece_to_id(spelled)]
    if held:
        yield "".join(held), [tokenizer.piece_to_id("".join(held))]


def spelled_units(tokenizer: SentencePieceProcessor, text: str) -> Iterator[Unit]:
    """Pieces with each run of bytes cut at the characters it spells, whose bytes stay separate tokens."""
    held: list[str] = []
    for piece in tokenizer.encode(text, out_type=str):
        if not piece.startswith("<0x"):
            yield piece, [tokenizer.piece_to_id(piece)]
            continue
        held.append(piece)
        try:
            character = bytes(int(p[3:5], 16) for p in held).decode()
        except UnicodeDecodeError:
            continue
        yield character, [tokenizer.piece_to_id(p) for p in held]
        held = []


def _characters(words: Sequence[Word], texts: Sequence[str]) -> list[tuple[float, float]]:
    times = []
    for word, text in zip(words, texts, strict=True):
        if text:
            each = (word.end - word.start) / len(text)
            times += [(word.start + i * each, word.start + (i + 1) * each) for i in range(len(text))]
    return times


def _place(units: list[Unit], characters: list[tuple[float, float]]) -> list[tuple[list[int], float, float]]:
    """The tokens, start and end in seconds of each unit."""
    placed = []
    at = 0
    for i, (text, ids) in enumerate(units):
        if i == 0 and text == "▁":
            continue
        count = len(text) - (i == 0 and text.startswith("▁"))
        taken = characters[at : at + count]
        if not taken:
            raise InputError(f"text piece {text!r} has no character left to stand for")
        at += len(taken)
        placed.append((ids, taken[0][0], taken[-1][1]))
    if at < len(characters):
        raise InputError(f"{len(characters) - at} of {len(characters)} characters have no text piece")
    return placed


def text_rows(
    words: Sequence[Word],
    tokenizer: SentencePieceProcessor,
    pad_id: int = 3,
    end_pad_id: int = 0,
    frame_rate: float = FRAME_RATE,
    *,
    exact: bool = False,
    spaces: bool = True,
) -> dict[str, list[int]]:
    """Both speakers' text over frames; arguments as in `align_text`, `exact` also spelling unknown characters.

    Raises:
        InputError: names the speaker.
    """
    rows = {}
    for speaker in CHANNELS:
        try:
            rows[speaker] = align_text(
                [w for w in words if w.speaker == speaker],
                tokenizer,
                pad_id=pad_id,
                end_pad_id=end_pad_id,
                frame_rate=frame_rate,
                spaces=spaces,
                spell_bytes=exact,
                exact=exact,
            )
        except InputError as e:
            raise InputError(f"speaker {speaker}: {e}") from e
    return rows
