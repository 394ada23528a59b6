"""A sound file through libsndfile, from its first sample to its last, where its header cannot be trusted.

Lengths in headers are often wrong: streamed wav files have none, an MP3 without a Xing frame has an estimate, and a
recording that was cut claims more than it has. What can be decoded is returned; a warning says what is missing.
"""

from __future__ import annotations

import io
import logging
import os
import re
import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import soundfile

from kame_jax.errors import InputError
from kame_jax.files import open_pipe, read_bytes, regular_file

log = logging.getLogger(__name__)

BLOCK = 1 << 12
"""Samples of each channel read at once."""
PIPE_LIMIT = 1 << 30
"""Bytes of sound that are read from a pipe."""
RATES = (1_000, 1_000_000)
"""Samples a second that a recording of speech may have; a header with others is wrong."""
LENGTH_LEFT_OPEN = 0x7FFF_F000
"""Sizes from here on are written by programs that stream a wav file."""
MP3_ENDS = 2 * 1152
"""Samples by which the length of a whole MP3 may differ from its header's: an encoder's first and last frame."""
MP3_FRAME = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb]")
"""How a frame of an MP3 begins: MPEG 2.5, 2 or 1, layer 3, with a checksum or without."""
OGG_BEGINS = re.compile(rb"OggS\0[\x02\x03]")
"""A page of an Ogg file that begins a stream."""
MOST_CHUNKS = 10_000
"""Chunks of a wav file that are looked at."""
EXPECTED = "a sound file"


