"""Reading videos: which frames, at what times and sizes, and what is said when it cannot be done."""

import struct
import subprocess
import sys

import av
import numpy as np
import pytest
import torch

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.video.decoding import DecordUnfit, open_decord
from comfyui_aot.aot.video.frames import Frames, resample
from comfyui_aot.aot.video.index import read_index
from comfyui_aot.aot.video.sampling import Sampling
from comfyui_aot.aot.video.sizes import estimate_bytes, require_components_fit
from comfyui_aot.aot.video.video_source import load_video
from comfyui_aot.tests.support.numbered import write_numbered
from comfyui_aot.tests.support.videos import write_at_25, write_video

TENTHS = torch.arange(100, dtype=torch.float64) / 10


def every_frame(path):
    """All frames and times of a file, decoded in order with PyAV alone."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        shown = [(float(f.pts * stream.time_base), f.to_ndarray(format="rgb24")) for f in container.decode(stream)]
    return torch.tensor([time for time, _ in shown], dtype=torch.float64), [pixels for _, pixels in shown]


def refused(call, *words):
    """The one line that `call` is refused with; it names each of `words`."""
    with pytest.raises(InputError) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line
    for word in words:
        assert word in line
    return line


# What a file holds


def test_the_index_describes_a_real_clip(bunny):
    index = read_index(bunny)
    assert (index.name, index.count, index.width, index.height) == ("bigbuckbunny.mp4", 132, 1280, 720)
    assert index.duration == pytest.approx(5.28)
    assert len(open_decord(index, index.height, index.width)) == index.count


def test_the_index_takes_duration_from_the_frames_where_the_rate_varies(make_clip):
    index = read_index(make_clip("vfr.mp4", milliseconds=[0, 100, 150, 400, 1000, 1040, 2000, 2500]))
    assert index.count == 8
    assert 2.5 < index.duration < 3.2


# Decoding


@pytest.mark.parametrize("backend", ["decord", "pyav"])
@pytest.mark.parametrize("clip", ["bunny", "bikes"])
def test_both_decoders_return_exactly_the_frames_and_times_asked_for(clip, backend, request):
    path = request.getfixturevalue(clip)
    times, pixels = every_frame(path)
    sampling = Sampling(frames=16, start=0.5)
    chosen = sampling.indices(times)
    frames = load_video(path, sampling, backend=backend)
    assert torch.allclose(frames.timestamps, times[chosen], atol=1e-9)
    for row, index in enumerate(chosen.tolist()):
        assert np.abs(frames.pixels[row].numpy().astype(int) - pixels[index]).mean() < 0.5


@pytest.mark.parametrize("clip", ["bunny", "bikes", "carphone"])
def test_timestamps_are_those_decord_itself_reports(clip, request):
    decord = pytest.importorskip("decord")
    path = request.getfixturevalue(clip)
    reader = decord.VideoReader(str(path))
    frames = load_video(path, Sampling("every", every=10), size=32)
    theirs = reader.get_frame_timestamp(list(range(0, len(reader), 10)))[:, 0]
    assert np.allclose(frames.timestamps, theirs, atol=1e-5)


@pytest.mark.parametrize("clip", ["bunny", "bikes"])
def test_decord_gives_the_pictures_of_pyav_bit_for_bit(clip, request):
    path = request.getfixturevalue(clip)
    by_decord, by_pyav = (load_video(path, Sampling("every", every=3), backend=each) for each in ("decord", "pyav"))
    assert torch.equal(by_decord.pixels, by_pyav.pixels)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize("matrix", [1, 5])
def test_decord_gives_the_colours_of_pyav_whatever_the_file_says_of_them(tmp_path, codec, matrix):
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV cannot write {codec}")

    def prepare(stream):
        stream.codec_context.colorspace = matrix

    path = write_numbered(tmp_path / "a.mp4", codec, numbers=range(20), prepare=prepare, draw=rainbow)
    by_decord, by_pyav = (load_video(path, Sampling("every"), backend=each) for each in ("decord", "pyav"))
    assert torch.equal(by_decord.pixels, by_pyav.pixels)


def rainbow(number):
    """A picture of all hues that moves with the number, (64, 160, 3) uint8."""
    turn = 2 * np.pi * (np.arange(160)[None, :, None] + 5 * number) / 160 + np.array([0, 2.1, 4.2])
    return (127.5 + 127.5 * np.cos(turn + np.arange(64)[:, None, None] / 40)).astype(np.uint8)


def test_decord_refuses_to_scale_and_what_it_may_read_wrongly(bikes, carphone, make_clip):
    refused(lambda: load_video(bikes, size=96, backend="decord"), "scales otherwise", "leave out the size", "pyav")
    for path in (carphone, make_clip("a.mkv"), make_clip("a.avi", codec="mpeg4")):
        refused(lambda path=path: load_video(path, Sampling(frames=1), backend="decord"), "no plain mp4", "pyav")


@pytest.mark.parametrize("width", [16, 22, 24, 32, 48, 64, 80, 96, 100, 144, 160, 176])
def test_rows_that_ffmpeg_pads_are_read_by_decord_too(width, tmp_path, bunny):
    """How far they are padded follows from the processor: with AVX-512, 96 wide, by a fourth channel's worth."""
    pixels = load_video(bunny, Sampling(frames=3), (64, width), "pyav").pixels
    path = write_video(tmp_path / "small.mp4", pixels.numpy())
    by_decord, by_pyav = (load_video(path, Sampling(frames=3), backend=backend) for backend in ("decord", "pyav"))
    assert by_decord.pixels.shape == by_pyav.pixels.shape == (3, 64, width, 3)
    assert torch.equal(by_decord.pixels, by_pyav.pixels)


