"""A random video of two scenes, for the oracle."""

import torch

from comfyui_aot.aot.tokens.video_tokens import Layout, VideoTokens


def video(frames, grid, *, dim=5, seed=0, pooling="bilinear", newline="one_token", dtype=torch.float64):
    """A random video: one smooth scene, noise, and a cut in the middle."""
    generator = torch.Generator().manual_seed(seed)
    layout = Layout(frames, grid, pooling, newline)
    scenes = torch.randn(2, layout.cells, dim, generator=generator, dtype=torch.float64)
    noise = torch.randn(frames, layout.cells, dim, generator=generator, dtype=torch.float64)
    scene = (torch.arange(frames) >= (frames + 1) // 2).long()
    shallow, deep = torch.rand(2, frames, layout.cells, generator=generator)
    return VideoTokens.encoded(
        (scenes[scene] + 0.5 * noise).to(dtype),
        layout,
        shallow,
        deep,
        0.5 * torch.arange(frames, dtype=torch.float64),
        newline=torch.linspace(-1, 1, dim, dtype=dtype),
    )
