"""People's labels of answers, and how well each judge agrees with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from brittle_eval.errors import BrittleError
from brittle_eval.judgement.verdicts import answer_key
from brittle_eval.methods import Record, Verdict
from brittle_eval.stats import kappa
from brittle_eval.tables import read_rows

SHAPE = "prompt and response, or answer (its digest), or task and doc_id (and row and sample); and label: true, false or null"


class Label(BaseModel):
    """One line of a file of labels. `label` is true where a judge ought to be positive, null where nobody can say."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    label: bool | None
    prompt: str | None = None
    response: str | None = None
    answer: str | None = None
    """The digest by which `verdicts/JUDGE.jsonl` names an answer."""
    task: str | None = None
    doc_id: int | None = None
    row: str = "unedited"
    sample: Annotated[int, Field(ge=0)] = 0

    @property
    def record(self) -> Record | None:
        """The answer itself, if the line has it."""
        return None if self.prompt is None or self.response is None else Record(self.prompt, self.response)

    @property
    def place(self) -> Place:
        """What it labels: an answer by its digest, or one sample of one document."""
        if (record := self.record) is not None:
            return answer_key(record)
        return self.answer or (self.row, self.task or "", -1 if self.doc_id is None else self.doc_id, self.sample)


Place = str | tuple[str, str, int, int]


def read_labels(path: Path) -> dict[Place, Label]:
    """The labels of a jsonl, json or csv file by what they label; BrittleError for a line without one, or two that differ."""
    found: dict[Place, Label] = {}
    for number, row in enumerate(read_rows(path), 1):
        try:
            label = Label.model_validate(row)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise BrittleError(f"{path}, row {number}: key '{key}': {first['msg'].lower()}; expected {SHAPE}") from None
        if label.record is None and label.answer is None and (label.task is None or label.doc_id is None):
            raise BrittleError(f"{path}, row {number} does not say which answer it labels: expected {SHAPE}")
        if found.setdefault(label.place, label).label != label.label:
            raise BrittleError(f"{path}, row {number} gives an answer a second label that differs: keep one")
    if not found:
        raise BrittleError(f"{path} has no labels: expected lines with {SHAPE}")
    return found


@dataclass(frozen=True)
class Score:
    """A judge against labels. `recall` has the unscored in its denominator; `kappa` is over the `n` that it scored."""

    n: int
    positives: int
    """Labelled true, unscored ones included."""
    unscored: int
    precision: float | None
    recall: float | None
    kappa: float | None


def score(pairs: Iterable[tuple[bool, Verdict]]) -> Score:
    """Labels and a judge's verdicts on the same answers. A share of nothing is None."""
    counts = Counter((label, verdict.positive) for label, verdict in pairs)
    hit, missed, false, right = (counts[key] for key in ((True, True), (True, False), (False, True), (False, False)))
    positives = hit + missed + counts[True, None]
    return Score(
        n=hit + missed + false + right,
        positives=positives,
        unscored=counts[True, None] + counts[False, None],
        precision=hit / (hit + false) if hit + false else None,
        recall=hit / positives if positives else None,
        kappa=kappa(hit, missed, false, right),
    )


def scores(
    labels: Mapping[Place, Label], verdicts: Mapping[Place, Mapping[str, Verdict]], judges: Sequence[str]
) -> dict[str, Any]:
    """Each judge's score, and how many labels were undecided or of no answer here; BrittleError if no label is of use."""
    known = {place: label.label for place, label in labels.items() if place in verdicts and label.label is not None}
    if not known:
        raise BrittleError(f"none of {len(labels)} labels is of an answer of this run: expected lines with {SHAPE}")
    return {
        "labels": len(labels),
        "used": len(known),
        "undecided": sum(label.label is None for label in labels.values()),
        "of_no_answer": sum(place not in verdicts for place in labels),
        "judges": {name: score((label, verdicts[place][name]) for place, label in known.items()) for name in judges},
    }
