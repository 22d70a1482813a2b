"""The frame that is shown is the frame that was meant, in every kind of file: each shows its number as a barcode."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

from comfyui_aot.aot.video.index import read_index
from comfyui_aot.aot.video.sampling import Sampling
from comfyui_aot.aot.video.video_source import load_video, open_video
from comfyui_aot.tests.support.numbered import (
    HEIGHT,
    RATE,
    WIDTH,
    barcode,
    numbers_of,
    set_matrix,
    write_numbered,
)

SAMPLINGS = (
    Sampling("every"),
    Sampling("every", every=7, start=0.3),
    Sampling(frames=9),
    Sampling(frames=5, start=0.5, end=1.7),
    Sampling("fps", fps=6),
    Sampling("fps", fps=4, start=1.0, end=2.0),
    Sampling("every", cap=5),
)
"""Each way to choose, in the whole and in a window."""


def require_codec(codec):
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV cannot write {codec}")


def assert_shows(path, numbers, times=None, size=None):
    """Every sampling gets the frames of those numbers at those times, at once and in parts, bit for bit the same."""
    times = np.arange(len(numbers)) / RATE if times is None else np.asarray(times)
    for sampling in SAMPLINGS:
        chosen = sampling.indices(torch.tensor(times, dtype=torch.float64)).tolist()
        frames = load_video(path, sampling, size)
        assert numbers_of(frames.pixels) == [numbers[i] for i in chosen], sampling
        assert np.allclose(frames.timestamps, times[chosen], atol=2e-3), sampling
        parts = list(open_video(path, sampling, size).parts(4))
        assert torch.equal(torch.cat([part.pixels for part in parts]), frames.pixels)
        assert torch.equal(torch.cat([part.timestamps for part in parts]), frames.timestamps)


# Containers


@pytest.mark.parametrize(
    ("name", "codec", "settings"),
    [
        ("a.avi", "libx264", {}),
        ("a.avi", "mpeg4", {}),
        ("a.avi", "libx264", {"reordered": 0}),
        ("a.avi", "mpeg4", {"reordered": 0}),
        ("a.h264", "libx264", {"container": "h264"}),
        ("a.hevc", "libx265", {"container": "hevc"}),
        ("a.m2v", "mpeg2video", {}),
        ("a.m4v", "mpeg4", {"container": "m4v"}),
        ("a.vob", "mpeg2video", {}),
        ("a.mpg", "mpeg1video", {}),
        ("a.mp4", "libx264", {}),
        ("a.mp4", "libx265", {}),
        ("a.mov", "prores_ks", {"pixels": "yuv422p10le", "reordered": 0}),
        ("a.mkv", "libx264", {}),
        ("a.webm", "libvpx-vp9", {"reordered": 0}),
        ("a.webm", "libvpx", {"options": {"auto-alt-ref": "1", "lag-in-frames": "10"}, "reordered": 0}),
        ("a.ts", "libx264", {}),
        ("a.ts", "mpeg2video", {}),
        ("a.flv", "libx264", {}),
        ("a.wmv", "wmv2", {"reordered": 0}),
        ("a.mxf", "mpeg2video", {}),
        ("a.nut", "libx264", {}),
        ("a.ivf", "libvpx-vp9", {"reordered": 0}),
        ("a.obu", "libsvtav1", {"container": "obu", "reordered": 0}),
        ("a.mjpeg", "mjpeg", {"container": "mjpeg", "pixels": "yuvj420p", "reordered": 0}),
        ("a.gif", "gif", {"pixels": "rgb8", "reordered": 0}),
        ("a.apng", "apng", {"pixels": "rgb24", "reordered": 0}),
        ("a.avif", "libsvtav1", {"container": "avif", "reordered": 0}),
    ],
)
def test_every_sampling_of_every_container(tmp_path, name, codec, settings):
    require_codec(codec)
    assert_shows(write_numbered(tmp_path / name, codec, **settings), range(60))


def test_an_avi_that_skips_frames_keeps_its_times(tmp_path):
    """A skipped frame takes no bytes: the one before is shown on."""
    path = tmp_path / "skips.avi"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=RATE)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.codec_context.max_b_frames = 0
        for at in [*range(10), *range(20, 40)]:
            frame = av.VideoFrame.from_ndarray(barcode(at), "rgb24")
            frame.pts, frame.time_base = at, Fraction(1, RATE)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    numbers = [*range(10), *range(20, 40)]
    assert_shows(path, numbers, np.array(numbers) / RATE)


def test_an_animated_webp_is_read_with_its_own_times(tmp_path):
    path, lasts = tmp_path / "a.webp", [40, 80, 120] * 20
    first, *rest = (Image.fromarray(barcode(number)) for number in range(60))
    first.save(path, save_all=True, append_images=rest, duration=lasts, lossless=True)
    assert_shows(path, range(60), np.cumsum([0, *lasts[:-1]]) / 1000)
    assert read_index(path).duration == pytest.approx(sum(lasts) / 1000)


# Clocks


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video", "libx265"])
@pytest.mark.parametrize("second", [0, 40, 25 * 3600])
def test_two_recordings_joined_are_shown_one_after_the_other(tmp_path, codec, second):
    """The second's clock starts again, overlaps the first's, or is an hour later."""
    require_codec(codec)
    parts = (
        write_numbered(tmp_path / "1.ts", codec),
        write_numbered(tmp_path / "2.ts", codec, numbers=range(100, 140), start=second),
    )
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert_shows(joined, [*range(60), *range(100, 140)])


def test_a_pause_in_a_recording_stays_one(tmp_path):
    path = tmp_path / "pause.mkv"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=RATE)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for at, number in zip([*range(30), *range(1030, 1060)], range(60), strict=True):
            frame = av.VideoFrame.from_ndarray(barcode(number), "rgb24")
            frame.pts, frame.time_base = at, Fraction(1, RATE)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    assert_shows(path, range(60), np.array([*range(30), *range(1030, 1060)]) / RATE)


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video", "libx265"])
def test_a_recording_that_begins_inside_a_group_starts_where_it_can_be_decoded(tmp_path, codec):
    require_codec(codec)
    full = write_numbered(tmp_path / "full.ts", codec, options={"sc_threshold": "0"} if codec == "libx264" else {})
    content = full.read_bytes()
    with av.open(str(full)) as file:
        places = [packet.pos for packet in file.demux(video=0) if packet.size]
    late = tmp_path / "late.ts"
    late.write_bytes(content[: 188 * 3] + content[places[5] :])
    frames = load_video(late, Sampling("every"))
    first = numbers_of(frames.pixels)[0]
    assert 5 < first <= 13
    assert_shows(late, range(first, 60))


def test_a_picture_that_starts_late_keeps_its_time(tmp_path):
    path = tmp_path / "late.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=RATE)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        sound = file.add_stream("aac", rate=16000)
        for i in range(70):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            silence.sample_rate, silence.pts = 16000, 1024 * i
            file.mux(sound.encode(silence))
        file.mux(sound.encode())
        for number in range(60):
            frame = av.VideoFrame.from_ndarray(barcode(number), "rgb24")
            frame.pts, frame.time_base = 50 + number, Fraction(1, RATE)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    times = 2 + np.arange(60) / RATE
    frames = load_video(path, Sampling("every"))
    assert np.allclose(frames.timestamps, times, atol=2e-3)
    assert numbers_of(load_video(path, Sampling("every", start=3.0, end=3.2)).pixels) == [25, 26, 27, 28, 29, 30]


# Tracks


def mark(stream, disposition):
    """Give a track its disposition, which PyAV 15 cannot."""
    try:
        stream.disposition = disposition
    except TypeError:
        pytest.skip("this PyAV cannot write dispositions")


def write_tracks(path, tracks, **options):
    """A file of several video tracks, each (height, width, numbers, disposition)."""
    with av.open(str(path), "w", **options) as file:
        streams = []
        for height, width, _, disposition in tracks:
            stream = file.add_stream("libx264", rate=RATE)
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            mark(stream, disposition)
            streams.append(stream)
        for stream, (height, width, numbers, _) in zip(streams, tracks, strict=True):
            for at, number in enumerate(numbers):
                frame = av.VideoFrame.from_ndarray(barcode(number), "rgb24").reformat(width, height, "yuv420p")
                frame.pts, frame.time_base = at, Fraction(1, RATE)
                file.mux(stream.encode(frame))
            file.mux(stream.encode())
    return path


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_the_track_that_a_player_shows_is_read(tmp_path, name):
    from av.stream import Disposition

    none, default = Disposition(0), Disposition.default
    small, large = (32, 80, range(500, 560)), (HEIGHT, WIDTH, range(60))
    assert_shows(write_tracks(tmp_path / f"1{name}", [(*small, default), (*large, default)]), range(60))
    assert_shows(write_tracks(tmp_path / f"2{name}", [(*small, none), (*large, default)]), range(60))
    assert_shows(write_tracks(tmp_path / f"3{name}", [(*large, none), (*small, default)]), range(500, 560))


def test_a_cover_is_no_video(tmp_path):
    path, cover = write_numbered(tmp_path / "a.mp4"), tmp_path / "cover.mp4"
    with av.open(str(path)) as source, av.open(str(cover), "w") as target:
        from av.stream import Disposition

        picture = target.add_stream("mjpeg", rate=RATE)
        picture.height, picture.width, picture.pix_fmt = 400, 400, "yuvj420p"
        mark(picture, Disposition.attached_pic)
        video = target.add_stream_from_template(source.streams.video[0])
        frame = av.VideoFrame.from_ndarray(np.full((400, 400, 3), 200, np.uint8), "rgb24").reformat(format="yuvj420p")
        frame.pts = 0
        target.mux(picture.encode(frame))
        target.mux(picture.encode())
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = video
                target.mux(packet)
    assert_shows(cover, range(60))


# Pictures


MATRICES = {
    (1, 0, 0, 1): lambda picture: picture,
    (-1, 0, 0, 1): lambda picture: picture[:, ::-1],
    (1, 0, 0, -1): lambda picture: picture[::-1],
    (-1, 0, 0, -1): lambda picture: picture[::-1, ::-1],
    (0, 1, -1, 0): lambda picture: np.rot90(picture, -1),
    (0, -1, 1, 0): lambda picture: np.rot90(picture),
    (0, 1, 1, 0): lambda picture: picture.transpose(1, 0, 2),
    (0, -1, -1, 0): lambda picture: picture[::-1, ::-1].transpose(1, 0, 2),
}


@pytest.mark.parametrize("matrix", MATRICES)
def test_a_display_matrix_turns_and_mirrors(tmp_path, matrix):
    stored = write_numbered(tmp_path / "stored.mp4", numbers=range(12), draw=corner)
    sampling = Sampling("every", every=3)
    plain = load_video(stored, sampling).pixels.numpy()
    frames = load_video(set_matrix(stored, matrix), sampling)
    assert np.array_equal(frames.pixels.numpy(), np.stack([MATRICES[matrix](picture) for picture in plain]))
    index = read_index(stored)
    assert (index.height, index.width) == (frames.height, frames.width)


def corner(number):
    """A barcode with a bright top left and a grey bottom right corner, which no turn leaves as it is."""
    picture = barcode(number)
    picture[:16, :40], picture[48:, 120:] = 255, 128
    return picture


@pytest.mark.parametrize(("shape", "width"), [(Fraction(2), 320), (Fraction(1, 2), 80), (Fraction(128, 117), 175)])
def test_pixels_that_are_not_square_are_stretched(tmp_path, shape, width):
    def prepare(stream):
        stream.codec_context.sample_aspect_ratio = shape

    path = write_numbered(tmp_path / "wide.mkv", prepare=prepare)
    assert load_video(path, Sampling(frames=2)).pixels.shape == (2, HEIGHT, width, 3)
    assert_shows(path, range(60))
    assert load_video(path, Sampling(frames=1), size=32).pixels.shape == (1, 32, round(width / 2), 3)


def test_a_pixel_too_odd_to_be_true_is_taken_for_square(tmp_path):
    def prepare(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(1, 200)

    path = write_numbered(tmp_path / "odd.mkv", prepare=prepare)
    assert load_video(path, Sampling(frames=1)).pixels.shape == (1, HEIGHT, WIDTH, 3)


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("a.mp4", "libx264", "gray"),
        ("a.mkv", "ffv1", "gray"),
        ("a.mkv", "ffv1", "gray16le"),
        ("a.mov", "qtrle", "gray"),
        ("a.mov", "qtrle", "rgb24"),
        ("a.mkv", "libx264", "yuv444p"),
        ("a.mkv", "ffv1", "yuva420p"),
        ("a.mkv", "libx264rgb", "rgb24"),
    ],
)
def test_grey_paletted_and_other_pictures_have_their_colours(tmp_path, name, codec, pixels):
    require_codec(codec)
    path = write_numbered(tmp_path / name, codec, pixels=pixels, reordered=0)
    assert_shows(path, range(60))
    assert_colours(path)


def assert_colours(path):
    """The colours are those that PyAV alone gives the same frames, but for how chroma is enlarged."""
    with av.open(str(path)) as container:
        plain = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    frames = load_video(path, Sampling("every"))
    assert np.abs(frames.pixels.numpy().astype(int) - plain).mean() < 0.5


def test_a_palette_at_the_start_only_serves_every_frame(tmp_path):
    """The palette of an AVI has black and white the other way round, and a red that only one bar has."""
    path, palette = tmp_path / "a.avi", np.zeros((256, 4), np.uint8)
    palette[0], palette[1], palette[2] = (255, 255, 255, 255), (255, 0, 0, 0), (255, 200, 20, 10)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("rawvideo", rate=RATE)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "pal8"
        for number in range(60):
            levels = 1 - (barcode(number)[..., 0] > 0).astype(np.uint8)
            levels[:8] = 2
            frame = av.VideoFrame.from_ndarray((levels, palette), "pal8")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    assert_shows(path, range(60))
    late = load_video(path, Sampling("every", start=1.0)).pixels
    assert (late[:, 2, 5].int() - torch.tensor([200, 20, 10])).abs().max() <= 2


@pytest.mark.parametrize("matrix", ["ITU709", "ITU601"])
@pytest.mark.parametrize("whole_range", [False, True])
def test_the_colours_a_file_names_are_used(tmp_path, matrix, whole_range):
    from av.video.reformatter import ColorRange, Colorspace

    path, colour = tmp_path / "a.mp4", (40, 190, 90)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=RATE, options={"crf": "1"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        context = stream.codec_context
        context.colorspace, context.color_range = (1 if matrix == "ITU709" else 5), (2 if whole_range else 1)
        levels = ColorRange.JPEG if whole_range else ColorRange.MPEG
        for number in range(10):
            picture = np.broadcast_to(np.array(colour, np.uint8), (HEIGHT, WIDTH, 3)).copy()
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame = frame.reformat(
                format="yuv420p",
                dst_colorspace=Colorspace[matrix],
                src_color_range=ColorRange.JPEG,
                dst_color_range=levels,
            )
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    for size in (None, 48):
        pixels = load_video(path, Sampling(frames=3), size).pixels
        assert (pixels.int() - torch.tensor(colour)).abs().max() <= 4


# High dynamic range


def write_hdr(path, transfer, level):
    """Ten frames of grey of that share of the code values, 10 bits, limited range."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx265", rate=RATE, options={"x265-params": "log-level=none:lossless=1"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p10le"
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace, context.color_range = 9, transfer, 9, 1
        luma = np.full((HEIGHT, WIDTH), round(64 + 876 * level), np.uint16)
        grey = np.full((HEIGHT // 2, WIDTH), 512, np.uint16)
        for number in range(10):
            frame = av.VideoFrame(WIDTH, HEIGHT, "yuv420p10le")
            for plane, values in zip(frame.planes, (luma, grey[:, : WIDTH // 2], grey[:, : WIDTH // 2]), strict=True):
                rows = np.zeros((plane.height, plane.line_size // 2), np.uint16)
                rows[:, : values.shape[1]] = values
                plane.update(rows.tobytes())
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("transfer", "level", "shown"),
    [
        (16, 0.0, 0),
        (16, 0.2996, 63),  # 10 cd/m2, a twentieth of white: below the knee, so sRGB of 10 / 203
        (16, 0.7518, 255),  # the peak of 1000 cd/m2
        (16, 1.0, 255),  # 10,000 cd/m2, cut at the peak
        (18, 0.0, 0),
        (18, 1.0, 255),
    ],
)
def test_high_dynamic_range_is_tone_mapped(tmp_path, transfer, level, shown):
    require_codec("libx265")
    path = write_hdr(tmp_path / "hdr.mp4", transfer, level)
    pixels = load_video(path, Sampling(frames=3)).pixels
    assert (pixels.int() - shown).abs().max() <= 3
    assert torch.equal(torch.cat([part.pixels for part in open_video(path, Sampling(frames=3)).parts(2)]), pixels)


@pytest.mark.parametrize("transfer", [16, 18])
def test_a_brighter_scene_stays_brighter(tmp_path, transfer):
    require_codec("libx265")
    levels = [
        float(load_video(write_hdr(tmp_path / f"{i}.mp4", transfer, i / 8), Sampling(frames=1)).pixels.float().mean())
        for i in range(9)
    ]
    assert levels == sorted(levels)
    assert len({round(level) for level in levels[:7]}) == 7
