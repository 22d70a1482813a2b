"""Video tokens as one safetensors file: tensors, the token map's factors, and settings and history as metadata."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import InputError
from ..files import parse_json, whole_file
from ..names import require_name
from ..text import all_shown, shown
from .factors import Blocks, Factor, Picked, Scale, Sparse, Stacked
from .given import Given
from .question import Question
from .token_map import TokenMap
from .video_tokens import Inside, Layout, Role, StageRecord, VideoTokens

FORMAT = "aot-tokens"
VERSION = "2"

TENSORS = ("features", "place", "role", "shallow", "deep", "timestamps")

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""Dtypes of features, attention and weights."""

_DTYPES = MappingProxyType(
    dict.fromkeys(("place", "index", "rows", "cols", "row", "col", "shape"), (torch.int64,))
    | {"role": (torch.uint8,), "timestamps": (torch.float64,)}
    | {"given.of": (torch.int64,), "given.timestamps": (torch.float64,)}
)
"""Of all other tensors, by their names or, in the token map, by the ends of their names."""

_WEIGHT = re.compile(r"map\.\d+\.weights?")
"""The token map's entries."""


def save(tokens: VideoTokens, path: Path) -> None:
    """Write ``tokens`` to ``path``, whole or not at all.

    Raises:
        InputError: the folder does not exist or cannot be written.
    """
    tensors = {name: _stored(getattr(tokens, name)) for name in TENSORS}
    tensors |= {f"levels.{i}": _stored(level) for i, level in enumerate(tokens.levels)}
    tensors |= {f"extras.{name}": _stored(extra) for name, extra in tokens.extras.items()}
    for i, factor in enumerate(tokens.map.factors):
        factor = factor.joined() if isinstance(factor, Stacked) else factor
        if isinstance(factor, (Sparse, Scale)):
            tensors |= {f"map.{i}.{name}": tensor.cpu().contiguous().clone() for name, tensor in _parts(factor).items()}
            continue
        blocks = factor.merged if isinstance(factor, Picked) else factor
        if isinstance(factor, Picked):
            tensors[f"map.{i}.index"] = factor.index.cpu().contiguous().clone()
        tensors[f"map.{i}.weights"] = _stored(blocks.weights)
        tensors[f"map.{i}.rows"] = torch.tensor(blocks.rows)
        tensors[f"map.{i}.cols"] = torch.tensor(blocks.cols)
    if tokens.question is not None:
        tensors |= {f"question.{name}": _stored(tensor) for name, tensor in tokens.question.tensors.items()}
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "model": tokens.model,
        "layout": json.dumps(tokens.layout.to_dict()),
        "pooled": json.dumps(tokens.pooled),
        "history": json.dumps([record.to_dict() for record in tokens.history]),
        **({} if tokens.map.exact else {"exact": json.dumps(False)}),
        **_question_metadata(tokens.question),
    }
    if given := tokens.given:
        tensors |= {"given.of": given.of.clone(), "given.timestamps": given.timestamps.clone()}
        about = {"layout": given.layout.to_dict(), "frames": given.frames, "exact": given.exact}
        metadata["given"] = json.dumps(about)
    if tokens.inner:
        metadata["inner"] = json.dumps([each.to_dict() for each in tokens.inner])
    with whole_file(path) as temporary:
        save_file(tensors, temporary, metadata)


