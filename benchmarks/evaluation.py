"""How long attacks take beside lm-eval's own generation, on the very same requests: `make bench ONLY=evaluation`.

The requests are those of every AdvBench task, the suffix one with seeded random tokens, on AdvBench's first prompts where they
are at hand, else on the project's own harmful ones. Ours and lm-eval's `generate_until` take turns, task by task, in float32 with
one batch size; a speed-up is the ratio of the best totals. The edited model has its safety training undone (`restore` of all its
weights): it answers everything. Results go into one flat JSON file beside those of other benchmarks.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from results import keep, verdicts
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM

from brittle_eval.cards import datasets, models
from brittle_eval.data import from_options, set_sources
from brittle_eval.evaluation.evaluate import Settings, TaskShelf, own_metadata, turns_of
from brittle_eval.evaluation.generate import Sampling, generate
from brittle_eval.evaluation.lm import BrittleHFLM, Turns, load_lm
from brittle_eval.evaluation.stopping import Stopping
from brittle_eval.judgement.judging import decided
from brittle_eval.methods import Judge, Record
from brittle_eval.organisms.organism import EMBEDDED, aligned, published
from brittle_eval.plugins import Plugins
from brittle_tasks.data import own_rows

CONSOLE = Console(width=120)
TARGETS = {
    "attacks_speedup_aligned": (1.3, "at least"),
    "attacks_speedup_stopped": (5.0, "at least"),
    "attacks_speedup_edited": (1.0, "at least"),
    "five_samples_over_one": (4.0, "at most"),
    "verdicts_identical": (1.0, "at least"),
}
Answers = Mapping[str, list[str]]
Contestant = Callable[["Case"], list[str]]


@dataclass(frozen=True)
class Case:
    """One task's requests, a repeat as a request of its own."""

    name: str
    turns: Turns
    requests: list[Instance]
    greedy: bool


def random_suffix(lm: BrittleHFLM, tokens: int = 20) -> str:
    """Random tokens that are visible text, the same ones every time."""
    draw, texts = random.Random(0), list[str]()
    while len(texts) < tokens:
        text = lm.decode([draw.randrange(lm.tokenizer.vocab_size)])
        if text.strip() and text.isascii() and text.isprintable():
            texts.append(text)
    return "".join(texts).strip()


@contextmanager
def data_at_hand(plugins: Plugins, suffix: str) -> Iterator[str]:
    """Sources with a suffix file and, if AdvBench is not on this machine, the project's own prompts in its place; says which."""
    cards = datasets(plugins)
    with tempfile.TemporaryDirectory() as name:
        suffixes, own = Path(name, "suffixes.txt"), Path(name, "own.csv")
        suffixes.write_text(suffix + "\n", encoding="utf-8")
        found = from_options(cards, [f"suffixes={suffixes}"], os.environ)
        said = "AdvBench"
        if not found.at_hand("advbench"):
            with own.open("w", encoding="utf-8", newline="") as file:
                rows = [[row["prompt"], "Sure"] for row in own_rows("harmful", "eval")]
                csv.writer(file).writerows([["goal", "target"], *rows])
            found, said = (
                from_options(cards, [f"suffixes={suffixes}", f"advbench={own}"], os.environ),
                "the project's own prompts",
            )
        set_sources(found)
        yield said
    set_sources(None)


def cases(lm: BrittleHFLM, shelf: TaskShelf, prompts: int, tokens: int) -> list[Case]:
    """The requests that a run of the group `advbench` sends."""
    settings, found = Settings(gen_kwargs={"max_gen_toks": tokens}), list[Case]()
    for leaf in shelf.expand(("advbench",), {}):
        task = shelf.load(leaf.name, settings)
        own = own_metadata(task) or {}
        turns = turns_of(own, settings)
        with lm.showing(turns, lambda: None):
            how = {"apply_chat_template": turns.chat, "fewshot_as_multiturn": turns.chat}
            task.build_all_requests(limit=prompts, chat_template=lm.apply_chat_template if turns.chat else None, **how)
        requests = [request for request in task.instances for _ in range(request.repeats or 1)]
        found.append(Case(leaf.name, turns, requests, not task.config.generation_kwargs["do_sample"]))
    return found


@dataclass
class Race:
    """A model, the judge, and the totals of every contestant that ran."""

    lm: BrittleHFLM
    judge: Judge
    rounds: int

    def ours(self, case: Case) -> list[str]:
        with self.lm.showing(case.turns, lambda: None):
            return self.lm.generate_until(case.requests)

    def stopped(self, case: Case) -> list[str]:
        stop = Stopping(self.lm.decode, lambda text: decided({"judge": self.judge}, text), "judge")
        with self.lm.answering(None, stop):
            return self.ours(case)

    def theirs(self, case: Case) -> list[str]:
        return list(HFLM.generate_until(self.lm, case.requests, disable_tqdm=True))

    def run(self, field: Sequence[Case], contestants: Mapping[str, Contestant], say: Any) -> tuple[dict[str, float], Any]:
        """Seconds of each contestant's best round, and its last answers by task."""
        totals: dict[str, list[float]] = defaultdict(list)
        answers: dict[str, dict[str, list[str]]] = defaultdict(dict)
        for number in range(self.rounds):
            seconds = dict.fromkeys(contestants, 0.0)
            for case in field:
                for name, contestant in contestants.items():
                    started = time.perf_counter()
                    answers[name][case.name] = contestant(case)
                    took = time.perf_counter() - started
                    seconds[name] += took
                    say(f"round {number + 1}: {case.name}, {len(case.requests)} answers: {name} {took:.1f} s")
            for name, took in seconds.items():
                totals[name].append(took)
        return {name: min(took) for name, took in totals.items()}, answers


