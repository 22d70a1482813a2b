"""Frames, sizes and positions of Qwen's families are those of `qwen-vl-utils` and of the authors' own code."""

from __future__ import annotations

import json

import pytest
import torch

from comfyui_aot.aot.cli.main import main
from comfyui_aot.aot.models import load
from comfyui_aot.aot.models.qwen import QwenVL, fit, limits
from comfyui_aot.aot.streaming import stream
from comfyui_aot.aot.tokens.storage import load as load_tokens
from comfyui_aot.aot.tokens.storage import save as save_tokens
from comfyui_aot.aot.video.frames import Clock, Frames, resample
from comfyui_aot.aot.video.sampling import Sampling
from comfyui_aot.aot.video.video_source import load_video, open_video
from comfyui_aot.tests.support.qwen_vl_utils import NTSC, PART, READ, WHOLE, published_settings
from comfyui_aot.tests.support.small_models import save
from comfyui_aot.tests.support.stock_inputs import QUESTION, random_frames

SIZES = {
    (1080, 1920, 16): ((560, 1008), (640, 1152)),
    (2160, 3840, 16): ((560, 1008), (640, 1152)),
    (2160, 3840, 768): ((336, 644), (384, 736)),
    (1080, 1920, 400): ((504, 896), (576, 1024)),
    (360, 640, 120): ((364, 644), (352, 640)),
    (1080, 1920, 768): ((336, 644), (384, 736)),
    (96, 128, 4): ((280, 392), (320, 448)),
    (480, 270, 62): ((476, 280), (512, 288)),
    (720, 1280, 300): ((560, 1008), (640, 1152)),
    (64, 2048, 8): ((56, 2044), (64, 2048)),
}
"""Height, width and number of frames to sizes with patches of 14 and 16 pixels: ``smart_resize`` of `qwen-vl-utils`
0.0.14 with the limits that ``fetch_video`` works out."""

COUNTS = {
    (300, 30.0): (20, [0, 16, 31, 47], [268, 283, 299], 2990),
    (132, 25.0): (10, [0, 15, 29, 44], [102, 116, 131], 655),
    (10, 30.0): (4, [0, 3, 6, 9], [3, 6, 9], 18),
    (3, 25.0): (2, [0, 2], [0, 2], 2),
    (2, 1.0): (2, [0, 1], [0, 1], 1),
    (54000, 30.0): (768, [0, 70, 141, 211], [53858, 53929, 53999], 20735616),
    (719, NTSC): (46, [0, 16, 32, 48], [686, 702, 718], 16514),
    (100, 12.5): (16, [0, 7, 13, 20], [86, 92, 99], 792),
    (5000, 10.0): (768, [0, 7, 13, 20], [4986, 4992, 4999], 1919616),
    (23, 24.0): (4, [0, 7, 15, 22], [7, 15, 22], 44),
    (61, NTSC): (4, [0, 20, 40, 60], [20, 40, 60], 120),
}
"""Frames and frames a second of a video to the number of indices, the first four, the last three and their sum:
``smart_nframes`` and the ``torch.linspace`` after it."""

POSITIONS = {
    0.4: ([0, 0, 1, 2, 3, 4, 4, 5], 6),
    0.5: ([0, 1, 2, 3, 4, 5, 6, 7], 8),
    0.75: ([0, 1, 3, 4, 6, 7, 9, 10], 11),
    1.0: ([0, 2, 4, 6, 8, 10, 12, 14], 15),
    1.056: ([0, 2, 4, 6, 8, 10, 12, 14], 15),
    1.5: ([0, 3, 6, 9, 12, 15, 18, 21], 22),
    2.5: ([0, 5, 10, 15, 20, 25, 30, 35], 36),
}
"""Seconds of a pair to the positions of eight pairs of 2 x 3 tokens and of the text after them, from the video's
first: ``get_rope_index`` of Qwen2.5-VL in transformers 4.49.0, the version that its model card asks for. Qwen2-VL's are
one a pair, whatever the seconds."""


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"])
def small(request, tmp_path_factory, embedded_folder):
    """A small model with the published limits."""
    folder = tmp_path_factory.mktemp("models") / "small"
    save(folder, request.param, embedded_folder)
    (folder / "video_preprocessor_config.json").write_text(json.dumps(published_settings(request.param)))
    return load(folder)


@pytest.fixture(params=[(name, window) for name in READ for window in (WHOLE, PART)], ids=str)
def case(request):
    """A file, the window of it, and what was recorded of them."""
    name, window = request.param
    path = request.getfixturevalue("square_carphone" if name == "carphone" else name)
    return path, window, READ[name][window]


@pytest.mark.parametrize("given", SIZES, ids=str)
def test_frames_get_the_recorded_size(given):
    *size, frames = given
    assert tuple(fit(*size, factor, *limits(frames, factor)) for factor in (28, 32)) == SIZES[given]


@pytest.mark.parametrize("video", COUNTS, ids=str)
def test_the_recorded_frames_are_taken(video):
    frames, fps = video
    taken = list(QwenVL.sampling(frames, fps, frames / fps))
    assert (len(taken), taken[:4], taken[-3:], sum(taken)) == COUNTS[video]


def test_a_video_of_one_frame_gives_it():
    assert QwenVL.sampling(1, 25.0, 0.04) == [0]


