"""Nodes for a folder of clips: its videos as a list, which the nodes after it go through, and a caption for each."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..aot.batch.captions import Captions
from ..aot.errors import InputError
from ..aot.evaluation.drawn_clip import NUMBER, load_drawn_clip
from ..aot.files import make_folder
from ..aot.text import shown
from ..aot.video.frame_source import FrameSource
from ..aot.video.sampling import Sampling
from ..aot.video.video_source import open_video
from .comfy import advanced, interrupted, io, schema
from .models import watch
from .permissions import FOLDERS, allow_folder
from .places import caption_folder, caption_place, folder_choices, list_clips, resolve_folder
from .progress_text import Said
from .sockets import AOTFrames
from .video import CATEGORY, fewer_input, makers_input, sampling_inputs, sampling_of
from .workflow.requirements import Kind

if TYPE_CHECKING:
    from .models import Loaded

DRAWN = "drawn clips"
"""In place of a folder: clips that need no file."""
DRAWN_CLIPS = tuple(f"drawn clip {number}" for number in range(1, 6))
"""Their names."""
CAPTIONS = "captions"
"""Folder in ComfyUI's output folder that captions go into where nothing else is said."""
KEEP, OVERWRITE = "keep", "overwrite"
_AT_ONCE = 4
"""Frames decoded at one time where a clip is tried."""


def listed(folder: str, pattern: str, subfolders: bool, skip: int) -> list[tuple[str, Path | None]]:
    """The clips that are asked for, each (its name, its file), in order; a drawn clip has no file.

    Args:
        folder: the widget's value.
        pattern: which of them, patterns with commas between; "" takes all.
        subfolders: whether those of folders in it are taken too.
        skip: how many to leave out at the beginning.

    Raises:
        InputError: there is no such folder, or no such clip in it.
    """
    found: list[tuple[str, Path | None]] = [(name, None) for name in DRAWN_CLIPS]
    if folder != DRAWN:
        patterns = [each.strip() for each in pattern.split(",") if each.strip()]
        found = [*list_clips(folder, patterns, below=subfolders)]
    if skip >= len(found):
        raise InputError(f"skip is {skip}, and {folder} has {len(found)} such clips; skip fewer.")
    return found[skip:]


def has_caption(name: str, path: Path | None, captions: str) -> bool:
    """Whether a clip has a caption.

    Args:
        name: of the clip.
        path: of its file; None for a drawn clip.
        captions: folder in the output folder; "" is that of the clip itself.
    """
    if path is None and not captions.strip():
        return False
    return Captions().exists(caption_place(name, captions)[0])


def opened(number: int, path: Path | None, sampling: Sampling, size: int, check: bool) -> FrameSource:
    """A clip whose frames are decoded when a node looks at them; those of a drawn clip are there at once.

    Args:
        number: of a drawn clip.
        path: of the file; None for a drawn clip.
        sampling: which frames.
        size: of the shorter side in pixels; 0 leaves it as it is.
        check: whether to decode its frames once now, and let them go.

    Raises:
        InputError: it cannot be read so.
    """
    if path is None:
        return load_drawn_clip(sampling, size or None, NUMBER + number)
    source = open_video(path, sampling, size or None)
    if check:
        for _ in source.parts(_AT_ONCE):
            interrupted()
    return source