@pytest.mark.parametrize("backend", ["decord", "pyav"])
def test_neighbouring_and_distant_frames_are_right_in_one_request(bikes, backend):
    times, pixels = every_frame(bikes)
    frames = load_video(bikes, Sampling("fps", fps=25, start=3.0, end=4.0), backend=backend)
    assert torch.allclose(frames.timestamps, times[75:101], atol=1e-9)
    assert all(np.abs(frames.pixels[i].numpy().astype(int) - pixels[75 + i]).mean() < 0.5 for i in range(26))


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "libsvtav1"), ("a.webm", "libvpx-vp9"), ("a.mkv", "libx264"), ("a.avi", "mpeg4"), ("a.ts", "libx264")],
)
def test_other_codecs_and_containers_are_read(make_clip, name, codec):
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV cannot write {codec}")
    frames = load_video(make_clip(name, frames=20, codec=codec), Sampling(frames=5))
    assert torch.allclose(frames.timestamps, torch.tensor([0, 0.4, 0.9, 1.4, 1.9], dtype=torch.float64), atol=2e-3)
    brightness = frames.pixels[:, 8:56, 60:90].float().mean(dim=(1, 2, 3))
    assert torch.allclose(brightness, 20 + 8 * torch.tensor([0.0, 4, 9, 14, 19]), atol=4)


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.3gp", "mpeg4"),
        ("a.m2ts", "libx264"),
        ("a.m2v", "mpeg2video"),
        ("a.mts", "mpeg2video"),
        ("a.mxf", "mpeg2video"),
        ("a.ts", "mpeg2video"),
        ("a.vob", "mpeg2video"),
        ("a.wmv", "wmv2"),
    ],
)
def test_containers_of_cameras_and_discs_are_read(tmp_path, name, codec):
    frames = load_video(write_at_25(tmp_path / name, codec), Sampling(frames=5))
    assert torch.allclose(frames.timestamps, torch.tensor([0, 0.16, 0.36, 0.56, 0.76], dtype=torch.float64), atol=2e-3)
    brightness = frames.pixels.float().mean(dim=(1, 2, 3))
    assert torch.allclose(brightness, 20 + 8 * torch.tensor([0.0, 4, 9, 14, 19]), atol=4)