def test_a_file_gives_the_recorded_frames_sizes_and_pixels(case, small):
    path, (start, end), read = case
    patch = small.hf_model.config.vision_config.patch_size
    frames = load_video(path, Sampling(start=start, end=end, makers=small.sampling))
    assert frames.clock is not None
    assert frames.clock.numbers.tolist() == read.indices
    assert frames.clock.sampled_fps == pytest.approx(read.sampled_fps, rel=1e-12)
    assert small.frame_size(frames) == read.sizes[patch]
    values = small.preprocess(frames)
    spread, centre = (torch.tensor(each)[:, None, None] for each in (small._std, small._mean))
    levels = (values * spread + centre) * 255
    # A file's colours may differ by a level from one build of FFmpeg to another.
    torch.testing.assert_close(levels.mean((0, 2, 3)), torch.tensor(read.means[patch]), atol=0.05, rtol=0)
    for found, expected in zip((levels[1, :, 17, 29], levels[-1, :, 100, 60]), read.spots[patch], strict=True):
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32), atol=1.01, rtol=0)


def test_frames_in_memory_are_chosen_as_those_of_a_file(bikes):
    makers = Sampling(start=1.0, end=3.5, makers=QwenVL.sampling)
    clock = resample(load_video(bikes, Sampling("every"), size=32), makers).clock
    assert clock is not None
    assert clock.numbers.tolist() == READ["bikes"][PART].indices
    assert clock.sampled_fps == pytest.approx(READ["bikes"][PART].sampled_fps)


def test_the_files_own_pixels_are_a_setting_that_is_in_the_record(small):
    frames = random_frames(2, 64, 96)
    tokens, own = small.encode(frames), small.encode(frames, file_pixels=True)
    assert tokens.tokens_full >= 128 > own.tokens_full
    assert [each.history[0].settings["file_pixels"] for each in (tokens, own)] == [False, True]
    assert own.layout == small.layout(frames, file_pixels=True)
    streamed = stream(small, frames, (), file_pixels=True)
    torch.testing.assert_close(streamed.features, own.features, atol=1e-4, rtol=1e-4)
    assert streamed.history[0].settings["file_pixels"]


def clip_with_a_pair_every(seconds, frames=16):
    """56 x 84 pixels, 2 x 3 tokens."""
    noise = random_frames(frames, 56, 84)
    times = torch.arange(frames, dtype=torch.float64) * seconds / 2
    return Frames(noise.pixels, times, "noise", clock=Clock(frames, 2 / seconds, torch.arange(frames)))


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
def test_positions_are_those_of_the_authors_code(family, tmp_path, embedded_folder):
    save(tmp_path / "small", family, embedded_folder)
    small = load(tmp_path / "small")
    for seconds, recorded in POSITIONS.items():
        check_positions(small, seconds, *(recorded if family == "qwen2_5_vl" else (list(range(8)), 8)))


def check_positions(small, seconds, expected, text):
    tokens = small.encode(clip_with_a_pair_every(seconds), file_pixels=True)
    prompt = small.prompt(QUESTION, tokens)
    prefix = small.prefix(tokens, prompt)
    first = len(prompt.before[0])
    times, rows, columns = (each.reshape(8, 2, 3) - first for each in prefix.inputs.position_ids[:, first:])
    assert times[:, 0, 0].tolist() == expected
    assert torch.equal(times, times[:, :1, :1].expand_as(times))
    assert rows[0, :, 0].tolist() == [0, 1]
    assert columns[0, 0].tolist() == [0, 1, 2]
    assert prefix.next_position == first + text


def test_seconds_of_a_pair_are_measured_where_no_clock_is_known(tmp_path, embedded_folder):
    save(tmp_path / "model", "qwen2_5_vl", embedded_folder)
    small = load(tmp_path / "model")
    noise = random_frames(4, 56, 84)
    frames = Frames(noise.pixels, torch.tensor([0.0, 1.0, 4.0, 5.0], dtype=torch.float64), "noise")
    assert small.time_step(small.encode(frames)) == 2 * 4.0


def test_times_in_the_prompt_are_the_files_and_travel_with_the_tokens(tmp_path, embedded_folder, carphone):
    save(tmp_path / "model", "qwen3_vl", embedded_folder)
    small = load(tmp_path / "model")
    source = open_video(carphone, Sampling(makers=small.sampling), size=64)
    numbers = READ["carphone"][WHOLE].indices
    pairs = zip(numbers[::2], numbers[1::2], strict=True)
    times = [f"<{(one / NTSC + other / NTSC) / 2:.1f} seconds>" for one, other in pairs]
    tokens = stream(small, source, ())
    save_tokens(tokens, tmp_path / "tokens.safetensors")
    for each in (tokens, load_tokens(tmp_path / "tokens.safetensors")):
        text = small.video_text(each)
        assert [part + ">" for part in text.split(">") if part.startswith("<") and "seconds" in part] == times


def test_odd_frames_end_with_the_last_one_twice(small):
    """As `qwen-vl-utils` does with a list of frames, and the processors with any."""
    odd = random_frames(3, 56, 84)
    even = Frames(odd.pixels[[0, 1, 2, 2]], torch.tensor([0.0, 0.5, 1.0, 1.5], dtype=torch.float64), "noise")
    assert small.frame_size(odd) == small.frame_size(even)
    torch.testing.assert_close(small.encode(odd).features, small.encode(even).features, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "pairs"),
    [([], 5), (["--fps", "1"], 3), (["--fps", "2", "--frames", "4"], 2), (["--frames", "6"], 3)],
)
def test_a_command_takes_the_makers_frames_or_those_it_is_told(
    bunny, tmp_path, embedded_folder, capsys, options, pairs
):
    save(tmp_path / "model", "qwen2_5_vl", embedded_folder)
    asked = ["answer", str(bunny), QUESTION, "--model", str(tmp_path / "model"), "--max-new-tokens", "2", "--json"]
    small = [*asked, "--size", "56", "--file-pixels"]  # 56 x 100 pixels are 2 x 4 tokens
    for more in ([], ["--stream"]):
        assert main([*small, *options, *more]) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["tokens_full"] == 8 * pairs
