"""Peak memory of an attribution on a random Llama: `python benchmarks/peak.py --parameters 3e9 --dtype bfloat16 --method snip`.

Prints one JSON object: bytes of the model, of the process with the loaded model, and of the peak above that; seconds. The peak is
the kernel's own (`VmHWM` of Linux, reset after loading), over attribution and isolation of two behaviours, as in a run.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from brittle_eval.behaviour.calibration import Example
from brittle_eval.engine.attribute import Pass
from brittle_eval.engine.isolate import find_region
from brittle_eval.methods import Context
from brittle_eval.plugins import Plugins
from brittle_eval.weights import find_weights

VOCABULARY = 32000
ISOLATIONS = {"weight-scores": "set-difference", "directions": "orthogonal"}
"""Which isolation of two behaviours takes what an attribution gives."""


def model_of(parameters: float, dtype: torch.dtype) -> PreTrainedModel:
    """A random Llama of at least so many parameters: as many blocks as it takes, tiny ones or those of 1 and 3 billion models."""
    hidden, inner, heads = (64, 128, 4) if parameters < 1e8 else (2048, 5632, 32) if parameters < 2e9 else (3072, 8192, 24)
    block = hidden * (2 * hidden + 2 * hidden // 4 + 3 * inner)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=inner,
        num_attention_heads=heads,
        num_key_value_heads=heads // 4,
        num_hidden_layers=max(1, -int(-(parameters - 2 * VOCABULARY * hidden) // block)),
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config).to(dtype)
    model.to_empty(device="cpu")
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # its table is no parameter, and was not computed on meta
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.fill_(1)
            else:  # row by row: random numbers in float32 for a whole matrix would be the peak
                for rows in parameter.split(1024):
                    rows.copy_(torch.randn(rows.shape, generator=generator) * 0.02)
    return model.eval()


def examples(pairs: int, draw: random.Random, scale: int = 1) -> list[Example]:
    """Random tokens with the lengths of short requests and answers."""
    lengths = [(draw.randint(36, 52) // scale, draw.randint(15, 30) // scale) for _ in range(pairs)]
    return [Example(tuple(draw.randrange(3, 300) for _ in range(prompt + answer)), prompt) for prompt, answer in lengths]


def resident(key: str) -> int:
    """Bytes of this process as the kernel counts them: `VmRSS` now, `VmHWM` at most since the last reset."""
    found = re.search(rf"^{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def main(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parameters", type=float, default=1e9)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--method", default="wanda")
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--memory", type=float, default=4.0, help="GiB, as of the command")
    given = parser.parse_args(arguments)
    method = Plugins.load().get("attribution", given.method)()
    isolation = Plugins.load().get("isolation", ISOLATIONS[method.gives])()
    model = model_of(given.parameters, getattr(torch, given.dtype))
    draw = random.Random(0)
    behaviours = {name: examples(given.pairs, draw) for name in isolation.behaviours}
    context = Context(lambda name: torch.Generator().manual_seed(0), lambda which: {})
    how = Pass(0, memory=int(given.memory * 2**30), say=lambda line: print(line, file=sys.stderr))
    Path("/proc/self/clear_refs").write_text("5")
    loaded, started = resident("VmRSS"), time.monotonic()
    region = find_region(model, method, isolation, behaviours, find_weights(model)[0], context, how)
    return {
        "method": given.method,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "model": sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()),
        "loaded": loaded,
        "peak_above_loaded": resident("VmHWM") - loaded,
        "seconds": round(time.monotonic() - started, 1),
        "parts": len(region),
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
