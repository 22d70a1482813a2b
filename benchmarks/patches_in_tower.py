"""Would it pay to leave patches out inside a vision tower? Tables of docs/results-version-2.md, on the embedded model.

After one of the tower's blocks every frame keeps its class token and the patches that receive most attention there.
Tokens are pooled from the patches that are left, with weights made to sum to 1 again; cells without any vanish. It is
done by hooks, and by no stage of the package.

    .venv/bin/python benchmarks/patches_in_tower.py .venv/clips/bigbuckbunny.mp4
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from comfyui_aot import Sampling, load_model, load_video, parse
from comfyui_aot.aot.answering.generation import Generation
from comfyui_aot.aot.answering.session import Session
from comfyui_aot.aot.evaluation.runner import by_clip
from comfyui_aot.aot.evaluation.shapes_set import shapes_set
from comfyui_aot.aot.models.base import VideoLLM
from comfyui_aot.aot.models.importance import capture
from comfyui_aot.aot.stages.toolkit.language_grid import LanguageGrid
from comfyui_aot.aot.tables import aligned
from comfyui_aot.aot.tokens.layout import pooling_on
from comfyui_aot.aot.tokens.video_tokens import VideoTokens
from comfyui_aot.aot.video.frames import Frames

FRAMES = 8
MOVED = {"after": (0, 2, 4, 6), "keep": (0.75, 0.5, 0.25)}
ASKED = ((1, 0.5), (1, 0.25), (3, 0.5), (3, 0.25), (5, 0.5), (5, 0.25))
"""Block, and the share of patches that go on after it."""


class Tower:
    """The embedded model's tower, with patches left out.

    Args:
        model: the embedded one.
    """

    def __init__(self, model: VideoLLM) -> None:
        assert model.blocks is not None
        self.model, self.blocks = model, model.blocks

    @torch.no_grad()
    def run(self, pixels: Tensor, after: int | None = None, keep: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
        """States at the tower's end and after the projector, (T, n, width) each, and which patches they are, (T, n).

        Args:
            pixels: (T, 3, h, w) float32.
            after: index of the block after which patches are left out; None for none.
            keep: share of every frame's patches that go on.
        """
        kept: list[Tensor] = []

        def leave_out(module: Any, inputs: Any, output: Any) -> Any:
            states: Tensor = output[0] if isinstance(output, tuple) else output
            received = attention.sums[after or 0][:, 1:]
            best = received.topk(round(keep * received.shape[1]), 1).indices.sort(1).values
            kept.append(best)
            left = torch.cat((states[:, :1], _picked(states[:, 1:], best)), 1)
            return (left, *output[1:]) if isinstance(output, tuple) else left

        with capture(*(() if after is None else (after,))) as attention:
            hook = None if after is None else self.blocks.modules[after].register_forward_hook(leave_out)
            output = self.model.tower(pixels, output_hidden_states=True)
            if hook is not None:
                hook.remove()
        states = output.hidden_states[self.model.hf_model.config.vision_feature_layer][:, 1:]
        places = kept[0] if kept else torch.arange(states.shape[1]).expand(len(states), -1)
        return states, self.model.hf_model.model.multi_modal_projector(states), places

    def cost(self, after: int, keep: float) -> float:
        """The share of rows that go through the blocks."""
        return (after + 1 + (self.blocks.used - after - 1) * keep) / self.blocks.used

    def tokens(self, full: VideoTokens, pixels: Tensor, after: int, keep: float) -> VideoTokens:
        """What the LLM is given of the patches left.

        Args:
            full: the video's tokens, on the language grid.
            pixels: (T, 3, h, w) float32.
            after: index of the block.
            keep: share of the patches.
        """
        _, features, places = self.run(pixels, after, keep)
        layout = full.layout
        pooling = pooling_on(layout, features.device, torch.float32)
        there = torch.zeros(len(features), layout.cells).scatter_(1, places, 1.0)
        by_patch = features.new_zeros(len(features), layout.cells, features.shape[2])
        by_patch = by_patch.scatter_(1, places[:, :, None].expand_as(features), features)
        mass = there @ pooling.mT
        pooled = torch.einsum("ln,tnd->tld", pooling, by_patch) / mass.clamp(min=1e-6)[:, :, None]
        cells = (mass > 1e-6).flatten().nonzero()[:, 0]
        chosen = LanguageGrid.of("patches", full).selection(cells)
        return replace(
            full.reduced(chosen.factor, chosen.place, chosen.role), features=pooled.flatten(0, 1).index_select(0, cells)
        )


def _picked(values: Tensor, places: Tensor) -> Tensor:
    return values.gather(1, places[:, :, None].expand(-1, -1, values.shape[2]))


def moved(tower: Tower, frames: Frames) -> Iterator[list[str]]:
    """A line for each block: how far kept patches move, at the tower's end and after the projector."""
    pixels = tower.model.preprocess(frames)
    full = tower.run(pixels)
    for after in MOVED["after"]:
        line = [f"after block {after}"]
        for keep in MOVED["keep"]:
            *left, places = tower.run(pixels, after, keep)
            whole = [_picked(each, places) for each in full[:2]]
            change = [float((own - of).norm() / of.norm()) for own, of in zip(left, whole, strict=True)]
            line.append(" / ".join(f"{each:.0%}" for each in change))
        yield line


def answered(tower: Tower, clips: int) -> Iterator[list[str]]:
    """A line for each setting: questions answered right, and by fewer frames at about the same cost."""
    model, questions = tower.model, shapes_set(split="dev", clips=clips, each=3)
    right: dict[str, list[float]] = defaultdict(list)
    counts = {setting: round(FRAMES * tower.cost(*setting)) for setting in ASKED}
    for clip, of_clip in by_clip(questions.questions).items():
        frames = questions.frames(clip, FRAMES)
        full = model.encode(frames).to_language_grid()
        pixels = model.preprocess(frames)
        shown = {"all": full} | {str(setting): tower.tokens(full, pixels, *setting) for setting in ASKED}
        for count in sorted(set(counts.values())):
            shown[str(count)] = model.encode(parse(f"fewer:frames={count}").on_frames(frames))
        for name, tokens in shown.items():
            replies = Session(model, tokens).ask([each.text for each in of_clip], Generation(questions.max_new_tokens))
            right[name] += [questions.score(each, text) for each, text in zip(of_clip, replies.texts, strict=True)]
    asked = len(right["all"])
    for setting, count in counts.items():
        figures = [f"{sum(right[name]):.0f} of {asked}" for name in (str(setting), str(count), "all")]
        after, keep = setting
        yield [f"{after}, {keep:.0%}", f"{tower.cost(*setting):.2f}", figures[0], str(count), *figures[1:]]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description="Patches left out inside the embedded model's tower.")
    parser.add_argument("video", type=Path, help="whose kept patches are looked at")
    parser.add_argument("--clips", type=int, default=3, help="drawn clips that are asked about")
    options = parser.parse_args()
    tower = Tower(load_model("embedded"))
    head = ["kept", *(f"{keep:.0%}" for keep in MOVED["keep"])]
    print(aligned(head, list(moved(tower, load_video(options.video, Sampling(frames=FRAMES))))))
    head = ["after block, kept", "cost", "right", "frames", "right", "all tokens"]
    print(aligned(head, list(answered(tower, options.clips))))


if __name__ == "__main__":
    main()
