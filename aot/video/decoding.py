"""Reading a video file: its index with PyAV, and the chosen frames with decord or PyAV.

PyAV first reads the file's index: the time of every frame, without decoding. So frames are chosen, and their memory
is checked, before anything is decoded. decord then decodes the chosen frames. PyAV does it if decord cannot, or is not
installed. Both go through the file once, from the first chosen frame to the last, and return the frames in parts. PyAV
needs the memory of one part. decord queues frames without a bound when it demuxes faster than it decodes. Four more
properties of decord 3 decide how it is called:

- On a busy machine, `get_batch` and `seek_accurate` to a frame between keyframes time out, and return a neighbouring
  frame without an error. Stepping with `next` from a keyframe is exact.
- A header with an absurd frame count aborts the whole process. So decord opens only files whose header agrees with
  their index. WebM, Matroska and MPEG-TS have no such count, and PyAV reads them.
- Rotated (phone) videos come back with a wrong shape. PyAV reads them too.
- FFmpeg pads the rows of a small picture to a multiple that depends on the processor's instructions. decord counts the
  padding as further channels. The picture is at the start of each row.
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
"""A file shorter than this share of the duration in its header is cut short; above it, the header is rounded."""

_REORDERED = 16
"""The most frames that may be decoded before an earlier one: the limit of reordering in H.264 and HEVC."""


@dataclass(frozen=True, eq=False)
class Index:
    """Every frame of a file in order of time, without its pixels.

    Args:
        path: of the file, absolute.
        height: of the upright picture, in pixels.
        width: of the upright picture, in pixels.
        quarter_turns: from the stored picture to the upright one, counter-clockwise.
        pts: time of every frame, strictly increasing, in the stream's own units.
        keyframes: indices into ``pts``.
        timestamps: (T,) float64, ``pts`` in seconds, the first at 0.
        duration: seconds from the first frame to the end of the last.
        promised: the duration in the header, in seconds; 0 if there is none.
        header_agrees: whether the header counts exactly these frames.
        fps: frames a second on average, as the header has it; of the frames' times where it has none.
    """

    path: Path
    height: int
    width: int
    quarter_turns: int
    pts: tuple[int, ...]
    keyframes: tuple[int, ...]
    timestamps: Tensor
    duration: float
    promised: float
    header_agrees: bool
    fps: float

    @property
    def name(self) -> str:
        """The file's name, without its folder."""
        return self.path.name

    @property
    def count(self) -> int:
        """T, the number of frames."""
        return len(self.pts)

    @property
    def cut_short(self) -> bool:
        """Whether the file ends well before the duration in its header."""
        return self.duration < _CUT_SHORT * self.promised


def read_index(path: str | os.PathLike[str]) -> Index:
    """Read the index of a video file.

    Args:
        path: of the file.

    Raises:
        InputError: the file is no readable video.
    """
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
    duration = (span + last_frame) * unit
    return Index(
        path=file,
        height=height,
        width=width,
        quarter_turns=quarter_turns,
        pts=tuple(pts),
        keyframes=tuple(i for i, at in enumerate(pts) if frames[at][0]),
        timestamps=(torch.tensor(pts, dtype=torch.float64) - pts[0]) * unit,
        duration=duration,
        promised=(stream.duration or 0) * unit,
        header_agrees=stream.frames == packets == len(pts),
        fps=float(stream.average_rate or 0) or len(pts) / duration,
    )


def _open_av(file: Path) -> Any:
    import av

    # A playlist can have the name of a video. It may open local files only. If streams got the option too, PyAV before
    # 17.1 would crash on a file without a header, whose streams are found later.
    return av.open(str(file), metadata_errors="replace", container_options={"protocol_whitelist": "file"})


def _kinds(container: Any) -> str:
    return " and ".join(sorted({stream.type for stream in container.streams})) or "unknown data"


def _time_of(packet_or_frame: Any) -> int | None:
    return packet_or_frame.dts if packet_or_frame.pts is None else packet_or_frame.pts


def _decode_packet(packet: Any) -> list[Any]:
    import av.error

    try:
        return packet.decode()
    except av.error.FFmpegError:
        return []  # A damaged packet loses its own frame, which matters only if it was chosen.


class DecordUnfit(Exception):
    """decord is not installed, cannot read this file, or may read it wrongly."""


def open_decord(index: Index, height: int, width: int) -> Any:
    """Open a file with decord.

    Args:
        index: of the file.
        height: to decode to, in pixels.
        width: to decode to, in pixels.

    Returns:
        A decord.VideoReader.

    Raises:
        DecordUnfit: PyAV has to read this file.
    """
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
        backend: "auto" (decord, then PyAV from the first part on that decord cannot decode), "decord" or "pyav".
        size: frames in a part.

    Yields:
        (size, height, width, 3) uint8, RGB; the last part may be shorter.

    Raises:
        InputError: frames are damaged.
    """
    done = 0
    for read in {"auto": (_read_decord, _read_pyav), "decord": (_read_decord,), "pyav": (_read_pyav,)}[backend]:
        try:
            with closing(read(index, chosen, done, height, width)) as pictures:
                while done < len(chosen):
                    # No variable: it would keep this part in memory beside the next one.
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
    """The frames `chosen[first:]`, uint8 (height, width, 3). Raises InputError if one is damaged."""
    import av.error

    row = first
    # Seeking is inexact in some containers. If it misses a frame, the rest is decoded from the file's start. Before
    # PyAV 17 a damaged last frame also loses the frames in other threads, so the last try has one thread.
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
                for frame in frames:  # to count the other damaged frames
                    missing.pop(_time_of(frame), None)
        if row == len(chosen):
            return
    lost = float(index.timestamps[chosen[min(missing.values())]])
    raise InputError(
        f"{index.name} is damaged: {len(missing)} of the {len(chosen)} frames asked for, the first "
        f"at {lost:.2f} s, do not decode; copy or download it again, or choose other frames"
    )


def _picture(frame: Any, quarter_turns: int, height: int, width: int) -> np.ndarray:
    """A PyAV frame as an upright, scaled picture, uint8 (height, width, 3)."""
    stored_width, stored_height = (width, height)[:: -1 if quarter_turns % 2 else 1]
    rgb = frame.reformat(stored_width, stored_height, "rgb24", interpolation="BICUBIC")
    return np.ascontiguousarray(np.rot90(rgb.to_ndarray(), quarter_turns))


def _frames(index: Index, chosen: list[int], seek: bool, threads: str) -> Generator[Any, None, None]:
    """PyAV's frames, with all `chosen` ones among them; `seek` skips the parts of the file that none of them needs."""
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
