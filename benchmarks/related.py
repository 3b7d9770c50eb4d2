"""What the related systems cost beside a bare evaluation: `make bench ONLY=related`.

`steering_overhead` is what steering as in `scans` adds to the time of generating answers, its look at each prompt included, as a
share of it: the same prompts with and without hooks take turns, and the ratio is of the best of each. Answers have one length,
since steering changes where they end. `landscape_overhead` is what a landscape of 21 points takes beyond 21 evaluations, as a
share of them: its edits, their undoing, and everything else of the run but its opening. Results go into one flat JSON file beside
those of other benchmarks.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from attribution import embedded, random_model
from peak import examples as random_examples
from peak import model_of
from results import keep, verdicts
from rich.console import Console
from transformers import PreTrainedModel

from brittle_eval import Region, Streams
from brittle_eval.behaviour.calibration import Example
from brittle_eval.engine.steering import steered
from brittle_eval.evaluation.evaluate import parse_arguments
from brittle_eval.evaluation.generate import Sampling, generate
from brittle_eval.running.prepare import Options, prepare
from brittle_eval.running.record import RunFolder
from brittle_eval.running.run import Production, configuration, open_session
from brittle_eval.weights import Fingerprint, decoder_blocks, find_weights
from brittle_plugins.steer import Steer

CONSOLE = Console(width=120)
TARGETS = {"steering_overhead": (0.10, "at most"), "landscape_overhead": (0.05, "at most")}
NO_END = (1 << 30,)


def streams(model: PreTrainedModel) -> Streams:
    """Random directions behind a third of the blocks, as SCANS steers 10 of 32."""
    blocks, width = len(decoder_blocks(model)), model.config.get_text_config().hidden_size
    generator = torch.Generator().manual_seed(0)
    along, reference = (torch.randn(rows, width, generator=generator) for rows in (blocks + 1, blocks))
    first = blocks // 3
    along[: first + 1], along[2 * first + 1 :] = 0, 0
    known = {"reference": reference, "first": torch.tensor(float(first)), "threshold": torch.tensor(0.0)}
    return Streams(along / width**0.5, (5,), known)


def steering(model: PreTrainedModel, prompts: Sequence[list[int]], pad_id: int, given: argparse.Namespace) -> dict[str, float]:
    """Seconds with and without hooks, in turns."""
    addresses, fingerprint, directions = find_weights(model)[0], Fingerprint(model), Region({}, streams(model))
    times: dict[str, list[float]] = defaultdict(list)

    def hooks() -> AbstractContextManager[None]:
        return steered(model, addresses, directions, [Steer(alpha=0.1)], fingerprint)

    for _ in range(given.rounds):
        for name, around in (("plain", nullcontext), ("steered", hooks)):
            with around():
                started = time.perf_counter()
                ends = {"end_ids": NO_END, "pad_id": pad_id}
                generate(model, prompts, Sampling(given.new_tokens), batch_size=given.batch_size, **ends)
                times[name].append(time.perf_counter() - started)
    CONSOLE.print(
        f"{len(prompts)} prompts, {given.new_tokens} new tokens, batches of {given.batch_size}, {given.rounds} rounds, "
        f"{torch.get_num_threads()} threads: "
        + "; ".join(f"{name} {', '.join(f'{one:.2f}' for one in own)} s" for name, own in times.items())
    )
    return {"steering_overhead": min(times["steered"]) / min(times["plain"]) - 1}


def landscape(given: argparse.Namespace) -> dict[str, float]:
    """A run of the curve's points, without its opening and the unedited model."""
    alphas = [round(-0.5 + step / (given.points - 1), 3) for step in range(given.points)]
    options = Options(
        model_args=parse_arguments(given.model_args) if given.model_args else None,
        modify=tuple(f"perturb:alpha={alpha}" for alpha in alphas),
        tasks=tuple(given.tasks.split(",")),
        controls="none",
        batch_size=given.batch_size,
        limit=given.limit,
    )
    with tempfile.TemporaryDirectory() as name:
        prepared = prepare(options)
        folder = RunFolder(Path(name, "run"), configuration(prepared))
        with folder.opened():
            production = Production(prepared, open_session(prepared, folder, CONSOLE.print), folder, lambda line: None)
            started = time.monotonic()
            unedited, *edited = production.finish()
            wall = time.monotonic() - started - unedited.seconds
    edits = sum(production.edit_seconds.values())
    evaluations = sum(row.seconds for row in edited) - edits
    CONSOLE.print(f"{given.points} points in {wall:.1f} s: evaluations {evaluations:.1f} s, edits and undoing {edits:.1f} s")
    return {"landscape_overhead": wall / evaluations - 1}


def prompts_of(data: Sequence[Example]) -> list[list[int]]:
    return [list(example.ids[: example.start]) for example in data]


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("bench.json"), help="other benchmarks' keys in it are kept")
    parser.add_argument("--model-args", help="of the landscape, in place of the embedded model")
    parser.add_argument("--random", action="store_true", help="random weights in the embedded model's shape, for steering")
    parser.add_argument("--smoke", action="store_true", help="a tiny model for steering: whether it runs, no measurement")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--points", type=int, default=21, help="of the landscape; what a point costs does not depend on it")
    parser.add_argument("--tasks", default="embedded_harmful", help="of the landscape")
    parser.add_argument("--limit", type=float)
    parser.add_argument("--only", choices=["steering", "landscape"])
    given = parser.parse_args(arguments)
    found: dict[str, float] = {}
    if given.only != "landscape":
        if given.smoke:
            model, data, pad_id = model_of(4.3e6, torch.float32), random_examples(given.prompts, random.Random(0), scale=4), 0
        else:
            model, data, pad_id = (random_model if given.random else embedded)(given.prompts)
        found |= steering(model.eval(), prompts_of(data), pad_id, given)
    if given.only != "steering":
        found |= landscape(given)
    CONSOLE.print(verdicts(found, TARGETS, "targets"))
    keep(given.output, found)


if __name__ == "__main__":
    main(sys.argv[1:])
