"""A tower without weights, for what depends on runs of frames alone."""

import torch

from comfyui_aot.aot.tokens.video_tokens import Layout, VideoTokens


class FakeTower:
    """Random tokens a few frames at a time, as a model gives them, and a count of those still to come."""

    file_s = None
    steps = ()

    def __init__(self, frames, at_once=4, grid=(18, 18)):
        generator = torch.Generator().manual_seed(3)
        layout = Layout(frames, grid)
        scene = torch.randn(1, layout.cells, 6, generator=generator)
        features = scene + 0.5 * torch.randn(frames, layout.cells, 6, generator=generator)
        attention = torch.rand(2, frames, layout.cells, generator=generator)
        times = torch.arange(frames, dtype=torch.float64) / 5
        self.whole = VideoTokens.encoded(features, layout, *attention, times)
        self.count, self.at_once, self.given = frames, at_once, 0

    def layout(self, frames, *, file_pixels=False):
        return Layout(frames.count, self.whole.layout.grid)

    def timestamps(self, frames):
        return self.whole.timestamps

    def encode_parts(self, frames, *, on_progress, file_pixels=False):
        for first in range(0, self.count, self.at_once):
            last = min(self.count, first + self.at_once)
            self.given = last
            yield self.whole.cut(first, last)

    def finished(self, tokens, frames, seconds, *, file_pixels=False):
        return tokens
