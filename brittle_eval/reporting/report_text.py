"""What a report says beside its numbers: the limits of the method that apply, and the command that makes the source again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from brittle_eval.reporting import measured
from brittle_eval.reporting.report_source import Source
from brittle_eval.running.command import command_line

EMBEDDED = "embedded"
FEW = 100
"""Below so many prompts the intervals are said to be wide."""


def command(source: Source) -> str | None:
    """The command of a run, or of the run that a probe's or a landscape's rows are, from its configuration; None for a sweep."""
    return command_line(source.config) or None


def limits(source: Source) -> list[str]:
    """What must not be concluded from this source."""
    return [*_of_judges(source), *_of_numbers(source), *_of_regions(source), *_of_selection(source)]


def _of_judges(source: Source) -> Iterator[str]:
    judges: dict[str, Mapping[str, Any]] = {name: judge for row in source.rows for name, judge in row.judges.items()}
    yield (
        "“Answered” means not refused and coherent. It does not mean that an answer is harmful, right or useful: no number of "
        "this page says that unless it names a judge of harm."
    )
    if "wei2024" in judges or any("judge_wei2024" in task.values for row in source.rows for task in row.tasks):
        yield "wei2024 is the paper's phrase rule: babbling without a refusal phrase passes it."
    for name in [name for name, judge in judges.items() if judge.get("verified") is False]:
        yield f"The judge {name} is unverified: this project has never run it."


def _of_numbers(source: Source) -> Iterator[str]:
    rates = [found for row in source.rows for task in measured.attacks([row]) if (found := measured.answered(row, task))]
    if rates and (least := min(one.n for one in rates)) < FEW:
        yield f"There are as few as {least} prompts to a rate, so intervals are wide and small effects cannot be seen."
    yield (
        "Intervals are 95 % and of the draw of prompts only. Other calibration pairs, seeds, decoding settings or system "
        "prompts would move the numbers further than they show."
    )
    if not any(measured.refused(row) for row in source.rows):
        yield "Over-refusal was not measured: no task of harmless prompts was run."
    if any(row.limited for row in source.rows):
        yield "Some rows come from a limited run (--limit) and cannot be compared with full ones."
    if any(task.values.get("cut") for row in source.rows for task in row.tasks):
        yield "Some answers were cut once their verdict was decided; whether they would have become degenerate is not known."
    yield "Perplexity and KL are taken on answers of the unedited model; they say how far a model moved, not that it got worse."


def _of_regions(source: Source) -> Iterator[str]:
    yield (
        "A region that changes refusals when it is edited is not the only one that does, and not where safety “is”. "
        "Controls are matched in size, or in size and |W|, and in nothing else."
    )
    if not any(row.kind == "control" for row in source.rows):
        yield "No controls were run: no effect on this page can be put down to the choice of the region."
    if any(row.model == EMBEDDED for row in source.rows):
        yield "The embedded model is small and was taught to refuse by this project: what holds for it need not hold for others."


def _of_selection(source: Source) -> Iterator[str]:
    if len(source.edits()) > 1:
        yield "Of several edits the best looks better than it is. p-values are Holm-corrected within a run only."
    if source.kind == "probe":
        yield "B50 depends on p, on the order of the scores, on ε and on the sizes tried; rates need not rise with size."
    if source.kind == "landscape":
        yield (
            "VISAGE depends on how far the steps go, on how many there are, on what is counted and on the random direction; "
            "where a step breaks the model, its babble has no refusal in it."
        )


def digests(source: Source) -> list[Sequence[str]]:
    """What identifies the inputs: configuration, weights of every row, data, behaviours."""
    found = [["configuration", source.digest]] if source.digest else []
    found += [["adapter of the embedded model", str(source.config["adapter"])]] if source.config.get("adapter") else []
    found += [[f"data set {name}", digest] for name, digest in {k: v for row in source.rows for k, v in row.data.items()}.items()]
    given = source.config.get("behaviour_digests")
    found += [[f"behaviour {name}", str(digest)] for name, digest in (given if isinstance(given, Mapping) else {}).items()]
    return [*found, *([f"weights of {row.name}", row.fingerprint] for row in source.rows)]
