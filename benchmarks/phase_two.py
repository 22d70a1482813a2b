"""What AOT's phase II keeps as distinct, and what an LLM looks at of it, on drawn clips whose shapes are known.

A token is *new* if most of its cell shows a shape that the keyframe of its clip does not show. For both rules of
``explained_by``: how well they rank new tokens before all others (AUC, 1 is perfect, 0.5 is chance), and how many of
those that phase I keeps are distinct in the end. Then how much attention of the prompt's last token falls on a token
of each role, mean over layers and heads; 1 is the mean of all visual tokens. The picture shows both rules on the same
frames. Of a video whose content nobody has marked, it says how many of the tenth of tokens that are furthest from
every anchor are distinct, beside the share of all tokens that is.

    .venv/bin/python benchmarks/phase_two.py --clips 60 --picture docs/phase-two.jpg --video CLIP.mp4
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from comfyui_aot.aot.evaluation.drawing import Shape, coverage
from comfyui_aot.aot.evaluation.questions import Question
from comfyui_aot.aot.evaluation.scenes import Scene
from comfyui_aot.aot.evaluation.shapes_set import ShapesSet, shapes_set
from comfyui_aot.aot.models import load
from comfyui_aot.aot.models.base import VideoLLM
from comfyui_aot.aot.pictures.token_map import token_map
from comfyui_aot.aot.stages.methods.anchor_ot.both_phases import AnchorOT
from comfyui_aot.aot.stages.methods.anchor_ot.inter import InterFrame
from comfyui_aot.aot.tables import markdown
from comfyui_aot.aot.tokens.video_tokens import Role, VideoTokens
from comfyui_aot.aot.video.sampling import Sampling
from comfyui_aot.aot.video.video_source import load_video

FRAMES, RETENTION, CLIP_LENGTH = 16, 0.1, 4
RULES = ("plan", "cost")
ASKED = 12
"""Clips whose attention is looked at."""
ROLES = {Role.KEYFRAME: "keyframe, as it was", Role.DISTINCT: "distinct", Role.MERGED: "keyframe, updated"}
PICTURED = 1000005
"""A clip of the dev split, and the first of its frames that are drawn."""
FIRST = 4


@dataclass(frozen=True)
class Shown:
    """What the cells of a clip show.

    Args:
        new: (T, L) bool, cells mostly of a shape that the keyframe does not show.
        flashing: (T, L) bool, cells mostly of a flash.
    """

    new: np.ndarray
    flashing: np.ndarray


def shown_in(scene: Scene, side: int) -> Shown:
    """What the cells of a scene's frames show, on a grid of ``side`` by ``side``."""
    size, times = scene.settings.size, scene.times
    new, flashing = (np.zeros((len(times), side * side), bool) for _ in range(2))
    for frame, time in enumerate(times):
        keyframe = times[frame // CLIP_LENGTH * CLIP_LENGTH]
        for actor in scene.actors:
            if actor.seen(time):
                place = scene.place(actor, time)
                shape = Shape(actor.colour, actor.kind, *place, actor.radius, actor.angle, actor.flashing)
                cells = coverage(shape, size).reshape(side, size // side, side, size // side).mean((1, 3)).ravel()
                new[frame] |= (cells > 0.5) & (not actor.seen(keyframe))
                flashing[frame] |= (cells > 0.5) & actor.flashing
    return Shown(new, flashing)


def auc(score: np.ndarray, positive: np.ndarray) -> float:
    """The share of pairs in which a positive entry has the higher score; NaN without both kinds."""
    higher = score[positive][:, None] - score[~positive]
    return float(((higher > 0) + 0.5 * (higher == 0)).mean()) if higher.size else float("nan")


def at(tokens: VideoTokens) -> tuple[np.ndarray, np.ndarray]:
    """Frame and cell of every token."""
    frame, row, column = tokens.place.T.numpy()
    return frame, row * tokens.layout.language_grid[1] + column


def phases(tokens: VideoTokens) -> tuple[VideoTokens, dict[str, InterFrame]]:
    """The tokens after phase I, and phase II by both rules."""
    intra, inter = AnchorOT(retention=RETENTION).steps(tokens.layout, tokens.timestamps)
    assert isinstance(inter, InterFrame)
    return intra(tokens), {rule: replace(inter, explained_by=rule) for rule in RULES}


def distinct_tokens(tokens: VideoTokens, shown: Shown) -> dict[tuple[str, str], float]:
    """What each rule makes of one clip, by rule and measure."""
    before, by_rule = phases(tokens)
    frame, cell = at(before)
    after = frame % CLIP_LENGTH > 0
    new, flashing = shown.new[frame, cell] & after, shown.flashing[frame, cell] & after
    figures = {}
    for rule, inter in by_rule.items():
        q, reduced = inter.explained(before).numpy(), inter(before)
        distinct = reduced.role.numpy() == int(Role.DISTINCT)
        of_frame, of_cell = (each[distinct] for each in at(reduced))
        new_stay, flash_stays = shown.new[of_frame, of_cell], shown.flashing[of_frame, of_cell]
        figures |= {
            (rule, "AUC"): auc(-q[after], new[after]),
            (rule, "new kept"): new_stay.sum() / new.sum() if new.any() else np.nan,
            (rule, "flash kept"): flash_stays.sum() / flashing.sum() if flashing.any() else np.nan,
            (rule, "of distinct, new"): new_stay.mean(),
            (rule, "of distinct, in the frame after the keyframe"): (of_frame % CLIP_LENGTH == 1).mean(),
        }
    return figures


def attention(model: VideoLLM, tokens: VideoTokens, questions: list[Question]) -> dict[tuple[str, str], list[float]]:
    """Attention of the last token on a token of each role, beside the mean of all visual ones, by rule and role."""
    caught: list[torch.Tensor] = []
    hooks = [
        layer.self_attn.register_forward_hook(lambda _, __, out: caught.append(out[1][0].float().mean(0)[-1]))
        for layer in model.language_model.layers  # type: ignore[union-attr]
    ]
    figures = defaultdict(list)
    for rule in RULES:
        reduced = AnchorOT(retention=RETENTION, explained_by=rule)(tokens)
        for question in questions:
            inputs = model.prompt_inputs(reduced, question.text)
            caught.clear()
            model.forward(inputs, model.new_cache())
            landed = torch.stack(caught)[:, inputs.visual].mean(0)[: len(reduced.role)]
            for role, name in ROLES.items():
                figures[rule, name].append((landed[reduced.role == int(role)].mean() / landed.mean()).item())
    for hook in hooks:
        hook.remove()
    return figures


def furthest_kept(tokens: VideoTokens) -> tuple[dict[str, float], float]:
    """The share of the tenth of tokens furthest from every anchor that is distinct, by rule, and of all tokens."""
    before, by_rule = phases(tokens)
    far = replace(by_rule["cost"], scaling=0.0).explained(before)
    after = torch.isfinite(far)
    furthest = after & (far <= far[after].quantile(0.1))
    kept, everything = {}, 0.0
    for rule, inter in by_rule.items():
        reduced = inter(before)
        distinct = torch.isin(before.layout.index(before.place), reduced.layout.index(reduced.place)) & after
        kept[rule] = distinct[furthest].double().mean().item()
        everything = distinct[after].double().mean().item()
    return kept, everything


def picture(model: VideoLLM, drawn: ShapesSet) -> Image.Image:
    """Both rules on one clip of four frames, one above the other."""
    whole = drawn.scene(str(PICTURED), FRAMES).frames()
    few = slice(FIRST, FIRST + CLIP_LENGTH)
    frames = replace(whole, pixels=whole.pixels[few], timestamps=whole.timestamps[few], clock=None)
    tokens = model.encode(frames)
    maps = [token_map(AnchorOT(retention=RETENTION, explained_by=rule)(tokens), frames, columns=4) for rule in RULES]
    pixels = torch.cat([each[0] for each in maps]).mul(255).round().to(torch.uint8)
    return Image.fromarray(pixels.numpy())


@torch.no_grad()
def main() -> None:
    """Print both tables and save the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=60, help="of the dev split")
    parser.add_argument("--picture", type=Path, help="where to save the picture")
    parser.add_argument("--video", type=Path, nargs="+", default=(), help="videos of your own")
    options = parser.parse_args()
    model = load(attention="eager")
    drawn = shapes_set("dev", options.clips, frames=FRAMES, each=3)
    if options.picture:
        picture(model, drawn).save(options.picture, quality=88)
    for video, number in product(options.video, (FRAMES, 2 * FRAMES)):
        frames = load_video(video, Sampling(frames=number, fewer=True))
        kept, everything = furthest_kept(model.encode(frames))
        shares = ", ".join(f"{share:.0%} by {rule}" for rule, share in kept.items())
        what = f"{video.name}, {frames.count} frames"
        print(f"{what}: of the furthest tenth {shares} are distinct; of all {everything:.0%}\n")
    by_clip = defaultdict(list)
    for question in drawn.questions:
        by_clip[question.clip].append(question)
    measured, landed = defaultdict(list), defaultdict(list)
    for number, (clip, questions) in enumerate(by_clip.items()):
        tokens = model.encode(drawn.frames(clip, FRAMES))
        shown = shown_in(drawn.scene(clip, FRAMES), tokens.layout.language_grid[0])
        for key, value in distinct_tokens(tokens, shown).items():
            measured[key].append(value)
        if number < ASKED:
            for key, values in attention(model, tokens, questions).items():
                landed[key] += values
    names = list(dict.fromkeys(name for _, name in measured))
    print(_table(names, {key: f"{np.nanmean(values):.3f}" for key, values in measured.items()}), end="\n\n")
    print(_table(list(ROLES.values()), {key: f"{np.mean(values):.2f}" for key, values in landed.items()}))


def _table(names: list[str], cells: dict[tuple[str, str], str]) -> str:
    """A line for each rule."""
    return markdown(["explained by", *names], [[rule, *(cells[rule, name] for name in names)] for rule in RULES])


if __name__ == "__main__":
    main()