def load(path: Path) -> VideoTokens:
    """Read what :func:`save` wrote.

    Raises:
        InputError: no such file, a file that is truncated, of another kind or version, or whose tensors cannot
            describe a video.
    """
    require_name(path, "The file of tokens")
    tensors, metadata = _read(path)
    if metadata.get("format") != FORMAT or metadata.get("version") != VERSION:
        header = f"{metadata.get('format', 'no format')} version {metadata.get('version', 'unknown')}"
        raise InputError(
            f"{path.name} holds {header} where {FORMAT} version {VERSION} is read; "
            "save the tokens again with this version."
        )
    try:
        _check_tensors(tensors)
        layout = _layout(parse_json(metadata["layout"], kind=dict))
        history = parse_json(metadata["history"], kind=list)
        tokens = VideoTokens(
            map=TokenMap(
                layout.frames * layout.sources,
                tuple(_factors(tensors)),
                parse_json(metadata.get("exact", "true")) is True,
            ),
            layout=layout,
            pooled=parse_json(metadata["pooled"]) is True,
            model=shown(metadata["model"]),
            history=tuple(map(_record, all_shown(history))),
            levels=tuple(tensors[f"levels.{i}"] for i in range(sum(name.startswith("levels.") for name in tensors))),
            extras={name[7:]: tensors[name] for name in tensors if name.startswith("extras.")},
            kept=None,
            counts=None,
            question=_question(metadata, tensors),
            given=_given(parse_json(metadata["given"], kind=dict), tensors) if "given" in metadata else None,
            inner=tuple(map(_inside, all_shown(parse_json(metadata.get("inner", "[]"), kind=list)))),
            **{name: tensors[name] for name in TENSORS},
        )
        _check_values(tokens)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise InputError(
            f"{path.name} does not describe a video's tokens ({reason}); save the tokens again."
        ) from error
    return tokens


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, "pt") as stored:
            names = list(stored.keys())
            return {name: stored.get_tensor(name) for name in names}, stored.metadata() or {}
    except FileNotFoundError as error:
        raise InputError(f"No file {path.name}; save tokens there first, or give another name.") from error
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path.name} is truncated or no safetensors file ({error}); save the tokens again."
        ) from error


def _check_tensors(tensors: Mapping[str, Tensor]) -> None:
    """Refuse dtypes that no stage works on, and numbers that are not finite: one of them would spread to all tokens."""
    for name, tensor in tensors.items():
        allowed = _DTYPES.get(name.rpartition(".")[2] if name.startswith("map.") else name, FLOATS)
        if tensor.dtype not in allowed:
            raise ValueError(f"{name} is {_name(tensor.dtype)} and must be {' or '.join(map(_name, allowed))}")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name} holds NaN or infinity")
        if _WEIGHT.fullmatch(name) and bool((tensor < 0).any()):
            raise ValueError(f"{name} holds a weight below 0")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _layout(stored: Mapping[str, Any]) -> Layout:
    if not all(type(side) is int for side in (stored["frames"], *stored["grid"])):
        raise ValueError("its layout has sides that are no whole numbers")
    grids = {name: tuple(stored[name]) for name in ("grid", "smaller") if name in stored}
    return Layout(**{**stored, **grids})


