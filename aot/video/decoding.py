"""Reading a video file: its index with PyAV, and the chosen frames with decord or PyAV.

PyAV reads the file's index first (every frame's time, without decoding), so that a sampling is settled and
its memory checked before anything is decoded. decord then decodes the chosen frames, or PyAV where decord
cannot, or is not installed. Both go through the file once, from its first chosen frame to its last, and hand
the frames out a part at a time. With PyAV memory is bounded by a part; decord queues ahead without a bound, as
far as its demuxing outruns its decoding. Four more habits of decord 3 shape how it is called:

- `get_batch` and `seek_accurate` to a frame between keyframes give up waiting when the machine is busy, and
  then a neighbouring frame comes back without an error. Stepping with `next` from a keyframe is exact.
- A header with an absurd frame count aborts the whole process, so decord opens only files whose header
  agrees with their index. This leaves WebM, Matroska and MPEG-TS, which have no such count, to PyAV.
- Rotated (phone) videos come back with a wrong shape, so those are PyAV's too.
- Where FFmpeg pads the rows of a small picture, to a multiple that the processor's instructions choose, decord counts
  the padding as further channels. The picture is at the start of each row.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError

_CUT_SHORT = 0.95
"""Below this part of the length its header promises, a file counts as cut short rather than as rounded."""

_REORDERED = 16
"""Frames by which the order of times may differ from the order shown: the most that H.264 and HEVC reorder."""


@dataclass(frozen=True, eq=False)
class Index:
    """Every frame of a file, in the order shown, without its pixels; height and width are as shown, upright."""

    path: Path
    height: int
    width: int
    quarter_turns: int  # counter-clockwise, from stored to upright
    pts: tuple[int, ...]  # of every frame, strictly increasing, in the stream's own time units
    keyframes: tuple[int, ...]  # indices into pts
    timestamps: Tensor  # pts as float64 seconds, the first at 0
    duration: float  # seconds from the first frame to the end of the last
    promised: float  # the duration by the header, 0 if it does not say
    header_agrees: bool  # the header counts exactly these frames

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def count(self) -> int:
        return len(self.pts)

    @property
    def cut_short(self) -> bool:
        return self.duration < _CUT_SHORT * self.promised


def read_index(path: str | os.PathLike[str]) -> Index:
    """The index of the file at `path`. Raises InputError where it is no readable video."""
    import av.error

    file = Path(path).absolute()
    if not file.exists():
        raise InputError(f"there is no file {file.name}: check its name and folder")
    if not file.is_file():
        raise InputError(f"{file.name} is a folder: name a video file in it")
    if file.stat().st_size == 0:
        raise InputError(f"{file.name} is empty (0 bytes): copy or download it again")
    try:
        with _open_av(file) as container:
            if not container.streams.video:
                raise InputError(f"{file.name} has no picture, only {_kinds(container)}: give a video file")
            return _index_of(container, file)
    except av.error.FFmpegError as error:
        raise InputError(
            f"{file.name} cannot be read as a video ({error.strerror}): it may be cut short, damaged "
            "or no video at all; check that it plays, and copy or download it again"
        ) from None


def _index_of(container: Any, file: Path) -> Index:
    stream = container.streams.video[0]
    if stream.codec_context is None or not stream.width or not stream.height:
        raise InputError(f"{file.name} holds no picture that can be decoded: convert it to H.264 mp4")
    frames: dict[int, tuple[bool, int]] = {}
    packets, rotation = 0, None
    for packet in container.demux(stream):
        if not packet.size:
            continue
        packets += 1
        at = _time_of(packet)
        if at is not None and not getattr(packet, "is_discard", False):
            frames[at] = packet.is_keyframe, packet.duration or 0
        if rotation is None:
            rotation = next((getattr(frame, "rotation", 0) for frame in _decode_packet(packet)), None)
    if not frames:
        raise InputError(f"{file.name} holds no frame: copy or download it again")
    pts = sorted(frames)
    span, unit = pts[-1] - pts[0], float(stream.time_base)
    last_frame = frames[pts[-1]][1] or span / max(1, len(pts) - 1)
    quarter_turns = round((rotation or 0) / 90) % 4
    width, height = (stream.width, stream.height)[:: -1 if quarter_turns % 2 else 1]
    return Index(
        path=file,
        height=height,
        width=width,
        quarter_turns=quarter_turns,
        pts=tuple(pts),
        keyframes=tuple(i for i, at in enumerate(pts) if frames[at][0]),
        timestamps=(torch.tensor(pts, dtype=torch.float64) - pts[0]) * unit,
        duration=(span + last_frame) * unit,
        promised=(stream.duration or 0) * unit,
        header_agrees=stream.frames == packets == len(pts),
    )


def _open_av(file: Path) -> Any:
    import av

    # A playlist can pose as a video: nothing but local files may be opened on its behalf.
    return av.open(str(file), metadata_errors="replace", options={"protocol_whitelist": "file"})


def _kinds(container: Any) -> str:
    return " and ".join(sorted({stream.type for stream in container.streams})) or "unknown data"


def _time_of(packet_or_frame: Any) -> int | None:
    return packet_or_frame.dts if packet_or_frame.pts is None else packet_or_frame.pts


def _decode_packet(packet: Any) -> list[Any]:
    import av.error

    try:
        return packet.decode()
    except av.error.FFmpegError:
        return []  # a damaged packet costs its own frame, which is missed only if it was asked for


class DecordUnfit(Exception):
    """decord is missing, cannot read this file, or is not to be trusted with it."""


def open_decord(index: Index, height: int, width: int) -> Any:
    """A decord reader that decodes at this size. Raises DecordUnfit where PyAV has to do it."""
    if not index.header_agrees or index.quarter_turns:
        raise DecordUnfit("its header does not count its frames" if not index.quarter_turns else "it is rotated")
    try:
        import decord
    except (ImportError, OSError) as error:
        raise DecordUnfit("decord is not installed") from error
    decord.logging.set_level(decord.logging.QUIET)
    scaled = (height, width) != (index.height, index.width)
    try:
        reader = decord.VideoReader(
            str(index.path),
            width=width if scaled else -1,
            height=height if scaled else -1,
            num_threads=min(4, os.cpu_count() or 1),
            fault_tol=0,  # 0: no neighbour in place of a damaged frame
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
    """The frames `chosen` (indices, increasing), `size` at a time: uint8 (size, height, width, 3), the last shorter.

    backend: "auto" (decord, and from the first part it fails in PyAV), "decord" or "pyav". Nothing is opened before
    the first part is asked for, and all is closed with the generator. Raises InputError where frames are lost.
    """
    done = 0
    for read in {"auto": (_read_decord, _read_pyav), "decord": (_read_decord,), "pyav": (_read_pyav,)}[backend]:
        try:
            with closing(read(index, chosen, done, height, width)) as pictures:
                while done < len(chosen):
                    # Not by way of a variable, which would keep this part in memory beside the next one.
                    yield _stack(pictures, min(size, len(chosen) - done), height, width)
                    done += size
        except DecordUnfit as reason:
            if backend == "decord":
                raise InputError(f"decord cannot read {index.name} ({reason}): use backend auto or pyav") from None


def _stack(pictures: Iterator[np.ndarray], count: int, height: int, width: int) -> Tensor:
    """The next `count` pictures, uint8 (count, height, width, 3)."""
    pixels = torch.empty((count, height, width, 3), dtype=torch.uint8)
    for target in pixels:
        target.copy_(torch.from_numpy(next(pictures)))
    return pixels


def _read_decord(
    index: Index, chosen: list[int], first: int, height: int, width: int
) -> Generator[np.ndarray, None, None]:
    """The frames `chosen[first:]`, uint8 (height, width, 3). Raises DecordUnfit."""
    reader = open_decord(index, height, width)
    import decord

    position = 0
    try:
        for frame in chosen[first:]:
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


def _read_pyav(
    index: Index, chosen: list[int], first: int, height: int, width: int
) -> Generator[np.ndarray, None, None]:
    """The frames `chosen[first:]`, uint8 (height, width, 3). Raises InputError where one is lost."""
    import av.error

    row = first
    # Seeking is inexact in some containers: once it misses a frame, all from there on is decoded from the start. Before
    # PyAV 17 a damaged last frame takes those with it that other threads have decoded: then once more with one thread.
    for seek, threads in ((True, "AUTO"), (False, "AUTO"), (False, "NONE")):
        missing: dict[int | None, int] = {index.pts[frame]: at for at, frame in enumerate(chosen[row:], row)}
        early: dict[int, Any] = {}
        with suppress(av.error.FFmpegError), closing(_frames(index, chosen[row:], seek, threads)) as frames:
            for frame in frames:
                at = missing.pop(_time_of(frame), None)
                if at is not None:
                    early[at] = frame
                while row in early:
                    yield _picture(early.pop(row), index.quarter_turns, height, width)
                    row += 1
                if len(early) > _REORDERED:
                    break
            if threads == "NONE":
                for frame in frames:  # only to say how many more are lost
                    missing.pop(_time_of(frame), None)
        if row == len(chosen):
            return
    lost = float(index.timestamps[chosen[min(missing.values())]])
    raise InputError(
        f"{index.name} is damaged: {len(missing)} of the {len(chosen)} frames asked for, the first "
        f"at {lost:.2f} s, do not decode; copy or download it again, or choose other frames"
    )


def _picture(frame: Any, quarter_turns: int, height: int, width: int) -> np.ndarray:
    """A PyAV frame upright and scaled, uint8 (height, width, 3)."""
    stored_width, stored_height = (width, height)[:: -1 if quarter_turns % 2 else 1]
    rgb = frame.reformat(stored_width, stored_height, "rgb24", interpolation="BICUBIC")
    return np.ascontiguousarray(np.rot90(rgb.to_ndarray(), quarter_turns))


def _frames(index: Index, chosen: list[int], seek: bool, threads: str) -> Generator[Any, None, None]:
    """Frames as PyAV decodes them, all those `chosen` among them; with `seek`, skipping what none of them needs."""
    with _open_av(index.path) as container:
        stream = container.streams.video[0]
        stream.thread_type = threads
        for keyframe, last in _stretches(index, chosen) if seek else [(0, chosen[-1])]:
            if keyframe:
                container.seek(index.pts[keyframe], stream=stream)
            for packet in container.demux(stream):
                frames = _decode_packet(packet)
                yield from frames
                at = _time_of(frames[-1]) if frames else None
                if at is not None and at >= index.pts[last]:
                    break


def _stretches(index: Index, chosen: list[int]) -> Iterator[tuple[int, int]]:
    """What to decode for `chosen`: from a keyframe to a last frame, with keyframes to skip to between stretches."""
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
