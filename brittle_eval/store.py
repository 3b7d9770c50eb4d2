"""Regions to and from safetensors: packed bits, with a header that says where they come from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from brittle_eval.errors import BrittleError
from brittle_eval.regions import Mask, Region

FORMAT = "brittle-eval region 1"


def save_region(path: Path, region: Region, header: Mapping[str, Any]) -> None:
    """Write a region whole or not at all; `header` is JSON: plan, options, fingerprint, data digests, versions, sizes.

    BrittleError where it cannot be written, as on a full disk.
    """
    masks = region.masks()
    bits = {name: mask.bits for name, mask in masks.items()}
    shapes = {name: list(mask.shape) for name, mask in masks.items()}
    metadata = {"format": FORMAT, "header": json.dumps(header), "shapes": json.dumps(shapes), "digest": _digest(bits)}
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(bits, part, metadata=metadata)
        part.replace(path)
    except (OSError, SafetensorError) as error:
        raise BrittleError(f"cannot write region file {path}: {error}; free some space or give another --output_path") from error
    finally:
        part.unlink(missing_ok=True)


def _digest(bits: Mapping[str, Tensor]) -> str:
    state = hashlib.blake2b(digest_size=16)
    for name in sorted(bits):
        state.update(name.encode() + bits[name].numpy().tobytes())
    return state.hexdigest()


def load_region(path: Path, fingerprint: str | None = None) -> tuple[Region, dict[str, Any]]:
    """A region and its header; with a fingerprint, a region of another model is refused."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise BrittleError(f"{path} is no region file ('{FORMAT}'): it says {metadata.get('format')!r}")
            header: dict[str, Any] = json.loads(metadata["header"])
            shapes = json.loads(metadata["shapes"])
            bits = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if _digest(bits) != metadata["digest"]:
                raise ValueError("its content does not fit its digest")
            parts = {name: Mask(tuple(shapes[name]), value) for name, value in bits.items()}
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise BrittleError(f"cannot read region file {path}: {error}; remove it to compute the region again") from None
    if fingerprint is not None and header.get("fingerprint") != fingerprint:
        raise BrittleError(
            f"{path} was found on another model (fingerprint {header.get('fingerprint')}): remove it or use that model"
        )
    return Region(parts), header