def test_a_gif_is_read(tmp_path):
    frames = load_video(write_at_25(tmp_path / "a.gif", "gif", "gray"), Sampling(frames=5))
    assert torch.allclose(frames.timestamps, torch.tensor([0, 0.16, 0.36, 0.56, 0.76], dtype=torch.float64), atol=1e-6)
    brightness = frames.pixels.float().mean(dim=(1, 2, 3))
    assert torch.allclose(brightness, 20 + 8 * torch.tensor([0.0, 4, 9, 14, 19]), atol=4)


def test_times_start_at_zero_in_a_file_whose_clock_does_not(make_clip):
    frames = load_video(make_clip("late.ts", milliseconds=[5000 + 100 * i for i in range(10)]), Sampling(frames=2))
    assert torch.allclose(frames.timestamps, torch.tensor([0, 0.9], dtype=torch.float64), atol=1e-6)


def test_real_times_are_kept_where_the_rate_varies(make_clip):
    path = make_clip("vfr.mp4", milliseconds=[0, 100, 150, 400, 1000, 1040, 2000, 2500])
    expected = torch.tensor([0, 0.1, 0.15, 0.4, 1, 1.04, 2, 2.5], dtype=torch.float64)
    for backend in ("decord", "pyav"):
        assert torch.allclose(load_video(path, Sampling(frames=8), backend=backend).timestamps, expected, atol=1e-6)


def test_a_rotated_video_comes_upright(make_clip):
    path = make_clip("phone.mp4", frames=4)
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 4 + 20 + 16
    content[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 64 << 16, 0, 1 << 30)
    path.write_bytes(content)
    frames = load_video(path, Sampling(frames=2))
    index = read_index(path)
    assert (frames.width, frames.height) == (64, 96) == (index.width, index.height)
    assert frames.pixels[0, :40].float().mean() > 240  # the left half, turned clockwise, is on top
    assert frames.pixels[0, 56:].float().mean() < 40


def test_a_video_of_one_frame_is_read(make_clip):
    frames = load_video(make_clip("one.mp4", frames=1), Sampling(frames=1))
    assert frames.pixels.shape == (1, 64, 96, 3)
    assert frames.timestamps.tolist() == [0.0]


def test_the_source_is_a_name_without_its_folder(bikes):
    assert load_video(bikes, Sampling(frames=1), size=32).source == "bikes.mp4"


def test_pyav_reads_alone_where_decord_is_missing(bikes, monkeypatch):
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(DecordUnfit, match="not installed"):
        open_decord(read_index(bikes), 272, 640)
    assert load_video(bikes, Sampling(frames=2), size=32).count == 2
    refused(lambda: load_video(bikes, backend="decord"), "decord is not installed", "pyav")


def test_importing_the_module_loads_no_decoder():
    script = "import sys, comfyui_aot.aot.video.video_source; sys.exit(bool({'av', 'decord'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], timeout=120).returncode == 0


# Size


def test_an_int_size_is_the_shorter_side(bunny):
    assert load_video(bunny, Sampling(frames=1), size=90).pixels.shape == (1, 90, 160, 3)


def test_a_pair_is_height_and_width(bunny):
    assert load_video(bunny, Sampling(frames=1), size=(60, 61)).pixels.shape == (1, 60, 61, 3)


@pytest.mark.parametrize("size", [0, -5, (0, 10), 10**6])
def test_an_impossible_size_is_refused(bikes, size):
    refused(lambda: load_video(bikes, size=size), "each side must be from 1")


# Which frames


@pytest.mark.parametrize("wanted", [1, 7, 32, 100])
def test_uniform_is_linspace_over_the_indices(wanted):
    expected = np.linspace(0, 99, wanted, dtype=int).tolist()
    assert Sampling(frames=wanted).indices(TENTHS).tolist() == expected


def test_uniform_keeps_to_start_and_end_both_included():
    assert Sampling(frames=3, start=2.0, end=4.0).indices(TENTHS).tolist() == [20, 30, 40]


def test_fps_takes_a_frame_every_so_many_seconds_from_start():
    assert Sampling("fps", fps=2, start=1.0, end=3.2).indices(TENTHS).tolist() == [10, 15, 20, 25, 30]