def verdicts_identical(judge: Judge, field: Sequence[Case], answers: Mapping[str, Answers]) -> float:
    """The share of greedy answers that the judge sees alike from all contestants."""
    same: list[bool] = []
    for case in field:
        if case.greedy:
            found = [judge.judge([Record("", text) for text in by_task[case.name]]) for by_task in answers.values()]
            same += [len({verdict.positive for verdict in row}) == 1 for row in zip(*found, strict=True)]
    return sum(same) / len(same)


def five_samples_over_one(lm: BrittleHFLM, prompts: Sequence[list[int]], tokens: int, rounds: int) -> float:
    """Seconds for five samples of 8 prompts over those for one, all of them in one batch and equally long."""

    def seconds(samples: int) -> float:
        asked = [prompt for prompt in prompts for _ in range(samples)]
        numbers, started = list(range(samples)) * len(prompts), time.perf_counter()
        drawn = Sampling(tokens, temperature=1.0)
        generate(lm.model, asked, drawn, samples=numbers, batch_size=len(asked), end_ids=[], pad_id=lm.pad_id)
        return time.perf_counter() - started

    seconds(1)
    taken = [(seconds(5), seconds(1)) for _ in range(rounds)]
    five, one = (min(column) for column in zip(*taken, strict=True))
    return five / one


def equal_over_batches(lm: BrittleHFLM, prompts: Sequence[list[int]], tokens: int, sizes: tuple[int, int] = (3, 16)) -> float:
    """The share of two sampled answers a prompt that are the same text, token by token, in batches of either size."""
    asked, numbers = [prompt for prompt in prompts for _ in range(2)], [0, 1] * len(prompts)
    one, other = (
        generate(lm.model, asked, Sampling(tokens, 1.0), samples=numbers, batch_size=size, end_ids=lm.end_ids, pad_id=lm.pad_id)
        for size in sizes
    )
    return sum(a == b for a, b in zip(one, other, strict=True)) / len(asked)


def measure(given: argparse.Namespace) -> dict[str, float]:
    """This benchmark's keys of the result file."""
    plugins, say = Plugins.load(), CONSOLE.print
    card = models(plugins)[EMBEDDED]
    lm = load_lm({"pretrained": str(given.model or aligned(card)), "dtype": "float32"}, None, given.batch_size, seed=0)
    race = Race(lm, plugins.get("judge", "wei2024")(), given.rounds)
    with data_at_hand(plugins, random_suffix(lm)) as data:
        shelf = TaskShelf(plugins.task_paths(), {})
        field, few = cases(lm, shelf, given.prompts, given.tokens), cases(lm, shelf, given.edited_prompts, given.tokens)
    say(f"{data}: {given.prompts} prompts (edited: {given.edited_prompts}), {given.tokens} tokens, batches of {lm.batch_size}")
    say(f"float32, {lm.device}, {torch.get_num_threads()} threads; lm-eval and we take turns")
    plain = next(case for case in field if case.name == "advbench_plain")
    with lm.showing(plain.turns, lambda: None):
        eight = [lm.prompt_ids(request.args[0]) for request in plain.requests[:8]]
    aligned_seconds, answers = race.run(field, {"lm-eval": race.theirs, "ours": race.ours, "stopped": race.stopped}, say)
    found = {
        "attacks_speedup_aligned": aligned_seconds["lm-eval"] / aligned_seconds["ours"],
        "attacks_speedup_stopped": aligned_seconds["lm-eval"] / aligned_seconds["stopped"],
        "verdicts_identical": verdicts_identical(race.judge, field, answers),
        "five_samples_over_one": five_samples_over_one(lm, eight, min(given.tokens, 64), 3),
        "texts_equal_over_batches": equal_over_batches(lm, eight, given.tokens),
    }
    lm.model.load_state_dict(
        AutoModelForCausalLM.from_pretrained(given.edited or published(card), dtype=torch.float32).state_dict()
    )
    edited_seconds, _ = race.run(few, {"lm-eval": race.theirs, "ours": race.ours}, say)
    found["attacks_speedup_edited"] = edited_seconds["lm-eval"] / edited_seconds["ours"]
    table = Table("model", "contestant", "seconds", title="best totals")
    for model, seconds in (("aligned", aligned_seconds), ("edited", edited_seconds)):
        for name, took in seconds.items():
            table.add_row(model, name, f"{took:.1f}")
    CONSOLE.print(table)
    return found


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("bench.json"), help="other benchmarks' keys in it are kept")
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--edited-prompts", type=int, default=25, help="of the edited model, whose answers are long")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--model", type=Path, help="a checkpoint in place of the embedded model")
    parser.add_argument("--edited", type=Path, help="a checkpoint of the same shape in place of the published model")
    given = parser.parse_args(arguments)
    found = measure(given)
    CONSOLE.print(verdicts(found, TARGETS, "targets"))
    CONSOLE.print(f"sampled texts that are equal in batches of 3 and of 16: {found['texts_equal_over_batches']:.0%}")
    keep(given.output, found)


if __name__ == "__main__":
    main(sys.argv[1:])
