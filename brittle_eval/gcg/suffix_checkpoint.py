"""What an interrupted search for a suffix leaves behind, and whether it can be gone on from."""

from __future__ import annotations

from pathlib import Path
from string import hexdigits
from typing import Annotated, Any

import torch
from annotated_types import Ge, MinLen
from pydantic import BaseModel, ConfigDict, ValidationError

from brittle_eval.errors import BrittleError
from brittle_eval.gcg.suffix import State


class Checkpoint(BaseModel):
    """What an interrupted search has found out; without a state it has made no step."""

    model_config = ConfigDict(extra="forbid")

    fingerprint: str
    batch_size: Annotated[int, Ge(1)]
    refused: Annotated[list[int], MinLen(1)]
    """The goals that are refused without a suffix."""
    state: State | None = None

    @classmethod
    def read(cls, content: Any, file: Path, goals: int, length: int) -> Checkpoint:
        """From JSON; BrittleError for one that a search for so many tokens over so many goals did not write."""
        try:
            found = cls.model_validate(content)
        except ValidationError as error:
            found, where = None, ".".join(map(str, error.errors()[0]["loc"])) or "all of it"
        else:
            where = "its parts are not of one search"
        if found is None or not found.fits(goals, length):
            raise BrittleError(f"{file} is damaged ({where}): remove it to begin the search again, or give another --output_path")
        return found

    def fits(self, goals: int, length: int) -> bool:
        """Whether a search for so many tokens, over some of so many goals, can have left it."""
        if not set(self.refused) <= set(range(goals)):
            return False
        state = self.state
        return state is None or (
            {len(state.suffix), len(state.best)} == {length}
            and 0 < len(state.losses) == len(state.counts)
            and 1 <= state.active <= len(self.refused)
            and len(state.random) == 2 * len(torch.Generator().get_state())
            and set(state.random) <= set(hexdigits)
        )
