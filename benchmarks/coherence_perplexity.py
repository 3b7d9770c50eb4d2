"""Fill in the perplexities of the labelled coherence set: `python benchmarks/coherence_perplexity.py MODEL_PATH`.

Each text's `perplexity` is exp(mean negative log-likelihood of its tokens) in float32, given its prompt in the model's chat
template, as for every answer of a run; null for a text without tokens. The file is rewritten in place. What the development
half says of `coherence.MAX_PERPLEXITY` is printed: take a threshold from it, never from the test half.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from brittle_eval.behaviour.calibration import Example, Pair, encode
from brittle_eval.errors import BrittleError
from brittle_eval.evaluation.coherence import degenerate, long_enough
from brittle_eval.evaluation.measures import perplexities

LABELLED = Path(__file__).parent.parent / "tests/data/coherence.jsonl"


def main(model_path: str) -> None:
    rows: list[dict[str, Any]] = [json.loads(line) for line in LABELLED.read_text(encoding="utf-8").splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)  # in evaluation mode
    examples: dict[int, Example] = {}
    for index, row in enumerate(rows):
        try:
            examples[index] = encode(tokenizer, Pair(row["prompt"], row["text"]))
        except BrittleError:
            row["perplexity"] = None
    pad_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    values = perplexities(model, list(examples.values()), pad_id, batch_size=8)
    for index, value in zip(examples, values, strict=True):
        rows[index]["perplexity"] = float(f"{value:.5g}")
    LABELLED.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    report([row for row in rows if row["half"] == "development"])


def report(rows: list[dict[str, Any]]) -> None:
    """Perplexities of the development texts that the text rules leave and that are long enough to be judged by them."""
    kinds: dict[str, list[float]] = {}
    for row in rows:
        if degenerate(row["text"]) is None and long_enough(row["text"]):
            kinds.setdefault(f"{'degenerate' if row['degenerate'] else 'coherent'} {row['kind']}", []).append(row["perplexity"])
    for kind, values in sorted(kinds.items()):
        print(f"{kind:30} n {len(values):3}  lowest {min(values):9.2f}  median {median(values):9.2f}  highest {max(values):9.2f}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python {sys.argv[0]} MODEL_PATH")
    main(sys.argv[1])
