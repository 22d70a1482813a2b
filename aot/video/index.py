"""The index of a video file: its frames in the order in which they are shown, their times, and how they lie.

Most files are indexed from the times of their packets, without decoding, and a frame is known by its time. That cannot
be done where packets have no times (AVI and raw streams with reordered frames) or where the clock starts again or jumps
(recordings joined to one file). Such a file is decoded once, and a frame is known by its place in the decoder's output.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from . import webp
from .container import has_worked_out_times, open_container, open_track, require_file, video_track
from .truncation import CUT_SHORT, is_partial, promised_seconds

_LATE = 1.0
"""Seconds. Tracks of one recording seldom start at the very same instant, so a picture that starts up to this much
after the sound starts at 0. One that starts later keeps its time, as in a player."""

_JUMP = 10.0
"""Seconds. A gap beyond it in the clock of a broadcast is no pause but another recording."""

_BROADCAST = frozenset({"mpegts", "mpeg"})
"""Formats whose clock may jump from one recording to the next."""

_WIDEST = 10.0
"""The widest and, inverted, the narrowest shape of a pixel that is believed."""


@dataclass(frozen=True)
class Upright:
    """What makes the stored picture the one to show, in this order.

    Args:
        stretch: width of a pixel over its height.
        transposed: whether rows become columns.
        top_down: whether the rows are then reversed.
        mirrored: whether the columns are then reversed.
    """

    stretch: float = 1.0
    transposed: bool = False
    top_down: bool = False
    mirrored: bool = False

    @property
    def as_stored(self) -> bool:
        """Whether there is nothing to do."""
        return self == Upright()

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) to show a stored picture of that size in, in pixels.

        Args:
            height: stored, in pixels.
            width: stored, in pixels.
        """
        return self.stored(height, max(1, round(width * self.stretch)))

    def stored(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) before the turn of a picture that has this size after it, and the other way round.

        Args:
            height: in pixels.
            width: in pixels.
        """
        return (width, height) if self.transposed else (height, width)

    def turn(self, picture: np.ndarray) -> np.ndarray:
        """A stored picture, already stretched, as it is shown, contiguous.

        Args:
            picture: (height, width, 3).
        """
        picture = picture.transpose(1, 0, 2) if self.transposed else picture
        return np.ascontiguousarray(picture[:: -1 if self.top_down else 1, :: -1 if self.mirrored else 1])


@dataclass(frozen=True, eq=False)
class Index:
    """Every frame of a file in order of time, without its pixels.

    Args:
        path: of the file, absolute.
        height: of the picture that is shown, in pixels.
        width: of the picture that is shown, in pixels.
        upright: from the stored picture to the one that is shown.
        keys: what each frame is known by, strictly increasing: its time in the track's units, or its place in the
            decoder's output if ``counted``.
        counted: see ``keys``.
        keyframes: indices into ``keys``.
        timestamps: (T,) float64, in seconds, strictly increasing; the first is 0 unless the picture starts late.
        duration: seconds to the end of the last frame.
        promised: the duration in the header, in seconds; 0 if there is none.
        cut_short: whether the file ends well before that, or within a frame.
        plain: whether it is an mp4 whose header counts exactly these frames, shown as they are stored.
        fps: frames a second on average, as the header has it; of the frames' times where it has none.
        transfer: the track's transfer function, a number of ITU-T H.273; 0 if it has none.
    """

    path: Path
    height: int
    width: int
    upright: Upright
    keys: tuple[int, ...]
    counted: bool
    keyframes: tuple[int, ...]
    timestamps: Tensor
    duration: float
    promised: float
    cut_short: bool
    plain: bool
    fps: float
    transfer: int

    @property
    def name(self) -> str:
        """The file's name, without its folder."""
        return self.path.name

    @property
    def count(self) -> int:
        """T, the number of frames."""
        return len(self.keys)


@dataclass(frozen=True)
class _Packets:
    """What demuxing a track tells.

    Args:
        times: of each frame to show, in the track's units: whether it is a keyframe, and how long it lasts.
        count: packets with content.
        decoded_at: times of decoding, those that are known.
        timed: whether each has a time, and the clock only ever goes on, without a jump.
        beginning: time of the first frame that can be decoded.
        ended: end of the last packet of any track, in seconds.
        partial: whether the last packet is known to lack its end.
        first: the first frame that was decoded; None if none was.
    """

    times: dict[int, tuple[bool, int]]
    count: int
    decoded_at: tuple[int, ...]
    timed: bool
    beginning: int | None
    ended: float
    partial: bool
    first: Any


@dataclass(frozen=True)
class _Shown:
    """The frames that are shown.

    Args:
        sample: one of them; None if none can be decoded.
        keys: see :class:`Index`.
        keyframes: see :class:`Index`.
        times: (T,) float64, in the track's units, the first at 0.
        last: how long the last is shown, in the track's units.
    """

    sample: Any
    keys: tuple[int, ...]
    keyframes: tuple[int, ...]
    times: Tensor
    last: float


