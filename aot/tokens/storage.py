"""Video tokens as one safetensors file: tensors, the token map's factors, and settings and history as metadata."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import InputError
from ..files import whole_file
from .factors import Blocks, Factor, Picked, Scale, Sparse, Stacked
from .token_map import TokenMap
from .video_tokens import Layout, Role, StageRecord, VideoTokens

FORMAT = "aot-tokens"
VERSION = "2"

TENSORS = ("features", "place", "role", "shallow", "deep", "timestamps")


def save(tokens: VideoTokens, path: Path) -> None:
    """Write ``tokens`` to ``path``, whole or not at all.

    Raises:
        InputError: the folder does not exist or cannot be written.
    """
    tensors = {name: getattr(tokens, name).detach().cpu().contiguous().clone() for name in TENSORS}
    tensors |= {f"levels.{i}": level.detach().cpu().contiguous().clone() for i, level in enumerate(tokens.levels)}
    tensors |= {f"extras.{name}": extra.detach().cpu().contiguous().clone() for name, extra in tokens.extras.items()}
    for i, factor in enumerate(tokens.map.factors):
        factor = factor.joined() if isinstance(factor, Stacked) else factor
        if isinstance(factor, (Sparse, Scale)):
            tensors |= {f"map.{i}.{name}": tensor.cpu().contiguous().clone() for name, tensor in _parts(factor).items()}
            continue
        blocks = factor.merged if isinstance(factor, Picked) else factor
        if isinstance(factor, Picked):
            tensors[f"map.{i}.index"] = factor.index.cpu().contiguous().clone()
        tensors[f"map.{i}.weights"] = blocks.weights.detach().cpu().contiguous().clone()
        tensors[f"map.{i}.rows"] = torch.tensor(blocks.rows)
        tensors[f"map.{i}.cols"] = torch.tensor(blocks.cols)
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "model": tokens.model,
        "layout": json.dumps(dataclasses.asdict(tokens.layout)),
        "pooled": json.dumps(tokens.pooled),
        "history": json.dumps([record.to_dict() for record in tokens.history]),
    }
    with whole_file(path) as temporary:
        save_file(tensors, temporary, metadata)


def load(path: Path) -> VideoTokens:
    """Read what :func:`save` wrote.

    Raises:
        InputError: no such file, a file that is truncated, of another kind or version, or whose tensors cannot
            describe a video.
    """
    tensors, metadata = _read(path)
    if metadata.get("format") != FORMAT or metadata.get("version") != VERSION:
        header = f"{metadata.get('format', 'no format')} version {metadata.get('version', 'unknown')}"
        raise InputError(
            f"{path.name} holds {header} where {FORMAT} version {VERSION} is read; "
            "save the tokens again with this version."
        )
    try:
        stored = json.loads(metadata["layout"])
        layout = Layout(**{**stored, "grid": tuple(stored["grid"])})
        tokens = VideoTokens(
            map=TokenMap(layout.frames * layout.sources, tuple(_factors(tensors))),
            layout=layout,
            pooled=bool(json.loads(metadata["pooled"])),
            model=metadata["model"],
            history=tuple(StageRecord.from_dict(record) for record in json.loads(metadata["history"])),
            levels=tuple(tensors[f"levels.{i}"] for i in range(sum(name.startswith("levels.") for name in tensors))),
            extras={name[7:]: tensors[name] for name in tensors if name.startswith("extras.")},
            kept=None,
            counts=None,
            **{name: tensors[name] for name in TENSORS},
        )
        _check_values(tokens)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(f"{path.name} does not describe a video's tokens ({error}); save the tokens again.") from error
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
    if bool((tokens.map.means.row_mass() - 1).abs().gt(1e-3).any()):
        raise ValueError("rows of the token map do not sum to 1")