def test_fps_takes_the_nearest_frame_once_where_the_rate_varies():
    times = torch.tensor([0, 0.1, 0.9, 1.05, 4.0, 4.9], dtype=torch.float64)
    assert Sampling("fps", fps=1).indices(times).tolist() == [0, 3, 4]


def test_fps_survives_times_rounded_to_milliseconds():
    times = (torch.arange(90, dtype=torch.float64) / 30 * 1000).round() / 1000
    assert Sampling("fps", fps=30).indices(times).tolist() == list(range(90))


@pytest.mark.parametrize("fps", [10, 25, 1e12])
def test_fps_above_that_of_the_video_takes_every_frame_once(fps):
    assert Sampling("fps", fps=fps).indices(TENTHS).tolist() == list(range(100))


def test_every_takes_each_kth_frame():
    assert Sampling("every", every=30, start=0.5).indices(TENTHS).tolist() == [5, 35, 65, 95]


@pytest.mark.parametrize("sampling", [Sampling("fps", fps=5, cap=4), Sampling("every", every=2, cap=4)])
def test_cap_spreads_uniformly_over_what_was_found(sampling):
    assert sampling.indices(TENTHS).tolist() == [0, 32, 64, 98]


def test_cap_lowers_what_uniform_asks_for():
    assert Sampling(frames=32, cap=2).indices(TENTHS).tolist() == [0, 99]


def test_a_cap_above_what_was_found_changes_nothing():
    assert len(Sampling("every", every=25, cap=50).indices(TENTHS)) == 4


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"frames": 0}, ("frames is 0", "at least 1")),
        ({"every": 0}, ("every is 0", "at least 1")),
        ({"cap": 0}, ("cap is 0", "at least 1")),
        ({"fps": 0.0}, ("fps is 0", "above 0")),
        ({"fps": -1.0}, ("fps is -1", "above 0")),
        ({"fps": float("nan")}, ("fps is nan", "above 0")),
        ({"start": -0.5}, ("start is -0.5", "0 (the beginning) or later")),
        ({"start": 3.0, "end": 2.0}, ("end is 2.0", "start at 3.0", "later end")),
        ({"mode": "random"}, ("random", "uniform, fps, every")),
    ],
)
def test_a_senseless_sampling_is_refused(settings, words):
    refused(lambda: Sampling(**settings), *words)


def test_more_frames_than_there_are_is_refused_with_how_many_there_are(bunny):
    refused(lambda: load_video(bunny, Sampling(frames=200)), "200", "bigbuckbunny.mp4", "at most 132")


@pytest.mark.parametrize(("wanted", "taken"), [(200, 132), (8, 8)])
def test_fewer_frames_are_taken_where_there_are_fewer_and_that_is_allowed(bunny, wanted, taken):
    assert load_video(bunny, Sampling(frames=wanted, fewer=True), size=32).count == taken
    assert load_video(bunny, Sampling(frames=wanted, start=5.0, fewer=True), size=32).count == min(wanted, 7)


def test_two_frames_of_a_video_of_one_are_refused(make_clip):
    path = make_clip("one.mp4", frames=1)
    refused(lambda: load_video(path, Sampling(frames=2)), "at most 1")


def test_a_start_past_the_end_is_refused(bunny):
    refused(lambda: load_video(bunny, Sampling(frames=1, start=60)), "60 s", "5.24 s", "start earlier")


def test_a_range_between_two_frames_is_refused(bunny):
    refused(lambda: load_video(bunny, Sampling(frames=1, start=1.01, end=1.02)), "no frame", "widen")


# Memory


def test_the_estimate_is_what_the_frames_take(bikes):
    frames = load_video(bikes, Sampling(frames=5), size=(48, 64))
    assert estimate_bytes(5, 48, 64) == frames.pixels.numel()


def test_what_would_not_fit_is_refused_with_the_figures_and_what_would(bunny):
    decoder = 32 * 1280 * 720 * 3 // 2
    free = decoder + estimate_bytes(20, 720, 1280)
    refused(
        lambda: load_video(bunny, Sampling(frames=32), free_bytes=free),
        "32 frames of 1280x720",
        "133 MB",
        "100 MB are free",
        "at most 20 frames",
        "smaller size",
    )
    assert load_video(bunny, Sampling(frames=20), free_bytes=free).count == 20