class AOTVideoFolder(io.ComfyNode):
    """The clips of a folder as a list."""

    NEEDS = MappingProxyType({"folder": Kind("folder", lambda name, _: resolve_folder(name), without=(DRAWN,))})

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Its inputs and outputs."""
        folders = folder_choices()
        return schema(
            node_id="AOTVideoFolder",
            display_name="Video Folder (AOT)",
            category=CATEGORY,
            description="Give the videos of a folder as a list: every node after it runs once for each. Frames are "
            "decoded when they are looked at; a file that cannot be read is left out and named.",
            search_aliases=["batch", "directory", "load videos", "many videos", "dataset", "caption folder", "list"],
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=[DRAWN, *folders],
                    default=folders[0] if folders else DRAWN,
                    tooltip="A folder with videos, in ComfyUI's input or output folder, or one that you have allowed "
                    f"in user/{FOLDERS}. 'drawn clips' needs no file: five clips of moving shapes.",
                ),
                io.String.Input(
                    "pattern",
                    default="",
                    tooltip="Which files, by their name or their path in the folder: *.mp4, day1/*. Commas between "
                    "several. Empty takes all videos.",
                ),
                io.Boolean.Input("subfolders", default=True, tooltip="Also the videos of folders in the folder."),
                io.Int.Input(
                    "skip", default=0, min=0, max=10_000_000, tooltip="Clips to leave out at the beginning of the list."
                ),
                io.Int.Input(
                    "limit", default=0, min=0, max=10_000_000, tooltip="At most this many clips; 0 takes all."
                ),
                io.Boolean.Input(
                    "skip_captioned",
                    default=False,
                    tooltip="Leave out clips that have a caption already. With a limit, each run does the next clips.",
                ),
                io.String.Input(
                    "captions",
                    default=CAPTIONS,
                    tooltip="Where skip_captioned looks, the folder of Save Captions: a folder in ComfyUI's output "
                    "folder. Empty: beside the clips.",
                ),
                *sampling_inputs(),
                io.Int.Input(
                    "size",
                    default=0,
                    min=0,
                    max=8192,
                    step=2,
                    tooltip="Length of the shorter side in pixels; proportions stay. 0 leaves the size as it is.",
                ),
                makers_input(),
                fewer_input(default=True),
                advanced(
                    io.Boolean.Input(
                        "check",
                        default=True,
                        optional=True,
                        tooltip="Decode the chosen frames of every clip once beforehand, so that a damaged file is "
                        "left out here and does not end the run later. Off: each file is only opened.",
                    )
                ),
            ],
            outputs=[
                AOTFrames.Output(
                    display_name="video", tooltip="The frames of every clip, in order.", is_output_list=True
                ),
                io.String.Output(
                    display_name="name", tooltip="The name of every clip, for Save Captions.", is_output_list=True
                ),
                io.String.Output(display_name="info", tooltip="How many clips there are, and which were left out."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        folder: str,
        pattern: str,
        subfolders: bool,
        skip: int,
        limit: int,
        skip_captioned: bool,
        captions: str,
        sampling: str,
        frames: int,
        fps: float,
        every: int,
        start: float,
        end: float,
        size: int,
        vllm: Loaded | None = None,
        fewer: bool = True,
        check: bool = True,
    ) -> io.NodeOutput:
        """List, and open each."""
        chosen = sampling_of(sampling, frames, fps, every, start, end, vllm, fewer)
        there = listed(folder, pattern, subfolders, skip)
        todo = [each for each in there if not (skip_captioned and has_caption(*each, captions))]
        if not todo:
            raise InputError(f"All {len(there)} clips of {folder} have a caption; nothing is left to do.")
        total = min(limit, len(todo)) if limit else len(todo)
        said, bar = Said(cls.hidden), watch(total)
        clips: dict[str, FrameSource] = {}
        faults: list[str] = []
        for name, path in todo:
            if len(clips) == total:
                break
            said.step(f"opening {shown(name)}", len(clips), total)
            try:
                clips[name] = opened(skip + len(clips), path, chosen, size, check)
            except InputError as error:
                faults.append(shown(f"{name}: {error}"))
            bar(len(clips), total)
        if not clips:
            raise InputError(f"None of {len(faults)} clips can be read. {faults[0]}")
        captioned = len(there) - len(todo)
        counts = (
            f"{len(clips)} clips of {folder}",
            *([f"{captioned} have a caption"] if captioned else []),
            *([f"{len(faults)} cannot be read and are left out"] if faults else []),
        )
        info = "\n".join((shown("; ".join(counts)), *faults))
        return io.NodeOutput([*clips.values()], [*clips], info, ui={"text": (info, "\n".join(map(shown, clips)))})

    @classmethod
    def validate_inputs(cls, folder: str) -> bool | str:
        """Check before the run that the folder is there. ComfyUI does not check a value named here itself."""
        try:
            if folder is not None and folder != DRAWN:
                resolve_folder(folder)
        except InputError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(
        cls,
        folder: str,
        pattern: str,
        subfolders: bool,
        skip: int,
        skip_captioned: bool,
        captions: str,
        **settings: Any,
    ) -> str:
        """Changes when a file is added, removed or changed, or a caption that counts comes or goes."""
        state = hashlib.sha256()
        for name, path in listed(folder, pattern or "", subfolders, skip or 0):
            status = path.stat() if path is not None else None
            captioned = skip_captioned and has_caption(name, path, captions or "")
            state.update(repr((name, status and (status.st_mtime_ns, status.st_size), captioned)).encode())
        return state.hexdigest()


def written_caption(text: str, name: str, folder: str, captions: Captions, clips: dict[Path, str]) -> tuple[bool, str]:
    """Write a clip's caption.

    Args:
        text: the caption.
        name: of the clip.
        folder: in ComfyUI's output folder; "" is that of the clip itself.
        captions: what is around it, and whether one that is there is replaced.
        clips: the clip of every caption file so far; this one is added.

    Returns:
        Whether it was written, and a line about it.

    Raises:
        InputError: it cannot be written, or another clip has the same file.
    """
    clip, replaceable = caption_place(name, folder)
    path = Captions.path(clip)
    other = clips.setdefault(path, name)
    if other != name:
        raise InputError(f"{other} has the same caption file; rename one of the clips.")
    if not text.strip():
        return False, f"{name}: nothing written, since the text is empty"
    if captions.replace and not replaceable and path.exists():
        return False, f"{path.name}: kept; to have it replaced, {allow_folder(path.parent)}"
    if folder.strip():
        make_folder(path.parent)
    if captions.write(clip, text):
        return True, f"{path.name}: {' '.join(text.split())}"
    return False, f"{path.name}: kept"


class AOTSaveCaptions(io.ComfyNode):
    """A text file for every clip.

    It takes whole lists. ComfyUI would otherwise repeat the last value of a shorter one, so that a clip would get
    another's caption; here lists that do not match are refused.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Its inputs and outputs."""
        return schema(
            node_id="AOTSaveCaptions",
            display_name="Save Captions (AOT)",
            category=CATEGORY,
            description="Write a caption for every clip, clip.txt for clip.mp4, as programs that train on videos read "
            "them: into a folder of ComfyUI's output folder, or beside the clips.",
            search_aliases=["captions", "save text", "txt", "LoRA dataset", "training captions", "batch", "tags"],
            inputs=[
                io.String.Input("text", force_input=True, tooltip="The captions, of Answer: one for every clip."),
                io.String.Input("name", force_input=True, tooltip="The names of the clips, of Video Folder."),
                io.String.Input(
                    "folder",
                    default=CAPTIONS,
                    tooltip="A folder in ComfyUI's output folder; folders that the clips are in are made in it. "
                    "Empty: beside the clips.",
                ),
                io.String.Input(
                    "prefix", default="", tooltip="In front of every caption, as it is: a trigger word and a comma."
                ),
                io.String.Input("suffix", default="", tooltip="After every caption, as it is."),
                io.Combo.Input(
                    "existing",
                    options=[KEEP, OVERWRITE],
                    default=KEEP,
                    tooltip="keep: a caption that is there stays. overwrite: it is written anew; beside clips that "
                    f"are not in the output folder only where user/{FOLDERS} names the folder.",
                ),
            ],
            outputs=[],
            is_input_list=True,
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        text: Sequence[str],
        name: Sequence[str],
        folder: Sequence[str],
        prefix: Sequence[str],
        suffix: Sequence[str],
        existing: Sequence[str],
    ) -> io.NodeOutput:
        """Write those that can be written, and only then say what could not."""
        if len(text) != len(name):
            raise InputError(
                f"There are {len(text)} texts for {len(name)} clips; link a text for every clip, and its name from the "
                "same Video Folder."
            )
        captions = Captions(prefix[0], suffix[0], existing[0] == OVERWRITE)
        lines: list[str] = []
        faults: list[str] = []
        clips: dict[Path, str] = {}
        written = 0
        for words, clip in zip(text, name, strict=True):
            try:
                wrote, line = written_caption(words, clip, folder[0], captions, clips)
            except InputError as error:
                faults.append(shown(f"{clip}: {error}"))
            else:
                written += wrote
                lines.append(shown(line))
        where = f"output/{folder[0]}" if folder[0].strip() else "beside the clips"
        others = f"; {len(lines) - written} not" if len(lines) > written else ""
        summary = shown(f"{written} captions written, {where}{others}")
        if faults:
            raise InputError(f"{summary}; {len(faults)} could not be. {' '.join(faults)}")
        return io.NodeOutput(ui={"text": (summary, "\n".join(lines))})

    @classmethod
    def validate_inputs(cls, folder: Sequence[str]) -> bool | str:
        """Check before the run, not after all answers, that the folder is one that can be written."""
        try:
            if folder[0] and folder[0].strip():
                caption_folder(folder[0])
        except InputError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, **settings: Any) -> float:
        """Always another: the files may have been removed or edited since."""
        return float("nan")


NODES = (AOTVideoFolder, AOTSaveCaptions)
