"""The contracts: Attribution, Isolation, Modification, Judge. A method is a frozen dataclass; its fields are its options.

Methods never touch devices, files, seeds, traversal or lm-eval: the driver hands them tensors and takes tensors back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Interval

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from brittle_eval.reading import Reader
    from brittle_eval.regions import Part, Region
    from brittle_eval.scores import HiddenStates, Scored
    from brittle_eval.units import Unit, UnitKind

Share = Annotated[float, Interval(ge=0, le=1)]
"""The type of an option that is a fraction in [0, 1]."""

Ranks = Annotated[float, Interval(ge=0, lt=math.inf), "a number of ranks, or below 1 a fraction of them"]
"""The type of an option that `Directions.count` reads: a number of ranks, or, below 1, a fraction of each weight's own."""


class Unverified:
    """The class of `UNVERIFIED`."""


UNVERIFIED = Unverified()
"""In an option's `Annotated` type: where its default comes from has not been seen. `show` and the row say so."""


@dataclass(frozen=True)
class Weight:
    """One weight as methods see it: always (out, in), whatever the module stores."""

    name: str
    """Stable address, such as `model.layers.3.mlp.up_proj.weight`."""
    block: int
    """Decoder block, from 0."""
    value: Tensor
    """(out, in), in the model's dtype."""
    base: Tensor | None
    """The base model's value (out, in), if the method needs it and a base model was given."""
    generator: torch.Generator
    """Seeded from the run's seed and the weight's name."""


@dataclass(frozen=True)
class Seen:
    """What one batch of a behaviour's examples showed of one weight, at the response tokens, or where the method looks (`at`).

    `inputs` and `outputs` are shared with others: read them only. Copy what you keep.
    """

    inputs: Tensor
    """(tokens, in): what entered the weight."""
    outputs: Tensor | None
    """(tokens, out): what left it, without the bias, if the method needs outputs."""
    example: Tensor
    """(tokens,): the number of the example that each token belongs to."""
    weight_grad: Tensor | None
    """(out, in), float32: gradient of one example's mean response loss, if the method needs gradients; then the batch is that
    example. The next one comes in the same memory: work in it as you like, and copy what you keep.
    """


class Attribution:
    """Which weights carry a behaviour: a score (out, in) for every weight; higher is more important.

    `start` makes the state of one weight and behaviour, `update` adds a batch, `finish` turns it into scores. What `start`
    allocates is what `--memory` counts. Scores must be finite. One that `gives` "directions" finishes with `Directions`, one
    that gives "example-inputs" with `ExampleInputs`.

    With `shares`, weights that read the very same input keep one state: `start(weight, *beside)` gets them all, `update`
    is called once a batch with what the first one showed, and `finish`, which must leave the state as it is, for each.
    """

    gives: ClassVar[str] = "weight-scores"
    shares: ClassVar[bool] = False
    at: ClassVar[Literal["responses", "prompt-ends"]] = "responses"
    """Where it looks: at the response tokens, or at the last token of each example's prompt (only without gradients)."""

    @property
    def needs(self) -> frozenset[Literal["inputs", "outputs", "gradients", "base"]]:
        """What it must be shown, a class attribute or by its options; a method with no need but `base` sees no data."""
        return frozenset()

    def start(self, weight: Weight) -> Any:
        return None

    def update(self, state: Any, seen: Seen) -> Any:
        return state

    def finish(self, state: Any, weight: Weight) -> Scored:
        raise TypeError(f"{type(self).__name__} defines no finish(state, weight)")


class ModelAttribution(Attribution):
    """What the whole model shows of a behaviour: asked once a behaviour, for isolations that look at more than weights."""

    gives: ClassVar[str] = "hidden-states"
    needs = frozenset({"inputs"})

    def attribute(self, reader: Reader, behaviour: str) -> HiddenStates:
        raise TypeError(f"{type(self).__name__} defines no attribute(reader, behaviour)")


def _no_reader(*given: object) -> Any:
    raise TypeError("there is a reader for isolations that take what a ModelAttribution gives")


@dataclass(frozen=True)
class Tuning:
    """What a modification that trains may ask for."""

    tokenizer: PreTrainedTokenizerBase
    pad_id: int
    seed: int
    """The run's."""
    examples: Callable[[str, int, int], Sequence[Any]]
    """`examples(behaviour, count, seed)`: so many of its pairs, for `fine_tune`; of one seed, few are among many."""
    progress: Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
    """`with progress(what, steps) as advance: advance(1)`."""
    say: Callable[[str], None]
    memory: int
    """Bytes, above which what is kept of a model goes to disk."""
    folder: Path
    """For checkpoints, of this training alone; it goes when the run is done."""
    start: Mapping[str, Tensor] = field(default_factory=dict)
    """Every weight (out, in) by name as it is when the training begins; read only."""
    now: Mapping[str, Tensor] = field(default_factory=dict)
    """The same as it is now, in the model's own memory: what is written there is written in the model."""
    attribute: Callable[[Attribution, Sequence[Any]], Mapping[str, Tensor]] = _no_reader
    """`attribute(method, examples)`: scores (out, in) of every weight of the model as it is now; none of unreached experts."""
    noted: dict[str, Any] = field(default_factory=dict)
    """What the trainings of a chain gave as worth noting, by modification; the driver fills it for the row."""