def _given(stored: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Given:
    """The frames that the encoded ones were chosen of."""
    frames, exact = stored["frames"], stored["exact"]
    if type(frames) is not int or type(exact) is not bool:
        raise ValueError("the frames that it was chosen of are no whole number")
    return Given(_layout(stored["layout"]), tensors["given.timestamps"], frames, tensors["given.of"], exact)


def _stored(tensor: Tensor) -> Tensor:
    """A tensor as a file can hold it: on the CPU, and sharing memory with no other."""
    return tensor.detach().cpu().contiguous().clone()


def _question_metadata(question: Question | None) -> dict[str, str]:
    return {} if question is None else {"question": question.text, "question_seconds": str(question.seconds)}


def _question(metadata: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Question | None:
    """The question that travels with the tokens; None where there is none."""
    if "question" not in metadata:
        return None
    own = {name[9:]: tensor for name, tensor in tensors.items() if name.startswith("question.")}
    if not len(own["words"]):
        raise ValueError("its question has no word")
    return Question.from_tensors(shown(metadata["question"]), own, float(metadata.get("question_seconds", 0)))


def _record(values: Any) -> StageRecord:
    """A line of the history, its parts of the kinds that others count with."""
    if not isinstance(values, dict) or not isinstance(values.get("settings"), dict):
        raise ValueError("its history has a line that no stage wrote")
    record = StageRecord.from_dict(values)
    numbers = (record.tokens_in, record.tokens_out, record.elapsed)
    if not isinstance(record.name, str) or not all(isinstance(each, (int, float)) for each in numbers):
        raise ValueError("its history has a line that no stage wrote")
    return record


def _inside(values: Any) -> Inside:
    """A stage that acts inside the LLM."""
    known = isinstance(values, dict) and isinstance(values.get("name"), str)
    if not known or not isinstance(values.get("settings"), dict):
        raise ValueError("it names a stage inside the LLM that no stage wrote")
    return Inside(values["name"], values["settings"])


def _factors(tensors: dict[str, Tensor]) -> list[Factor]:
    count = 1 + max((int(name.split(".")[1]) for name in tensors if name.startswith("map.")), default=-1)
    return [_factor(tensors, f"map.{i}.") for i in range(count)]


def _parts(factor: Sparse | Scale) -> dict[str, Tensor]:
    if isinstance(factor, Scale):
        return {"scale": factor.by}
    shape = torch.tensor([factor.kept, factor.source])
    return {"row": factor.row, "col": factor.col, "weight": factor.weight, "shape": shape}


def _factor(tensors: dict[str, Tensor], prefix: str) -> Factor:
    if prefix + "scale" in tensors:
        return Scale(tensors[prefix + "scale"])
    if prefix + "shape" in tensors:
        kept, source = tensors[prefix + "shape"].tolist()
        row, col, weight = (tensors[prefix + name] for name in ("row", "col", "weight"))
        factor = Sparse(row, col, weight, kept, source)
        factor.require_valid()
        return factor
    rows, cols = (tuple(tensors[prefix + name].tolist()) for name in ("rows", "cols"))
    blocks = Blocks(tensors[prefix + "weights"], rows, cols)
    blocks.require_valid()
    index = tensors.get(prefix + "index")
    if index is None:
        return blocks
    picked = Picked(index, blocks)
    picked.require_valid()
    return picked


def _check_values(tokens: VideoTokens) -> None:
    """Refuse what no stage could have made: places off the grid, unknown roles, rows that are no means."""
    layout = tokens.layout
    height, width = layout.language_grid if tokens.pooled else layout.grid
    limit = torch.tensor([layout.frames, height, width + (1 if layout.newlines else 0)])
    if bool((tokens.place < 0).any() or (tokens.place >= limit).any()):
        raise ValueError("a token stands outside the grid")
    if int(tokens.role.max()) > max(Role):
        raise ValueError("a token has an unknown role")
    if not tokens.pooled:
        _check_pending(tokens)
    if bool((tokens.timestamps.diff() <= 0).any()):
        raise ValueError("its times do not increase")
    if given := tokens.given:
        of = given.of
        if of.ndim != 2 or len(of) != layout.frames or bool((of < 0).any() or (of >= given.layout.frames).any()):
            raise ValueError("it was chosen of frames that there are not")
        if given.timestamps.shape != (given.layout.frames,) or bool((given.timestamps.diff() <= 0).any()):
            raise ValueError("the times of the frames that it was chosen of do not increase")
    if bool((tokens.map.means.row_mass() - 1).abs().gt(1e-3).any()):
        raise ValueError("rows of the token map do not sum to 1")


def _check_pending(tokens: VideoTokens) -> None:
    """Refuse tokens that are still to be pooled unless they are whole frames, each once."""
    layout = tokens.layout
    whole = torch.bincount(tokens.frame, minlength=layout.frames)
    merged = len(tokens.map.factors) == 1
    complete = bool(((whole == layout.sources) | (whole == 0 if merged else whole < 0)).all())
    if not complete or bool((tokens.frame.diff() < 0).any()) or (tokens.map.factors and not merged):
        raise ValueError("pooling is pending, and tokens are missing")
