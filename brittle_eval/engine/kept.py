"""Parts of an attribution under way, on disk: an interrupted one goes on behind the last finished group of blocks."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from brittle_eval.regions import Part, Region
from brittle_eval.store import load_region, save_region


class Kept:
    """A folder with one region file for each finished group; it goes when the whole region is there."""

    def __init__(self, folder: Path, header: Mapping[str, Any]) -> None:
        """`header` goes into every file; its `fingerprint` says which model the parts belong to."""
        self.folder, self.header = folder, header

    def load(self) -> dict[str, Part]:
        """The parts that are there; BrittleError where one was found on another model."""
        parts: dict[str, Part] = {}
        for file in sorted(self.folder.glob("*.safetensors")):
            parts.update(load_region(file, self.header["fingerprint"])[0])
        return parts

    def add(self, parts: Mapping[str, Part]) -> None:
        """Keep a group's parts: in a file that is whole, or not there."""
        number = len(list(self.folder.glob("*.safetensors")))
        save_region(self.folder / f"{number:04d}.safetensors", Region(parts), self.header)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
