"""Regions to and from safetensors: packed bits and thin factors, with a header that says where they come from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from brittle_eval.errors import BrittleError
from brittle_eval.regions import Mask, Part, Projector, Region
from brittle_eval.streams import Streams

FORMAT = "brittle-eval region 2"
ALONG, BEHIND, KNOWN = "stream/along", "stream/behind", "stream/known/"


def save_region(path: Path, region: Region, header: Mapping[str, Any]) -> None:
    """Write a region whole or not at all; `header` is JSON: plan, options, fingerprint, data digests, versions, sizes.

    Masks are `bits/NAME`, projectors `left/NAME` and `right/NAME`; the metadata's `parts` has their shapes and ranks.
    Directions of the residual stream are `stream/along`, `stream/behind` and `stream/known/NAME`.
    BrittleError where it cannot be written, as on a full disk.
    """
    parts, tensors = _content(region)
    metadata = {"format": FORMAT, "header": json.dumps(header), "parts": parts, "digest": _digest(parts, tensors)}
    # one entry, since safetensors writes several in any order, and the same region shall be the same bytes
    _save(path, tensors, {"region": json.dumps(metadata)}, "region file", 0o644)


def region_digest(region: Region) -> str:
    """Content hash of a region."""
    return _digest(*_content(region))


def _content(region: Region) -> tuple[str, dict[str, Tensor]]:
    """The description of the parts as JSON, and what is stored of them."""
    tensors: dict[str, Tensor] = {}
    for name, piece in region.items():
        tensors |= {f"{role}/{name}": value for role, value in _tensors(piece).items()}
    if (streams := region.streams) is not None:
        tensors |= {ALONG: streams.along, BEHIND: torch.tensor(streams.behind, dtype=torch.int64)}
        tensors |= {f"{KNOWN}{name}": value for name, value in streams.known.items()}
    return json.dumps({name: _described(piece) for name, piece in region.items()}), tensors


def save_private(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors whole or not at all, readable by their owner only; BrittleError where they cannot be written."""
    _save(path, tensors, metadata, "weights", 0o600)


def _save(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], what: str, mode: int) -> None:
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(dict(tensors), part, metadata=dict(metadata))
        part.chmod(mode)
        part.replace(path)
    except (OSError, SafetensorError) as error:
        raise BrittleError(f"cannot write {what} {path}: {error}; free some space or give another --output_path") from error
    finally:
        part.unlink(missing_ok=True)


def _tensors(part: Part) -> dict[str, Tensor]:
    """What is stored of a part, by role; an orthogonal projector's two factors are one."""
    if isinstance(part, Projector):
        return {"left": part.left} | ({} if part.right is None or part.right is part.left else {"right": part.right})
    return {"bits": part.bits if isinstance(part, Mask) else Mask.from_dense(torch.ones(part.shape, dtype=torch.bool)).bits}


def _described(part: Part) -> dict[str, Any]:
    """What the tensors do not say."""
    if isinstance(part, Projector):
        return {"shape": part.shape, "rank": part.inner, "dense": part.right is None, "complement": part.complement}
    return {"shape": part.shape}


def _part(name: str, known: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Part:
    shape = tuple(known["shape"])
    if "rank" not in known:
        return Mask(shape, tensors[f"bits/{name}"])
    left = tensors[f"left/{name}"]
    right = None if known["dense"] else tensors.get(f"right/{name}", left)
    return Projector(shape, left, right, known["rank"], known["complement"])


def _digest(parts: str, tensors: Mapping[str, Tensor]) -> str:
    state = hashlib.blake2b(parts.encode(), digest_size=16)
    for name in sorted(tensors):
        state.update(name.encode() + tensors[name].numpy().tobytes())
    return state.hexdigest()


def load_region(path: Path, fingerprint: str | None = None) -> tuple[Region, dict[str, Any]]:
    """A region and its header; with a fingerprint, a region of another model is refused."""
    try:
        with safe_open(path, framework="pt") as file:
            written = file.metadata() or {}
            metadata = json.loads(written["region"]) if "region" in written else written
            if metadata.get("format") != FORMAT:
                raise BrittleError(f"{path} is no region file ('{FORMAT}'): it says {metadata.get('format')!r}")
            header: dict[str, Any] = json.loads(metadata["header"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if _digest(metadata["parts"], tensors) != metadata["digest"]:
                raise ValueError("its content does not fit its digest")
            parts = {name: _part(name, known, tensors) for name, known in json.loads(metadata["parts"]).items()}
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise BrittleError(f"cannot read region file {path}: {error}; remove it to compute the region again") from None
    if fingerprint is not None and header.get("fingerprint") != fingerprint:
        raise BrittleError(
            f"{path} was found on another model (fingerprint {header.get('fingerprint')}): remove it or use that model"
        )
    return Region(parts, _streams(tensors)), header


def _streams(tensors: Mapping[str, Tensor]) -> Streams | None:
    if ALONG not in tensors:
        return None
    known = {name.removeprefix(KNOWN): value for name, value in tensors.items() if name.startswith(KNOWN)}
    return Streams(tensors[ALONG], tuple(tensors[BEHIND].tolist()), known)