def test_a_smaller_size_makes_it_fit(bunny):
    assert load_video(bunny, Sampling(frames=32), size=32, free_bytes=50_000_000).count == 32


def test_a_native_video_is_refused_before_comfyui_decodes_it_where_it_cannot_fit():
    ten_seconds = 2 * 4 * estimate_bytes(240, 1080, 1920)
    require_components_fit((1920, 1080), 10.0, free_bytes=ten_seconds)
    refused(
        lambda: require_components_fit((1920, 1080), 10.0, free_bytes=ten_seconds - 1),
        "10 s of this 1920x1080",
        "trim it",
        "Load Video (AOT)",
    )


# Bad files


def test_a_missing_file_is_refused(tmp_path):
    line = refused(lambda: load_video(tmp_path / "gone.mp4"), "no file gone.mp4", "check its name")
    assert str(tmp_path) not in line


def test_a_folder_is_refused(tmp_path):
    refused(lambda: load_video(tmp_path), "is a folder", "name a video file")


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "empty.mp4").touch()
    refused(lambda: load_video(tmp_path / "empty.mp4"), "0 bytes", "download it again")


def test_a_text_file_named_mp4_is_refused(tmp_path):
    (tmp_path / "notes.mp4").write_text("not a video\n" * 100)
    refused(lambda: load_video(tmp_path / "notes.mp4"), "notes.mp4 cannot be read", "no video at all")


def test_a_playlist_posing_as_a_video_opens_nothing_over_the_network(tmp_path):
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    refused(lambda: load_video(tmp_path / "list.mp4"), "list.mp4")


def test_sound_without_picture_is_refused(audio_only):
    refused(lambda: load_video(audio_only), "no picture, only audio", "give a video file")