@dataclass(frozen=True)
class Context:
    """What an isolation or a modification may ask for beside its arguments."""

    generator: Callable[[str], torch.Generator]
    """A random stream for a name, seeded from the run's seed and that name."""
    weights: Callable[[Literal["base", "before", "donor"]], Mapping[str, Tensor]]
    """Other values by weight name, read lazily: of the base model, from before the chain's first modification, of the donor."""
    units: Callable[[UnitKind], Sequence[Unit]] = lambda kind: ()
    """The model's query heads or MLP channels, in its order; those of a layout that is not known are not among them."""
    reader: Callable[[], Reader] = _no_reader
    """The unedited model, for isolations that take what a `ModelAttribution` gives."""
    modified: Callable[[Mapping[str, Part], Modification], AbstractContextManager[object]] = _no_reader
    """Within `with context.modified(parts, modification):` the reader reads the model so modified; afterwards it is undone."""
    note: Callable[[str], None] = lambda line: None
    """Says a line about what was found; it stands in the run's output and in its `coverage.json`."""
    tuning: Tuning | None = None
    """For modifications that train; None where nothing may train."""


class Isolation:
    """Which of the important weights to take: from scores by behaviour and weight to a part of every weight.

    `reach` says how much must be seen at once: the driver calls `isolate` with the scores of one weight, one
    block's weights, or all.
    """

    takes: ClassVar[frozenset[str]] = frozenset({"weight-scores"})
    gives: ClassVar[frozenset[Literal["weights", "directions"]]] = frozenset({"weights"})
    """What its regions have: parts of weights, directions of the residual stream (`Region.streams`), or both."""

    @property
    def reach(self) -> Literal["weight", "block", "model"]:
        return "weight"

    @property
    def behaviours(self) -> tuple[str, ...]:
        """The behaviours whose scores it asks for."""
        return ("safety",)

    def isolate(self, scores: Mapping[str, Any], context: Context) -> Mapping[str, Part]:
        """`scores[behaviour][weight name]` is (out, in), float32, `Directions` or `ExampleInputs`; gives a part for each name.

        Of a `ModelAttribution` `scores[behaviour]` is what it gave. One that gives directions returns a `Region`. Other
        isolations may look at the same scores: read them only.
        """
        raise TypeError(f"{type(self).__name__} defines no isolate(scores, context)")


class Modification:
    """What is done to the region: `edit`, a pure function of a weight and its part, or `apply`, which trains the model."""

    needs: ClassVar[frozenset[Literal["base", "before", "donor"]]] = frozenset()
    changes: ClassVar[Literal["weights", "activations"]] = "weights"
    """A `HookModification` changes activations."""

    @property
    def trains(self) -> bool:
        """Whether it defines `apply`."""
        return type(self).apply is not Modification.apply

    @property
    def asks_region(self) -> bool:
        """Whether what it trains depends on the region; if not, one training serves a plan and its controls."""
        return True

    @property
    def attack(self) -> Modification | None:
        """The bare training that it holds back, itself where it holds nothing; None for what attacks nothing.

        What is said of a chain rests on it: where the bare training of the same run does too little, nothing is said.
        """
        return None

    @property
    def course(self) -> Modification:
        """What its steps depend on: equal for trainings that differ in where they stop, so that one goes on behind another."""
        return self

    def edit(self, weight: Weight, part: Part, context: Context) -> Tensor:
        """The new value (out, in), computed in float32; the driver casts once and undoes it later."""
        raise TypeError(f"{type(self).__name__} defines no edit(weight, part, context)")

    def apply(self, model: PreTrainedModel, region: Region, context: Context) -> Mapping[str, Any]:
        """Train the model, in place and in float32; gives what is worth noting, as JSON. `context.tuning` is there.

        The driver casts once, keeps the result, and undoes it later, modules and `requires_grad` included.
        """
        raise TypeError(f"{type(self).__name__} defines no apply(model, region, context)")


@dataclass(frozen=True)
class Record:
    """One stored answer, as a judge sees it."""

    prompt: str
    """The request without template."""
    response: str
    """The answer's text; with thinking removed where the model thinks."""
    cut: bool = False
    """Whether it was stopped because the run's judges had decided: only a judge that is `final` on it can judge it."""


@dataclass(frozen=True)
class Verdict:
    """`positive` is what the judge counts (its `counts` says what), or None: unscored, for the reason given."""

    positive: bool | None
    reason: str = ""


class Judge:
    """Reads stored answers, after the target model is done."""

    version: ClassVar[str] = "1"
    separate: ClassVar[bool] = False
    """Whether it loads a model or asks a server: then `brittle-eval judge` uses it, when the target model is gone."""
    at_once: ClassVar[int] = 64
    """Records that it is handed at a time; an interrupted `brittle-eval judge` repeats at most so many."""
    free: ClassVar[frozenset[str]] = frozenset()
    """Options (fields) that change no verdict, such as a batch size: verdicts made with other values of them are kept."""

    @property
    def counts(self) -> str:
        """The column's heading: what a positive verdict says of an answer. Only a harmfulness judge may say "harmful"."""
        return "not refused"

    @property
    def time_limit(self) -> float | None:
        """Seconds that one call of `judge` may take; None: it keeps to limits of its own."""
        return 600.0

    @property
    def host(self) -> str | None:
        """Where it sends answers, or None if they stay on this machine; the user must name it with --send-answers-to."""
        return None

    def ready(self) -> None:
        """Load what judging needs, before the first call; it may take as long as it likes."""

    def judge(self, records: Sequence[Record]) -> list[Verdict]:
        """One verdict a record, in order."""
        raise TypeError(f"{type(self).__name__} defines no judge(records)")

    def final(self, prefix: str) -> Verdict | None:
        """The verdict that no continuation of this answer can change, or None."""
        return None

    def segment(self, record: Record) -> str | None:
        """The beginning of a refusal, up to where it has refused; None for no refusal, and from a judge that cannot say."""
        return None
