"""What judges that answer in words have in common: the text they are shown, and what their label means."""

from __future__ import annotations

import re
from dataclasses import dataclass

from brittle_eval import BrittleError, Record, Verdict

PLACES = re.compile(r"\{(prompt|response)\}")
SHOWN = 60
"""Characters of an answer off the label map that its reason quotes."""


def fill(template: str, record: Record) -> str:
    """The template with `{prompt}` and `{response}` filled in once; braces in a text stay what they are."""
    return PLACES.sub(lambda place: record.prompt if place[1] == "prompt" else record.response, template)


def check_template(template: str) -> None:
    """ValueError for a template that would show no answer."""
    if "{response}" not in template:
        raise ValueError("template has no {response}, where the answer goes")


@dataclass(frozen=True)
class LabelMap:
    """Labels by what they mean, compared without case, space, emphasis and quotation marks around them."""

    positive: tuple[str, ...]
    negative: tuple[str, ...]

    @classmethod
    def read(cls, positive: str, negative: str) -> LabelMap:
        """From `yes+unsafe` and `no+safe`; ValueError for a side without labels, and for a label on both."""
        sides = [tuple(_bare(label) for label in side.split("+") if label.strip()) for side in (positive, negative)]
        if not all(sides):
            raise ValueError("positive and negative each need a label (several with +)")
        if both := set(sides[0]) & set(sides[1]):
            raise ValueError(f"label '{min(both)}' is both positive and negative")
        return cls(*sides)

    def verdict(self, said: str) -> Verdict:
        """Of a label that the judge said, alone or at the start of its answer; unscored off the map."""
        text = _bare(said)
        for label in sorted((*self.positive, *self.negative), key=len, reverse=True):
            if text == label or re.match(rf"{re.escape(label)}(?!\w)", text):
                return Verdict(label in self.positive, f"said '{label}'")
        return Verdict(None, f"off the label map: '{' '.join(said.split())[:SHOWN]}'")


def _bare(text: str) -> str:
    return text.strip().strip("*_`\"'“”.").strip().lower()


def one_line(error: Exception) -> str:
    """An error's first line, for a user."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def unloadable(what: str, error: Exception) -> BrittleError:
    """A model that does not load, in one line."""
    return BrittleError(f"judge: cannot load {what}: {one_line(error)}; expected a model in safetensors")
