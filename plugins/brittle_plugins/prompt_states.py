"""The residual stream at the ends of prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Interval

from brittle_eval import BrittleError, HiddenStates, ModelAttribution

if TYPE_CHECKING:
    from brittle_eval import Reader


@dataclass(frozen=True)
class PromptStates(ModelAttribution):
    """`x_b(e, i)`: the residual stream before each block b and behind the last, at the last tokens i of the prompt of example e.

    Taken are the last `positions` tokens; without it all that every prompt ends with, which is what the chat template puts after
    the request. And those of the text `behind`, if there is one, which is read behind every prompt. BrittleError where the
    prompts end with no common token, or where one is shorter than that.
    """

    positions: Annotated[int, Interval(ge=1)] | None = None
    behind: str = ""

    def attribute(self, reader: Reader, behaviour: str) -> HiddenStates:
        count = self.positions or reader.ending
        if count == 0:
            raise BrittleError("the prompts end with no common token, as without a chat template: give positions=1")
        behind = reader.tokens(self.behind)
        return HiddenStates(reader.states(behaviour, count, behind), behind)
