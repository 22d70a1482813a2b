"""The chosen frames of a video file, decoded with PyAV, or with decord where that is chosen.

The file is gone through once, from the first chosen frame to the last, and the frames are returned in parts. PyAV needs
the memory of one part. It is the default because its pictures are the same whether all frames are loaded at once or a
stream takes them part by part, and because it reads every file.

decord is for plain mp4 files at their filmed size: H.264 or HEVC of 8 bits whose header agrees with the index. Its
pictures are PyAV's there, bit for bit. It scales otherwise than PyAV, by up to 39 levels, and is not used for that. It
queues frames without a bound when it demuxes faster than it decodes. Three more properties of decord 3 decide how it
is called:

- On a busy machine, `get_batch` and `seek_accurate` to a frame between keyframes time out, and return a neighbouring
  frame without an error. Stepping with `next` from a keyframe is exact.
- A header with an absurd frame count aborts the whole process. So decord opens only files whose header agrees with
  their index.
- FFmpeg pads the rows of a small picture to a multiple that depends on the processor's instructions. decord counts the
  padding as further channels. The picture is at the start of each row.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from itertools import dropwhile, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, UnreadableVideo
from . import webp
from .colours import Painter
from .container import open_track
from .index import Index, decode_packet, output, time_of

_REORDERED = 16
"""The most frames that may be decoded before an earlier one: the limit of reordering in H.264 and HEVC."""


class DecordUnfit(Exception):
    """decord is not installed, cannot read this file, or may read it wrongly."""


def open_decord(index: Index, height: int, width: int) -> Any:
    """Open a file with decord.

    Args:
        index: of the file.
        height: of the pictures asked for, in pixels.
        width: of the pictures asked for, in pixels.

    Returns:
        A decord.VideoReader.

    Raises:
        DecordUnfit: PyAV has to read this file.
    """
    if not index.plain:
        raise DecordUnfit("it is no plain mp4 of 8 bits")
    if (height, width) != (index.height, index.width):
        raise DecordUnfit("it scales otherwise; leave out the size")
    try:
        import decord
    except (ImportError, OSError) as error:
        raise DecordUnfit("decord is not installed") from error
    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(
            str(index.path),
            num_threads=min(4, os.cpu_count() or 1),
            fault_tol=0,  # A damaged frame is an error, and is not replaced by its neighbour.
        )
        keyframes = tuple(reader.get_key_indices())
    except (decord.DECORDError, RuntimeError, AssertionError) as error:
        raise DecordUnfit("it does not open") from error
    if len(reader) != index.count or keyframes != index.keyframes:
        raise DecordUnfit("its frames are counted differently")
    return reader


def decode(
    index: Index, chosen: list[int], height: int, width: int, backend: str, size: int
) -> Generator[Tensor, None, None]:
    """Decode frames in parts. The file is opened at the first part, and closed with the generator.

    Args:
        index: of the file.
        chosen: indices of the frames, increasing.
        height: to decode to, in pixels.
        width: to decode to, in pixels.
        backend: "auto" or "pyav", which are the same, or "decord".
        size: frames in a part.

    Yields:
        (size, height, width, 3) uint8, RGB; the last part may be shorter.

    Raises:
        UnreadableVideo: frames are damaged.
        InputError: decord cannot read the file.
    """
    read = _read_decord if backend == "decord" else _read_pyav
    try:
        with closing(read(index, chosen, height, width)) as pictures:
            for done in range(0, len(chosen), size):
                # No variable: it would keep this part in memory beside the next one.
                yield _stack(pictures, min(size, len(chosen) - done), height, width)
    except DecordUnfit as reason:
        raise InputError(f"decord cannot read {index.name} ({reason}): use backend auto or pyav") from None


def _stack(pictures: Iterator[np.ndarray], count: int, height: int, width: int) -> Tensor:
    """The next `count` pictures, uint8 (count, height, width, 3)."""
    pixels = torch.empty((count, height, width, 3), dtype=torch.uint8)
    for target in pixels:
        target.copy_(torch.from_numpy(next(pictures)))
    return pixels


def _read_decord(index: Index, chosen: list[int], height: int, width: int) -> Generator[np.ndarray, None, None]:
    """The frames `chosen`, uint8 (height, width, 3). Raises DecordUnfit."""
    reader = open_decord(index, height, width)
    import decord

    position = 0
    try:
        for frame in chosen:
            keyframe = _keyframe_before(index, frame)
            if keyframe > position:
                reader.seek_accurate(keyframe)
                position = keyframe
            while position <= frame:
                image = reader.next()
                position += 1
            if tuple(image.shape[:2]) != (height, width) or image.shape[2] < 3:
                raise DecordUnfit("its frames change size")
            yield _unpadded(image.asnumpy())
    except (decord.DECORDError, RuntimeError, StopIteration) as error:
        raise DecordUnfit("a frame does not decode") from error


def _unpadded(picture: np.ndarray) -> np.ndarray:
    """A decord picture (height, width, 3 or more), without the padding of its rows: (height, width, 3)."""
    height, width = picture.shape[:2]
    return np.ascontiguousarray(picture.reshape(height, -1)[:, : 3 * width]).reshape(height, width, 3)


def _read_pyav(index: Index, chosen: list[int], height: int, width: int) -> Generator[np.ndarray, None, None]:
    """The frames `chosen`, uint8 (height, width, 3). Raises UnreadableVideo if one is damaged."""
    import av.error

    row = 0
    # Seeking is inexact in some containers. If it misses a frame, the rest is decoded from the file's start. Before
    # PyAV 17 a damaged last frame also loses the frames in other threads, so the last try has one thread.
    for seek, threads in ((True, "AUTO"), (False, "AUTO"), (False, "NONE")):
        missing: dict[int | None, int] = {index.keys[frame]: at for at, frame in enumerate(chosen[row:], row)}
        early: dict[int, Any] = {}
        painter = Painter(*index.upright.stored(height, width), index.transfer)
        with suppress(av.error.FFmpegError), closing(_frames(index, chosen[row:], seek, threads)) as frames:
            for key, frame in frames:
                at = missing.pop(key, None)
                if at is not None:
                    early[at] = frame
                while row in early:
                    yield index.upright.turn(painter.paint(early.pop(row)))
                    row += 1
                if len(early) > _REORDERED:
                    break
            if threads == "NONE":
                for key, _ in frames:  # to count the other damaged frames
                    missing.pop(key, None)
        if row == len(chosen):
            return
    lost = float(index.timestamps[chosen[min(missing.values())]])
    raise UnreadableVideo(
        f"{index.name} is damaged: {len(missing)} of the {len(chosen)} frames asked for, the first "
        f"at {lost:.2f} s, do not decode; copy or download it again, or choose other frames"
    )


def _frames(index: Index, chosen: list[int], seek: bool, threads: str) -> Generator[tuple[int | None, Any], None, None]:
    """PyAV's frames with their keys, and with all `chosen` ones among them.

    `seek` skips the parts of the file that none of them needs.
    """
    if index.counted:
        frames = webp.decode(index.path) if webp.is_webp(index.path) else output(index.path)
        with closing(frames):
            yield from islice(enumerate(frames), chosen[-1] + 1)
        return
    with open_track(index.path, threads) as (container, track):
        for keyframe, last in _stretches(index, chosen) if seek else [(0, chosen[-1])]:
            if keyframe:
                container.seek(index.keys[keyframe], stream=track)
            for packet in _from_keyframe(container.demux(track)) if keyframe else container.demux(track):
                frames = decode_packet(packet)
                yield from ((time_of(frame), frame) for frame in frames)
                at = time_of(frames[-1]) if frames else None
                if at is not None and at >= index.keys[last]:
                    break


def _from_keyframe(packets: Iterator[Any]) -> Iterator[Any]:
    """Packets after a seek, which may lead into a group: its frames would be decoded without what they build on."""
    return dropwhile(lambda packet: packet.size and not packet.is_keyframe, packets)


def _stretches(index: Index, chosen: list[int]) -> Iterator[tuple[int, int]]:
    """The stretches to decode for `chosen`, each as its keyframe and its last frame."""
    start, last = 0, -1
    for frame in chosen:
        keyframe = _keyframe_before(index, frame)
        if keyframe > last + 1:
            if last >= 0:
                yield start, last
            start = keyframe
        last = frame
    yield start, last


def _keyframe_before(index: Index, frame: int) -> int:
    at = bisect_right(index.keyframes, frame)
    return index.keyframes[at - 1] if at else 0
