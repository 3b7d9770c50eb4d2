"""How long attributions take, against the limit of a bare pass and against the released code's loops: `make bench`.

The limits: *forward* is the decoder without its head under `inference_mode`, *forward+backward* the full model with its loss and
all weight gradients. A method runs on its limit's batches, at the limit's best batch size; rounds take turns, and ratios are of
the best of each. Results go into one flat JSON file beside those of other benchmarks; the table has medians and spreads.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import naive
import torch
from contest import Bench, Contestant
from peak import examples as random_examples
from peak import model_of
from results import keep, verdicts
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from brittle_eval.behaviour.calibration import Example, encode
from brittle_eval.cards import models
from brittle_eval.organisms.align import worded
from brittle_eval.organisms.organism import EMBEDDED, aligned
from brittle_eval.plugins import Plugins
from brittle_tasks.data import own_rows

CONSOLE = Console(width=120)
Say = Callable[[str], None]
TARGETS = {
    "wanda_over_forward": (1.15, "at most"),
    "snip_over_forward_backward": (1.3, "at most"),
    "actsvd_over_forward": (2.0, "at most"),
    "sequential_over_parallel": (2.5, "at most"),
    "wanda_speedup": (4.0, "at least"),
    "snip_speedup": (60.0, "at least"),
    "actsvd_speedup": (20.0, "at least"),
    "attribution_peak_over_model": (0.2, "at most"),
    "naive_wanda_over_forward": (6.0, "at most"),
    "naive_snip_over_forward_backward": (200.0, "at most"),
    "naive_actsvd_over_forward": (90.0, "at most"),
}
"""What each number is held to. A speed-up over an opponent that is slower than its own limit allows is void."""


def embedded(pairs: int) -> tuple[PreTrainedModel, list[Example], int]:
    """The embedded model in float32, and the project's own harmful prompts with refusals."""
    card = models(Plugins.load())[EMBEDDED]
    path = aligned(card)
    tokenizer = AutoTokenizer.from_pretrained(path)
    refusals = (card.path.parent / card.refusals).read_text(encoding="utf-8").splitlines()
    chosen = random.Random(0).sample(worded(own_rows("harmful", "train"), refusals), pairs)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    return model.eval(), [encode(tokenizer, pair) for pair in chosen], int(tokenizer.pad_token_id)


def random_model(pairs: int) -> tuple[PreTrainedModel, list[Example], int]:
    """Random weights in the embedded model's shape, and random tokens in lengths like its."""
    sizes: dict[str, Any] = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "vocab_size": 49152}
    heads: dict[str, Any] = {"num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True}
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads)).eval(), random_examples(pairs, random.Random(0)), 0


def measure(bench: Bench, sizes: Sequence[int], say: Say) -> None:
    """The limits and what is held to them."""
    plugins = Plugins.load()

    def made(kind: str, name: str) -> Any:
        return plugins.get(kind, name)()

    ablate = made("modification", "ablate")
    contestants: list[Contestant] = [bench.forward]
    for name, isolation in (("wanda", "top"), ("actsvd", "top-ranks")):
        method = made("attribution", name)
        contestants += [bench.attribution(name, method), bench.orders(name, method, made("isolation", isolation), ablate)]
    size = bench.best_size(bench.forward, sizes)
    say(f"forward is fastest with {size} pairs a batch; {bench.rounds} rounds")
    bench.race(size, contestants)
    size = bench.best_size(bench.forward_backward, sizes)
    say(f"forward+backward is fastest with {size} pairs a batch; {bench.rounds} rounds")
    bench.race(size, [bench.forward_backward, bench.attribution("snip", made("attribution", "snip"))])


def measure_naive(bench: Bench, few: int, say: Say) -> None:
    """The naive loops, once; `few` blocks (for SNIP also pairs) stand for all where all would take an hour."""
    blocks = max(address.block for address in bench.addresses) + 1
    some = list(range(0, blocks, max(1, blocks // few)))[:few]
    started = time.perf_counter()
    naive.wanda(bench.model, bench.addresses, bench.examples)
    bench.times["naive wanda"].append(time.perf_counter() - started)
    for name, loop, taken in (("snip", naive.snip, bench.examples[:few]), ("actsvd", naive.actsvd, bench.examples)):
        share = len(bench.examples) / len(taken) * blocks / len(some)
        say(f"naive {name}: {len(taken)} pairs and {len(some)} of {blocks} blocks measured, times {share:g}")
        started = time.perf_counter()
        for number in some:
            loop(bench.model, bench.addresses, taken, number)
        bench.times[f"naive {name}"].append((time.perf_counter() - started) * share)


def peak(parameters: float, pairs: int) -> float:
    """Peak above the loaded process over the model's size, for Wanda, in a process of its own."""
    command = [sys.executable, str(Path(__file__).with_name("peak.py")), f"--parameters={parameters}", f"--pairs={pairs}"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return float(found["peak_above_loaded"] / found["model"])


def ratios(bench: Bench) -> dict[str, float]:
    """This benchmark's keys of the result file."""
    found: dict[str, float] = {}
    whole = {name: bench.best(f"{name} passes") + bench.best(f"{name} scores") for name in ("wanda", "snip", "actsvd")}
    found["wanda_over_forward"] = whole["wanda"] / bench.best("forward")
    found["snip_over_forward_backward"] = whole["snip"] / bench.best("forward+backward")
    found["actsvd_over_forward"] = bench.best("actsvd passes") / bench.best("forward")  # its `eigh` calls are shown apart
    walked = ("wanda", "actsvd")
    found["sequential_over_parallel"] = max(bench.best(f"{n} sequential") / bench.best(f"{n} parallel") for n in walked)
    for name, seconds in whole.items():
        limit = "forward+backward" if name == "snip" else "forward"
        found[f"{name}_speedup"] = bench.best(f"naive {name}") / seconds
        found[f"naive_{name}_over_{limit.replace('+', '_')}"] = bench.best(f"naive {name}") / bench.best(limit)
    return found


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("bench.json"), help="other benchmarks' keys in it are kept")
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--random", action="store_true", help="random weights in the embedded model's shape: no download")
    parser.add_argument("--smoke", action="store_true", help="a tiny model, once through: whether it runs, no measurement")
    given = parser.parse_args(arguments)
    say = CONSOLE.print
    if given.smoke:
        draw = random.Random(0)
        bench = Bench(model_of(4.3e6, torch.float32), random_examples(4, draw, scale=4), 0, rounds=2)
        few, sizes = 1, [2, 4]
    else:
        bench = Bench(*(random_model if given.random else embedded)(given.pairs), rounds=given.rounds)
        parameters = sum(parameter.numel() for parameter in bench.model.parameters())
        say(f"{parameters:,} parameters, {given.pairs} pairs, float32, {torch.get_num_threads()} threads")
        few, sizes = 2, [4, 8, 16, 32]
    measure(bench, sizes, say)
    measure_naive(bench, few, say)
    found = ratios(bench)
    found["attribution_peak_over_model"] = peak(4.3e6, 2) if given.smoke else peak(1e9, 8)
    CONSOLE.print(bench.table())
    CONSOLE.print(verdicts(found, TARGETS, "ratios of the best times"))
    keep(given.output, found)


if __name__ == "__main__":
    main(sys.argv[1:])