def test_a_file_cut_before_its_index_is_refused(bunny, tmp_path):
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(bunny.read_bytes()[: bunny.stat().st_size // 2])
    refused(lambda: load_video(cut), "cut.mp4 cannot be read", "download it again")


def test_a_file_cut_after_its_index_is_refused_with_what_is_left(streamable):
    streamable.write_bytes(streamable.read_bytes()[: streamable.stat().st_size // 2])
    refused(lambda: load_video(streamable), "cut short", "1.92 of its 5.28 s", "set end to 1.92 s")


def test_what_is_left_of_a_cut_file_can_be_read(streamable):
    streamable.write_bytes(streamable.read_bytes()[: streamable.stat().st_size // 2])
    assert load_video(streamable, Sampling(frames=4, end=1.9), size=32).count == 4


@pytest.mark.parametrize("backend", ["auto", "pyav"])
def test_frames_that_do_not_decode_are_refused_with_where_they_are(bunny, tmp_path, backend):
    content = bytearray(bunny.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 100_000] = bytes(100_000)
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(content)
    refused(lambda: load_video(damaged, size=32, backend=backend), "damaged.mp4 is damaged", "of the 32 frames")
    assert load_video(damaged, Sampling(frames=4, end=1.0), size=32, backend=backend).count == 4


def test_an_absurd_frame_count_in_the_header_does_not_abort_the_process(bikes, tmp_path):
    content = bytearray(bikes.read_bytes())
    count = content.index(b"stts") + 4 + 4 + 4
    content[count] = 0xA4
    path = tmp_path / "absurd.mp4"
    path.write_bytes(content)
    script = (
        "import sys; from comfyui_aot.aot.errors import InputError\n"
        "from comfyui_aot.aot.video.decoding import DecordUnfit, open_decord\n"
        "from comfyui_aot.aot.video.index import read_index\n"
        "from comfyui_aot.aot.video.sampling import Sampling\n"
        "from comfyui_aot.aot.video.video_source import load_video\n"
        "index = read_index(sys.argv[1])\n"
        "try: open_decord(index, index.height, index.width)\n"
        "except DecordUnfit: pass\n"
        "else: raise SystemExit('decord opened it')\n"
        "try: load_video(sys.argv[1], Sampling(frames=2), size=32)\n"
        "except InputError: pass\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(path)], timeout=120).returncode == 0


def test_an_unknown_backend_is_refused(bikes):
    refused(lambda: load_video(bikes, backend="ffmpeg"), "ffmpeg", "auto, decord, pyav")


# Frames in memory


def test_images_and_frames_convert_there_and_back(bikes):
    frames = load_video(bikes, Sampling(frames=3), size=32)
    back = Frames.from_images(frames.to_images(), source="x", timestamps=frames.timestamps)
    assert torch.equal(back.pixels, frames.pixels)
    assert torch.equal(back.timestamps, frames.timestamps)


def test_images_are_float32_between_0_and_1():
    frames = Frames(torch.tensor([0, 128, 255], dtype=torch.uint8).reshape(1, 1, 1, 3), torch.zeros(1).double(), "x")
    images = frames.to_images()
    assert images.dtype == torch.float32
    assert images.flatten().tolist() == pytest.approx([0, 128 / 255, 1])


def test_images_are_left_as_they_were_and_clipped_in_the_copy():
    images = torch.tensor([-0.5, 0.5, 1.5, 0.25]).reshape(1, 1, 1, 4)
    before = images.clone()
    assert Frames.from_images(images, fps=1).pixels.flatten().tolist() == [0, 128, 255]
    assert torch.equal(images, before)


def test_fps_gives_images_their_times():
    assert Frames.from_images(torch.zeros(4, 2, 2, 3), fps=8).timestamps.tolist() == [0, 0.125, 0.25, 0.375]


@pytest.mark.parametrize("fps", [None, 0, -1, float("inf")])
def test_images_without_times_are_refused(fps):
    refused(lambda: Frames.from_images(torch.zeros(2, 2, 2, 3), fps=fps), "fps above 0", "timestamp")


@pytest.mark.parametrize("images", [torch.zeros(2, 2, 3), torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 3).byte()])
def test_tensors_that_are_no_images_are_refused(images):
    refused(lambda: Frames.from_images(images, fps=1), "images must be float (T, H, W, 3 or 4)")


def test_no_images_are_refused():
    refused(lambda: Frames.from_images(torch.zeros(0, 4, 4, 3), fps=1), "no frames")


@pytest.mark.parametrize(
    ("pixels", "times", "words"),
    [
        (torch.zeros(2, 4, 4, 3), [0, 1], "uint8"),
        (torch.zeros(2, 4, 4, 4).byte(), [0, 1], "uint8 (T, H, W, 3)"),
        (torch.zeros(0, 4, 4, 3).byte(), [], "no frames"),
        (torch.zeros(2, 4, 4, 3).byte(), [0], "2 frames need timestamps"),
        (torch.zeros(2, 4, 4, 3).byte(), [1, 1], "strictly increasing"),
        (torch.zeros(2, 4, 4, 3).byte(), [0, float("nan")], "finite"),
        (torch.zeros(4, 4, 2, 3).byte().transpose(0, 2), [0, 1], "contiguous"),
    ],
)
def test_frames_that_do_not_hold_together_are_refused(pixels, times, words):
    refused(lambda: Frames(pixels, torch.tensor(times, dtype=torch.float64), "x"), words)


def test_resample_chooses_in_memory_what_load_would_from_the_file(bikes):
    whole = load_video(bikes, Sampling("every"), size=32)
    for sampling in (Sampling(frames=7, start=1), Sampling("fps", fps=2), Sampling("every", every=40, cap=3)):
        direct, chosen = load_video(bikes, sampling, size=32), resample(whole, sampling)
        assert torch.equal(direct.pixels, chosen.pixels)
        assert torch.equal(direct.timestamps, chosen.timestamps)
        assert chosen.source == "bikes.mp4"


def test_frames_are_told_in_a_line():
    frames = Frames(torch.zeros(3, 4, 6, 3, dtype=torch.uint8), TENTHS[:3], "a.mp4")
    assert repr(frames) == "Frames(3 of 6x4 from 'a.mp4', 0.00 to 0.20 s)"
