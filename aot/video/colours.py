"""From a decoder's picture to RGB of 8 bits, scaled; pictures of high dynamic range are tone-mapped.

High dynamic range is PQ or HLG (ITU-R BT.2100). Its light is counted in cd/m2, taken from the primaries of BT.2020 to
those of BT.709, and its highlights are bent below the white of an ordinary screen with the curve of BT.2390. So the
pictures look as on such a screen, rather than grey and dull.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

PQ, HLG = 16, 18
"""Numbers of ITU-T H.273 for the transfer functions of high dynamic range."""

_TAKEN_FOR_601, _SMPTE_170M, _WHOLE = (2, 5, 6), 5, 2
"""Numbers of H.273 for no matrix and those of standard definition; FFmpeg's for the latter and for levels 0 to 255."""

_WHITE, _PEAK = 203.0, 1000.0
"""cd/m2 of white in text and paper (BT.2408), and the peak that films are graded for."""

_TO_709 = np.array(
    ((1.660491, -0.587641, -0.072850), (-0.124550, 1.132900, -0.008349), (-0.018151, -0.100579, 1.118730)), np.float32
)
"""BT.2087: linear light of BT.2020's primaries in those of BT.709."""

_MOST, _STEPS = 10000, 4
"""The most light that PQ has, in cd/m2, and the steps of each of them that are told apart."""

_LEVELS = 4096


class Painter:
    """Makes pictures of one size of a track's frames.

    Args:
        height: of the pictures, in pixels.
        width: of the pictures, in pixels.
        transfer: the track's transfer function, a number of ITU-T H.273; 0 if it has none.
    """

    def __init__(self, height: int, width: int, transfer: int) -> None:
        from av.video.reformatter import VideoReformatter

        self._height, self._width, self._transfer = height, width, transfer
        self._reformatter = VideoReformatter()

    def paint(self, frame: Any) -> np.ndarray:
        """A frame as RGB, (height, width, 3) uint8.

        Args:
            frame: an av.VideoFrame.
        """
        mapped = self._transfer in (PQ, HLG)
        form = "rgb48le" if mapped else "rgb24"
        # One reformatter for all frames: each new one would work out its filters again.
        picture = self._reformatter.reformat(
            frame, self._width, self._height, form, interpolation="BICUBIC", **_details(frame)
        )
        return tone_map(picture.to_ndarray(), self._transfer) if mapped else picture.to_ndarray()


def _details(frame: Any) -> dict[str, int]:
    """What PyAV before 17 passes over: a frame's matrix, if RGB is not said to have another, and its whole range."""
    if frame.colorspace in _TAKEN_FOR_601:
        return {}
    levels = {"src_color_range": _WHOLE} if frame.color_range == _WHOLE else {}
    return {"dst_colorspace": _SMPTE_170M, **levels}


def tone_map(picture: np.ndarray, transfer: int) -> np.ndarray:
    """A picture of high dynamic range for an ordinary screen, (height, width, 3) uint8.

    Args:
        picture: (height, width, 3) uint16 RGB with the primaries of BT.2020.
        transfer: PQ or HLG.
    """
    light = _to_light(transfer)[picture >> 4]
    if transfer == HLG:
        luminance = light @ np.array((0.2627, 0.6780, 0.0593), np.float32)
        light = light * (_PEAK * np.maximum(luminance, 1e-6) ** 0.2)[..., None]
    light = np.maximum(light @ _TO_709.T, 0)
    brightest = np.maximum(np.maximum(light[..., 0], light[..., 1]), light[..., 2])
    light *= _shares()[(np.minimum(brightest, _MOST) * _STEPS).astype(np.uint16)][..., None]
    np.clip(light * (_LEVELS - 1) + 0.5, 0, _LEVELS - 1, out=light)
    return _to_levels()[light.astype(np.uint16)]


@lru_cache(2)
def _to_light(transfer: int) -> np.ndarray:
    """(4096,) float32: cd/m2 of PQ's values of 12 bits; of HLG's the light of the scene, 0 to 1."""
    value = np.linspace(0, 1, _LEVELS)
    if transfer == PQ:
        return _from_pq(value).astype(np.float32)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(value <= 0.5, value**2 / 3, (np.exp((value - c) / a) + b) / 12).astype(np.float32)


@lru_cache(1)
def _to_levels() -> np.ndarray:
    """(4096,) uint8: levels of sRGB for shares of white."""
    share = np.linspace(0, 1, _LEVELS)
    levels = np.where(share <= 0.0031308, 12.92 * share, 1.055 * np.maximum(share, 1e-9) ** (1 / 2.4) - 0.055)
    return np.round(255 * levels).astype(np.uint8)


@lru_cache(1)
def _shares() -> np.ndarray:
    """(40001,) float32: what light of 0, 0.25, ... 10,000 cd/m2 is multiplied by for shares of white.

    By BT.2390: what is below a knee keeps its light, and what is above it is bent ever flatter, up to the peak.
    """
    light = np.maximum(np.arange(_MOST * _STEPS + 1) / _STEPS, 1e-3)
    peak = _to_pq(np.array(_PEAK))
    white = float(_to_pq(np.array(_WHITE)) / peak)
    knee = 1.5 * white - 0.5
    value = np.minimum(_to_pq(light) / peak, 1)
    t = np.clip((value - knee) / (1 - knee), 0, 1)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (-2 * t**3 + 3 * t**2) * white
    bent = _from_pq(np.where(value < knee, value, spline) * peak)
    return (bent / _WHITE / light).astype(np.float32)


_M1, _M2, _C1, _C2, _C3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
"""Constants of SMPTE ST 2084."""


def _from_pq(value: np.ndarray) -> np.ndarray:
    power = value ** (1 / _M2)
    return 10000 * (np.maximum(power - _C1, 0) / (_C2 - _C3 * power)) ** (1 / _M1)


def _to_pq(light: np.ndarray) -> np.ndarray:
    power = (light / 10000) ** _M1
    return ((_C1 + _C2 * power) / (1 + _C3 * power)) ** _M2
