"""One video of a batch: fetched, decoded, encoded and reduced as ``aot answer`` would."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..answering.generation import Generation
from ..answering.reduced_for import reduced
from ..comparison.starts import for_frames
from ..errors import InputError
from ..files import scratch_folder, sha256_of
from ..models.base import VideoLLM
from ..models.progress import Progress
from ..stages import InnerStage
from ..stages.base import Place
from ..stages.chain import Chain
from ..streaming import stream
from ..tokens.video_tokens import VideoTokens
from ..video.frame_source import FrameSource
from ..video.frames import Frames
from ..video.sampling import Sampling
from ..video.sizes import estimate_bytes
from ..video.video_source import VideoSource, open_video
from .questions import Asking
from .remote import fetch, is_url

if TYPE_CHECKING:
    from ..answering.servers import Servers
    from ..models.relevance_model import RelevanceModel


@dataclass(frozen=True)
class Recipe:
    """How videos are looked at and questions answered.

    Args:
        model: encodes and answers.
        chain: of stages, in all places.
        sampling: which frames.
        size: of the shorter side in pixels; None leaves it.
        file_pixels: see :meth:`~..models.base.VideoLLM.frame_size`.
        stream: whether a video is decoded, encoded and reduced run by run, for long ones.
        reinvest: times as many frames, cut down to the tokens that the chain would leave of the others.
        generation: how answers are generated.
        system: the system prompt; the model's own if empty.
        relevance_model: for chains that need one.
        servers: that answer in place of the model's own LLM; None asks that.
    """

    model: VideoLLM
    chain: Chain
    sampling: Sampling
    size: int | None = None
    file_pixels: bool = False
    stream: bool = False
    reinvest: int = 1
    generation: Generation = field(default_factory=Generation)
    system: str = ""
    relevance_model: RelevanceModel | None = None
    servers: Servers | None = None

    @property
    def needs_model_alone(self) -> bool:
        """Whether a stage changes how the model runs while it works, so that nothing else may run meanwhile."""
        stages = self.chain.stages
        between_layers = any(isinstance(stage, InnerStage) and not stage.keeps_positions for stage in stages)
        return self.chain.needs_assistant or between_layers or any(stage.acts is Place.TOWER for stage in stages)


@dataclass(frozen=True)
class DecodedVideo:
    """A video that is ready to be encoded. As a block, it frees what it holds on disk at the end.

    Args:
        askings: the questions about it.
        frames: decoded; with ``stream`` still in their file.
        chain: of the recipe, for these frames.
        sha256: of the file.
        bytes: of the decoded frames.
        held: what is to be closed.
    """

    askings: Sequence[Asking]
    frames: FrameSource
    chain: Chain
    sha256: str
    bytes: int
    held: ExitStack

    def __enter__(self) -> DecodedVideo:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Free what it holds on disk."""
        self.held.close()


def open_asked(recipe: Recipe, askings: Sequence[Asking], take: Callable[[int], None]) -> DecodedVideo:
    """Fetch a video, choose its frames and decode them.

    Args:
        recipe: how.
        askings: the questions about it.
        take: called with the bytes of the frames before they are decoded; may wait for room.

    Raises:
        InputError: the video cannot be fetched or read, or a stage refuses it.
    """
    place = askings[0].clip.place
    with ExitStack() as held:
        if is_url(place):
            path, sha256 = fetch(place, held.enter_context(scratch_folder()))
        else:
            path = Path(place)
            sha256 = ""
        start = time.perf_counter()
        video = open_video(path, recipe.sampling, recipe.size)
        sha256 = sha256 or _sha256(path)
        layout = partial(recipe.model.layout, file_pixels=recipe.file_pixels)
        chain, chosen = for_frames(recipe.chain, video, layout, recipe.reinvest)
        size = 0
        if not recipe.stream:
            for stage in chain.on_tokens:
                stage.steps(layout(chosen), recipe.model.timestamps(chosen))
            size = estimate_bytes(chosen.count, chosen.height, chosen.width)
            take(size)
            chosen = _in_memory(chosen, start)
        return DecodedVideo(askings, chosen, chain, sha256, size, held.pop_all())


def reduced_tokens(recipe: Recipe, video: DecodedVideo, on_progress: Progress) -> list[VideoTokens]:
    """A video's tokens: one for all questions, or one for each where the chain asks.

    Args:
        recipe: how.
        video: decoded.
        on_progress: called with (done, total) frames; may raise to stop.

    Raises:
        InputError: a stage refuses the video.
    """
    model, chain = recipe.model, video.chain
    settings: dict[str, Any] = {"file_pixels": recipe.file_pixels}
    questions = [each.alone for each in video.askings] if chain.needs_question else [""]
    if recipe.stream:
        return [
            stream(model, video.frames, chain.on_tokens, on_progress, question=each, **settings) for each in questions
        ]
    tokens = model.encode(video.frames, on_progress=on_progress, **settings)
    looks: dict[str, Any] = {"relevance_model": recipe.relevance_model, "frames": video.frames}
    return [reduced(model, tokens, chain.after_encoding, each, **looks) for each in questions]


def _in_memory(frames: FrameSource, start: float) -> FrameSource:
    """Frames of a file, decoded, with all that is known of them."""
    if not isinstance(frames, VideoSource):
        return frames
    parts: list[Frames] = list(frames.parts(frames.count))
    seconds = time.perf_counter() - start
    return replace(parts[0], file_s=seconds, clock=frames.clock, choice=frames.choice, more=frames.more)


def _sha256(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise InputError(f"{path.name} cannot be read ({error.strerror}); copy or download it again.") from error
