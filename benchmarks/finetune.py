"""What holding a region costs a fine-tune, in time and in memory: `make bench ONLY=finetune`.

Every contestant trains in a process of its own, in turns: in full, in full with a packed random mask frozen, by LoRA, and by LoRA
with that mask. Seconds are those of the training alone, the best of all rounds; the peak is the process's own (`VmHWM` of
Linux, reset after loading), with the model, its snapshot and everything else in it. The time of LoRA is that of all its epochs.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from attribution import embedded, random_model
from peak import examples as random_examples
from peak import model_of, resident
from results import keep, verdicts
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel

from brittle_eval.behaviour.calibration import Example
from brittle_eval.methods import Context, Tuning
from brittle_eval.regions import Mask, Region
from brittle_eval.tuning.trained import in_training, snapshot
from brittle_eval.weights import Fingerprint, find_weights
from brittle_plugins.finetune import Finetune

CONSOLE = Console(width=120)
TARGETS = {
    "masked_finetune_over_plain": (1.1, "at most"),
    "masked_finetune_peak_over_plain": (1.1, "at most"),
    "lora_finetune_seconds": (300.0, "at most"),
}
CONTESTANTS = {
    "plain": Finetune(epochs=1),
    "masked": Finetune(epochs=1, region="freeze"),
    "lora": Finetune(epochs=1, lora_rank=8),
    "masked-lora": Finetune(epochs=1, lora_rank=8, region="freeze"),
}
EPOCHS = 5
"""Of a whole fine-tune; contestants train for one."""
SHARE = 0.5
"""Of the entries of every weight that are frozen."""


def train(name: str, model: PreTrainedModel, examples: list[Example], pad_id: int) -> dict[str, float]:
    """Seconds and peak bytes of one contestant's training."""
    generator = torch.Generator().manual_seed(0)
    shapes = {address.name: address.view(model).shape for address in find_weights(model)[0]}
    region = Region({key: Mask.from_dense(torch.rand(shape, generator=generator) < SHARE) for key, shape in shapes.items()})
    settings = replace(CONTESTANTS[name], n=len(examples))
    with tempfile.TemporaryDirectory() as folder:
        progress: Any = lambda what, steps: nullcontext(lambda done: None)  # noqa: E731
        tuning = Tuning(Any, pad_id, 0, lambda *_: examples, progress, print, 2**40, Path(folder))  # type: ignore[arg-type]  # nothing asks the tokenizer
        context = Context(lambda key: generator, lambda which: {}, tuning=tuning)
        Path("/proc/self/clear_refs").write_text("5")
        with snapshot(model, context, Fingerprint(model)) as known, in_training(model):
            own = replace(context, tuning=replace(tuning, start=known.weights(find_weights(model)[0])))
            started = time.perf_counter()
            settings.apply(model, region, own)
            return {"seconds": time.perf_counter() - started, "peak": resident("VmHWM")}


def contestant(name: str, given: argparse.Namespace) -> dict[str, float]:
    """The same in a process of its own."""
    flags = [flag for flag, on in (("--smoke", given.smoke), ("--random", given.random)) if on]
    command = [sys.executable, __file__, f"--one={name}", f"--pairs={given.pairs}", *flags]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def ratios(times: dict[str, list[float]], peaks: dict[str, list[float]]) -> dict[str, float]:
    """The keys of bench.json, from the best of each."""
    best = {name: min(values) for name, values in times.items()}
    least = {name: min(values) for name, values in peaks.items()}
    return {
        "masked_finetune_over_plain": best["masked"] / best["plain"],
        "masked_finetune_peak_over_plain": least["masked"] / least["plain"],
        "masked_lora_over_lora": best["masked-lora"] / best["lora"],
        "lora_finetune_seconds": EPOCHS * best["lora"],
    }


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("bench.json"))
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--random", action="store_true", help="random weights in the embedded model's shape")
    parser.add_argument("--smoke", action="store_true", help="a tiny model, once through: whether it runs, no measurement")
    parser.add_argument("--one", choices=CONTESTANTS, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.one and given.smoke:
        data = random_examples(4, random.Random(0), scale=4)
        print(json.dumps(train(given.one, model_of(4.3e6, torch.float32), data, 0)))
        return
    if given.one:
        model, found, pad_id = (random_model if given.random else embedded)(given.pairs)
        print(json.dumps(train(given.one, model, found, pad_id)))
        return
    times: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    peaks: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for _ in range(1 if given.smoke else given.rounds):
        for name in CONTESTANTS:
            one = contestant(name, given)
            times[name].append(one["seconds"])
            peaks[name].append(one["peak"])
    table = Table("one epoch", "best, s", "worst, s", "peak, GiB", title=f"{given.pairs} pairs, batches of {Finetune().batch}")
    for name in CONTESTANTS:
        table.add_row(name, f"{min(times[name]):.2f}", f"{max(times[name]):.2f}", f"{min(peaks[name]) / 2**30:.2f}")
    CONSOLE.print(table)
    values = ratios(times, peaks)
    CONSOLE.print(verdicts(values, TARGETS, "ratios of the best"))
    keep(given.output, values)


if __name__ == "__main__":
    main(sys.argv[1:])