def read_index(path: str | os.PathLike[str]) -> Index:
    """Read the index of a video file.

    Args:
        path: of the file.

    Raises:
        InputError: the file is no readable video.
    """
    import av.error

    file = require_file(path)
    try:
        if webp.is_webp(file):
            return _index_of_webp(file)
        with open_container(file) as container:
            track = video_track(container)
            if track is None:
                raise InputError(f"{file.name} has no picture, only {_kinds(container)}: give a video file")
            return _index_of(container, track, file)
    except av.error.FFmpegError as error:
        raise InputError(
            f"{file.name} cannot be read as a video ({_reason(error)}): it may be cut short, damaged or no video at "
            "all; check that it plays, and copy or download it again, or convert it to mp4, mkv, webm, mov or avi"
        ) from None


def _reason(error: Any) -> str:
    # FFmpeg answers "Invalid argument" for a format that is not on the list.
    return "not a video format that is read here" if isinstance(error, ValueError) else str(error.strerror)


def _kinds(container: Any) -> str:
    return " and ".join(sorted({stream.type for stream in container.streams})) or "unknown data"


def _index_of_webp(file: Path) -> Index:
    height, width = webp.read_size(file)
    starts, end = webp.read_times(file)
    return Index(
        path=file,
        height=height,
        width=width,
        upright=Upright(),
        keys=tuple(range(len(starts))),
        counted=True,
        keyframes=(0,),
        timestamps=torch.tensor(starts, dtype=torch.float64),
        duration=end,
        promised=0.0,
        cut_short=False,
        plain=False,
        fps=len(starts) / end,
        transfer=0,
    )


def _index_of(container: Any, track: Any, file: Path) -> Index:
    if track.codec_context is None or not track.width or not track.height:
        raise InputError(f"{file.name} holds no picture that can be decoded: convert it to H.264 mp4")
    packets = _demux(container, track)
    partial = packets.partial or is_partial(file, container.format.name)
    promised = promised_seconds(container, track)
    if packets.timed:
        shown = _by_time(container, track, packets, partial)
    else:
        shown = _by_count(container, track, packets, partial, promised, file)
    if not shown.keys or shown.sample is None:
        raise InputError(f"{file.name} holds no frame that can be decoded: copy or download it again")
    late = _late_start(container, track, packets) if packets.timed else 0.0
    timestamps = shown.times * float(track.time_base) + late
    duration = float(timestamps[-1]) + shown.last * float(track.time_base)
    upright = _upright(track, shown.sample)
    height, width = upright.size(track.height, track.width)
    return Index(
        path=file,
        height=height,
        width=width,
        upright=upright,
        keys=shown.keys,
        counted=not packets.timed,
        keyframes=shown.keyframes,
        timestamps=timestamps,
        duration=duration,
        promised=promised,
        cut_short=partial or max(duration, packets.ended) < CUT_SHORT * promised,
        plain=_is_plain(container, track, packets, len(shown.keys)) and upright.as_stored,
        fps=float(track.average_rate or track.guessed_rate or 0) or len(shown.keys) / (duration - late),
        transfer=int(track.codec_context.color_trc or 0),
    )


def _can_seek(container: Any, track: Any) -> bool:
    # Some files have their palette at the start only.
    return not has_worked_out_times(container) and track.codec_context.pix_fmt != "pal8"


def _is_plain(container: Any, track: Any, packets: _Packets, count: int) -> bool:
    context = track.codec_context
    return (
        packets.timed
        and track.frames == packets.count == count
        and container.format.name.startswith("mov,")
        and len(container.streams.video) == 1
        and context.name in ("h264", "hevc")
        and context.pix_fmt == "yuv420p"
        and (track.height, track.width) == (context.height, context.width)
    )


def _demux(container: Any, track: Any) -> _Packets:
    """Read all packets of the track; those of the other tracks too if the header has no duration for it."""
    times: dict[int, tuple[bool, int]] = {}
    decoded_at: list[int] = []
    count, timed, first, key, before, last = 0, True, None, None, False, None
    ended = 0.0
    jump = _JUMP / float(track.time_base) if container.format.name in _BROADCAST else float("inf")
    alone, own = bool(track.duration), track.index
    for packet in container.demux(track) if alone else container.demux():
        if not packet.size:
            continue
        if not alone and packet.stream_index != own:
            ended = max(ended, _end(packet))
            continue
        last = packet
        count += 1
        at, clock = packet.pts, packet.dts
        if at is None:
            at, timed = clock, False
        if clock is not None:
            if decoded_at and not 0 <= clock - decoded_at[-1] <= jump:
                timed = False
            decoded_at.append(clock)
        if at is not None and not packet.is_discard:
            is_key = packet.is_keyframe
            times[at] = is_key, packet.duration or 0
            if key is None and is_key:
                key, before = at, count > 1
        if first is None:
            first = next(iter(decode_packet(packet)), None)
    if first is None:
        first = next(iter(_rest(track)), None)
    beginning = None if first is None else time_of(first)
    if beginning is not None and key is not None:
        beginning = max(beginning, key) if before else min(beginning, key)
    return _Packets(
        times=times,
        count=count,
        decoded_at=tuple(decoded_at),
        timed=timed,
        beginning=beginning,
        ended=max(ended, 0.0 if last is None else _end(last)),
        partial=last is not None and last.is_corrupt,
        first=first,
    )


