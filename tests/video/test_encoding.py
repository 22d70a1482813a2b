"""An mp4 shows the pictures that were given, each as long as it was told to."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.video.encoding import CODECS, encode_mp4


def grey(level: int) -> np.ndarray:
    return np.full((64, 64, 3), level, dtype=np.uint8)


def levels(path: Path) -> list[float]:
    with av.open(str(path)) as file:
        return [float(frame.to_ndarray(format="rgb24").mean()) for frame in file.decode(video=0)]


def test_pictures_last_as_long_as_they_are_told_to(tmp_path: Path) -> None:
    encode_mp4([(grey(30), 3), (grey(200), 5)], tmp_path / "a.mp4", Fraction(10), {"comment": "\u00e9"})
    assert levels(tmp_path / "a.mp4") == pytest.approx([30] * 3 + [200] * 5, abs=4)
    with av.open(str(tmp_path / "a.mp4")) as file:
        assert file.metadata["comment"] == "\u00e9"
        assert file.streams.video[0].average_rate == 10


def test_without_x264_another_encoder_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("comfyui_aot.aot.video.encoding.CODECS", CODECS[-1:])
    encode_mp4([(grey(200), 4)], tmp_path / "a.mp4", Fraction(10))
    assert levels(tmp_path / "a.mp4") == pytest.approx([200] * 4, abs=6)


def test_a_folder_that_is_not_there_is_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        encode_mp4([(grey(200), 4)], tmp_path / "none" / "a.mp4", Fraction(10))


def test_pictures_that_stop_leave_no_file(tmp_path: Path) -> None:
    def stopping():
        yield grey(30), 3
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_mp4(stopping(), tmp_path / "a.mp4", Fraction(10))
    assert list(tmp_path.iterdir()) == []