class SoundFile(soundfile.SoundFile):
    """An open sound file.

    Args:
        path: a regular file, or a pipe that this process was started with (`files.read_bytes`).

    Raises:
        InputError: it is missing, is not a regular file, or libsndfile does not know its format.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        source = _source(path)
        self.path, self._estimated = path, isinstance(source, _EstimatedLong)
        try:
            super().__init__(source)
        except soundfile.LibsndfileError as error:
            reason = error.error_string.strip()
            raise InputError(
                f"{path}: cannot be read as a sound file: {reason} If a player knows it, convert it first: "
                "ffmpeg -i IN OUT.wav"
            ) from None
        except TypeError:  # soundfile's error for a name that ends in .raw
            raise InputError(f"{path}: has no header; convert it to wav first") from None
        if not RATES[0] <= self.samplerate <= RATES[1]:
            raise InputError(
                f"{path}: says {self.samplerate} samples a second, expected {RATES[0]} to {RATES[1]}"
            )

    def seekable(self) -> bool:
        """Never: soundfile seeks after each block, and a seek in an MP3 changes the samples after it."""
        return False

    def blocks_to_end(self) -> Iterator[np.ndarray]:
        """All samples: float32 `[samples, channels]`, at most `BLOCK` at once, valid until the next.

        Raises:
            InputError: nothing can be decoded.
        """
        block, count, trouble = np.empty((BLOCK, self.channels), np.float32), 0, ""
        while True:
            block.fill(np.nan)
            try:
                part = self.read(out=block)
            except soundfile.LibsndfileError as error:
                trouble = error.error_string.strip()
                # What the decoder returned before it failed; it does not say how much.
                part = block[: int(np.argmax(np.isnan(block[:, 0])))]
            count += len(part)
            if len(part):
                yield part
            if trouble or not len(part):
                break
        promised = self._promised(count)
        if not count:
            raise InputError(f"{self.path}: holds no samples{': ' if trouble else ''}{trouble}")
        seconds = f"{count / self.samplerate:.2f} s"
        if promised > count + (MP3_ENDS if self.format == "MP3" else 0):
            missing = (promised - count) / self.samplerate
            log.warning(
                "%s: ends after %s, %.2f s of what its header promises are missing",
                self.path,
                seconds,
                missing,
            )
        elif trouble:
            log.warning("%s: cannot be decoded after %s: %s", self.path, seconds, trouble)
        elif "lacks an end-of-stream bit" in self.extra_info:
            log.warning(
                "%s: ends after %s without the mark of an end; its rest may be missing", self.path, seconds
            )

    def _promised(self, count: int) -> int:
        """The length in samples that the header gives; 0 where it gives none."""
        # libsndfile corrects the length of a cut file and keeps the header's only in its log.
        sizes = re.search(
            r"^ *(?:data|SSND|Data Size|riff|Riff size) *: (\d+) \(should be (\d+)\)",
            self.extra_info,
            re.MULTILINE,
        )
        if sizes:
            declared, there = int(sizes[1]), int(sizes[2])
            return round(count * declared / max(there, 1)) if there < declared < LENGTH_LEFT_OPEN else 0
        return 0 if self._estimated or self.frames > 1 << 62 else self.frames


def _source(path: str | os.PathLike[str]) -> str | BinaryIO:
    """What libsndfile should open: the file itself, or its bytes where they come from a pipe or must be corrected."""
    if open_pipe(path) is not None:
        piped = io.BytesIO(read_bytes(path, EXPECTED, PIPE_LIMIT))
        return _amended(piped, path) or piped
    try:
        with open(regular_file(path, EXPECTED), "rb") as file:
            return _amended(file, path) or os.fspath(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


def _amended(file: BinaryIO, path: str | os.PathLike[str]) -> BinaryIO | None:
    """The file with a length that libsndfile understands; None, at its start, where it needs none."""
    head = file.read(10)
    if not head:
        raise InputError(f"{path}: is empty, expected {EXPECTED}")
    if head[:4] in (b"RIFF", b"RIFX") and (place := _empty_size(file, ">" if head[3:4] == b"X" else "<")):
        file.seek(0)
        content = bytearray(file.read())
        content[place : place + 4] = b"\xff" * 4  # to the end of the file
        return io.BytesIO(content)
    if head[:4] == b"OggS" and OGG_BEGINS.search(file.read()):
        log.warning("%s: holds several recordings in a row, of which the first is used", path)
    if head[:3] == b"ID3" or MP3_FRAME.match(head):
        start = _unknown_length(file, head)
        if start is not None:
            file.seek(start)
            return _EstimatedLong(file.read())
    file.seek(0)
    return None


def _empty_size(file: BinaryIO, order: str) -> int | None:
    """Where a wav file says that its data chunk is empty, though more than other chunks follows it."""
    for name, place, size in _chunks(file, order, 12):
        if name == b"data":
            behind = [at + 8 + length + length % 2 for _, at, length in _chunks(file, order, place + 8)]
            end = file.seek(0, os.SEEK_END)
            return place + 4 if size == 0 and max([place + 8, *behind]) < end else None
    return None


def _chunks(file: BinaryIO, order: str, place: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, place and size of the chunks of a RIFF file from `place` on, as far as there are any."""
    for _ in range(MOST_CHUNKS):
        file.seek(place)
        head = file.read(8)
        if len(head) < 8 or not all(0x20 <= letter < 0x7F for letter in head[:4]):
            return
        name, size = struct.unpack(f"{order}4sI", head)
        yield name, place, size
        place += 8 + size + size % 2


def _unknown_length(file: BinaryIO, head: bytes) -> int | None:
    """Where the frames of an MP3 of unknown length begin; None where a Xing frame states the length.

    In a file of concatenated MP3s, the first one's Xing frame covers only the first.
    """
    size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9] if head[:3] == b"ID3" else -10
    file.seek(10 + size)
    start = file.read(1 << 16)
    first = MP3_FRAME.search(start)
    if first is None:
        return None
    xing = re.search(rb"(?:Xing|Info)(.{4})(.{4})(.{4})", start[first.start() :][:80], re.DOTALL)
    if xing is None:
        return 0
    flags, _, told = (int.from_bytes(field) for field in xing.groups())
    there = file.seek(0, os.SEEK_END) - 10 - size - first.start()
    second = MP3_FRAME.search(start, first.start() + xing.end())
    # Three: it says how many frames and how many bytes there are.
    return 10 + size + second.start() if second and flags & 3 == 3 and told < 0.9 * there else None


class _EstimatedLong(io.BytesIO):
    """An MP3 that claims to be 64 times as long as it is, more than a frame's bit rate can vary (8 to 320 kbit/s).

    libsndfile gives no samples beyond the length that it estimates from the first frame and the size of the file; this
    way it reads on to the end.
    """

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As a file does, except for its end."""
        if (offset, whence) == (0, os.SEEK_END):
            return super().seek(64 * len(self.getbuffer()))
        return super().seek(offset, whence)