def _end(packet: Any) -> float:
    return float(((time_of(packet) or 0) + (packet.duration or 0)) * packet.time_base)


def _rest(track: Any) -> Sequence[Any]:
    """The frames that a decoder still has at the end of a file."""
    import av.error

    try:
        return track.codec_context.decode(None)
    except av.error.FFmpegError:
        return ()


def _by_time(container: Any, track: Any, packets: _Packets, partial: bool) -> _Shown:
    incomplete = next(reversed(packets.times), None) if partial else None
    # Frames before the first that can be decoded are those of a group whose beginning is missing.
    begin = packets.beginning
    keys = tuple(at for at in sorted(packets.times) if at != incomplete and (begin is None or at >= begin))
    if not keys:
        return _Shown(packets.first, (), (), torch.empty(0), 0.0)
    keyframes = tuple(i for i, at in enumerate(keys) if packets.times[at][0]) if _can_seek(container, track) else (0,)
    last = packets.times[keys[-1]][1] or (keys[-1] - keys[0]) / max(1, len(keys) - 1)
    return _Shown(packets.first, keys, keyframes, torch.tensor(keys, dtype=torch.float64) - keys[0], float(last))


def _by_count(container: Any, track: Any, packets: _Packets, partial: bool, promised: float, file: Path) -> _Shown:
    sample, pts = packets.first, []
    with closing(output(file)) as frames:
        for frame in frames:
            sample = frame if sample is None else sample
            pts.append(frame.pts)
    known = packets.decoded_at
    if all(at is None for at in pts) and len(pts) == len(known) and list(known) == sorted(set(known)):
        pts = known  # The n-th frame is shown at the n-th time of decoding, but for the same delay of all.
    unit, rate = Fraction(track.time_base), track.average_rate or track.guessed_rate
    step = 1 / (Fraction(rate) * unit) if rate else Fraction(1)
    jump = _JUMP / float(unit) if container.format.name in _BROADCAST else float("inf")
    times = _running(pts, step, jump)
    if partial or float((len(times) and times[-1] + step) * unit) < CUT_SHORT * promised:
        # The frame that lacks its end is decoded last, and shown up to so many places before the last.
        del times[max(0, len(times) - 1 - track.codec_context.has_b_frames) :]
    places = tuple(range(len(times)))
    return _Shown(sample, places, (0,), torch.tensor([float(at) for at in times], dtype=torch.float64), float(step))


def _running(pts: Iterable[int | None], step: Fraction, jump: float) -> list[Fraction]:
    """Times that only go on: where the clock is unknown, goes back or jumps, the next frame comes a step later."""
    shown: list[Fraction] = []
    before: Fraction | None = None
    for at in pts:
        passed = None if at is None or before is None else at - before
        forward = passed if passed is not None and 0 < passed <= jump else step
        shown.append(shown[-1] + forward if shown else Fraction(0))
        before = Fraction(at) if at is not None else None if before is None else before + step
    return shown


def _late_start(container: Any, track: Any, packets: _Packets) -> float:
    """Seconds from the file's start to its first frame, if that is late; else 0."""
    import av

    if container.start_time is None or packets.beginning is None:
        return 0.0
    late = packets.beginning * float(track.time_base) - container.start_time / av.time_base
    return late if late > _LATE else 0.0


def _upright(track: Any, frame: Any) -> Upright:
    from av.sidedata.sidedata import Type

    shape = float(track.sample_aspect_ratio or 1)
    stretch = shape if 1 / _WIDEST <= shape <= _WIDEST else 1.0
    matrix = frame.side_data.get(Type.DISPLAYMATRIX)
    if matrix is None:
        return Upright(stretch)
    # x' = a x + c y and y' = b x + d y, with y down.
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Upright(stretch, False, d < 0, a < 0)
    return Upright(stretch, True, b < 0, c < 0)


def time_of(packet_or_frame: Any) -> int | None:
    """When a frame is shown, in its track's units; None if that is not known.

    Args:
        packet_or_frame: of PyAV.
    """
    return packet_or_frame.dts if packet_or_frame.pts is None else packet_or_frame.pts


def decode_packet(packet: Any) -> list[Any]:
    """A packet's frames; none if it is damaged, which loses its own frame only.

    Args:
        packet: an av.Packet.
    """
    import av.error

    try:
        return packet.decode()
    except av.error.FFmpegError:
        return []


def output(file: Path, threads: str = "AUTO") -> Generator[Any, None, None]:
    """All frames that a decoder makes of a file's track, in its order.

    Args:
        file: absolute.
        threads: PyAV's thread type.

    Yields:
        An av.VideoFrame.
    """
    with open_track(file, threads) as (container, track):
        for packet in container.demux(track):
            yield from decode_packet(packet)
