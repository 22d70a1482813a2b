"""Streaming gives the tokens of the eager run, and holds no more of the video than it must."""

import itertools
import time

import pytest
import torch

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.models.file_time import file_seconds
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.aot.streaming import TOGETHER, Stream, regroup, stream
from comfyui_aot.aot.tokens import storage
from comfyui_aot.aot.tokens.video_tokens import VideoTokens
from comfyui_aot.aot.video.frames import Frames
from comfyui_aot.aot.video.sampling import Sampling
from comfyui_aot.aot.video.video_source import load_video, open_video
from comfyui_aot.tests.support.fake_tower import FakeTower

CHAINS = (
    "full",
    "intra:budget=60,solver=early",
    "intra:retention=0.15,solver=early",
    "intra:budget=60,solver=early+inter:clip_length=3,keep_ratio=0.3",
    "inter:clips=times,cut_times=1.2 2.6",
    "paper",
    "aot:retention=0.2",
    "aot:retention=0.2,clips=dynamic,cut_lowest=2",
    "aot:retention=0.2,clips=one",
    "intra:budget=60,solver=early+inter:clip_length=12,retention=0.1",
)


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("frames", [1, 7, 16, 21])
def test_streamed_tokens_are_those_of_the_eager_run(chain, frames):
    tower, pipeline = FakeTower(frames), parse(chain)
    eager, streamed = pipeline(tower.whole), stream(tower, tower, pipeline.stages)
    assert torch.equal(eager.place, streamed.place)
    assert torch.equal(eager.role, streamed.role)
    assert (eager.layout, eager.pooled) == (streamed.layout, streamed.pooled)
    assert torch.equal(eager.deep, streamed.deep)
    torch.testing.assert_close(eager.features, streamed.features, atol=1e-6, rtol=1e-5)
    difference = eager.map.sparse().to_dense() - streamed.map.sparse().to_dense()
    assert float(difference.abs().max()) < 1e-6
    assert [record.name for record in streamed.history] == [record.name for record in eager.history]
    assert [record.tokens_out for record in streamed.history] == [record.tokens_out for record in eager.history]


def test_a_real_video_is_streamed_from_its_file(miniature, bunny):
    pipeline = parse("aot:retention=0.1,clip_length=3")
    eager = pipeline(miniature.encode(load_video(bunny, Sampling(frames=9))))
    streamed = Stream(lambda: miniature, open_video(bunny, Sampling(frames=9)), pipeline.stages).tokens()
    assert torch.equal(eager.place, streamed.place)
    torch.testing.assert_close(eager.features, streamed.features, atol=1e-5, rtol=1e-5)


def test_the_time_from_the_file_to_its_frames_is_known_decoded_before_or_on_the_way(model, bunny, tmp_path):
    frames = load_video(bunny, Sampling(frames=5))
    encoded = model.encode(frames)
    assert file_seconds(encoded) == frames.file_s > 0
    images = Frames.from_images(frames.to_images(), fps=1)
    assert file_seconds(model.encode(images)) is None
    storage.save(encoded, tmp_path / "tokens.safetensors")
    assert file_seconds(storage.load(tmp_path / "tokens.safetensors")) == frames.file_s
    shares = []
    for _ in range(3):  # another process may have the core at any time, but hardly each time
        start = time.perf_counter()
        source = open_video(bunny, Sampling(frames=5))
        streamed = stream(model, source, parse("aot:retention=0.1").stages)
        wall = time.perf_counter() - start
        known = file_seconds(streamed) + sum(record.milliseconds for record in streamed.history) / 1e3
        assert source.file_s < file_seconds(streamed)
        shares.append(known / wall)
    assert 0.8 < max(shares) <= 1


@pytest.mark.parametrize("chain", ["intra:budget=60,solver=early", "intra:budget=60,solver=early+inter:clip_length=4"])
def test_frames_are_reduced_as_they_come(chain):
    tower, held = FakeTower(40), []
    stages = parse(chain).stages
    original = type(stages[0]).build

    def build(self, tokens, part):
        held.append((tower.given - part.first, tokens.layout.frames))
        return original(self, tokens, part)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(stages[0]), "build", build)
        stream(tower, tower, stages)
    assert max(ahead for ahead, _ in held) <= TOGETHER
    assert sum(frames for _, frames in held) == 40


def test_a_solver_that_looks_at_all_frames_gets_all_frames():
    tower = FakeTower(12)
    pipeline = parse("intra:budget=60,solver=released")
    assert pipeline.stages[0].runs(tower.whole.layout, tower.timestamps) is None
    assert torch.equal(stream(tower, tower, pipeline.stages).features, pipeline(tower.whole).features)


def test_nothing_is_worked_out_before_tokens_are_asked_for_and_then_once():
    tower = FakeTower(8)
    promised = Stream(lambda: tower, tower).then(*parse("aot").stages)
    assert tower.given == 0
    assert promised.tokens() is promised.tokens()
    assert tower.given == 8


@pytest.mark.parametrize("lengths", [(1,) * 10, (10,), (3, 3, 4), (7, 1, 2)])
def test_runs_can_be_regrouped(lengths):
    tower = FakeTower(10)
    runs = list(regroup(tower.encode_parts(tower, on_progress=None), lengths))
    assert [run.layout.frames for run in runs] == list(lengths)
    whole = VideoTokens.concatenate(runs)
    assert torch.equal(whole.features, tower.whole.features)
    assert torch.equal(whole.place, tower.whole.place)


def test_reduced_tokens_are_not_cut():
    reduced = parse("intra:budget=60")(FakeTower(3).whole)
    with pytest.raises(InputError, match="cut before the first stage"):
        reduced.cut(0, 1)


def test_maps_of_runs_stand_side_by_side():
    tower = FakeTower(9)
    pipeline = parse("intra:budget=60,solver=early+inter:clip_length=3")
    parts = [pipeline(tower.whole.cut(first, last)) for first, last in itertools.pairwise((0, 3, 9))]
    joined = VideoTokens.concatenate(parts)
    torch.testing.assert_close(joined.map.apply(tower.whole.features), joined.features)
    blocks = torch.block_diag(*(part.map.sparse().to_dense() for part in parts))
    torch.testing.assert_close(joined.map.sparse().to_dense(), blocks)
    ones = torch.ones(joined.map.kept, dtype=torch.float64)
    torch.testing.assert_close(joined.map.adjoint(ones), blocks.sum(0), atol=1e-5, rtol=1e-5)
