"""How long a report of 100,000 samples takes, and the memory it needs: `report_100k` is called by `make bench ONLY=sweep`.

The run is made up: four models, one task of 25,000 prompts, answers of 80 words. The page is made by the command itself, in a
process of its own, once with and once without samples.
"""

from __future__ import annotations

import argparse
import random
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from results import keep, verdicts
from rich.console import Console

from brittle_eval.running.comparison import against_unedited
from brittle_eval.running.record import Row, RunFolder, TaskResult
from brittle_eval.stats import Rate

SAMPLES = 100_000
MODELS = ("unedited", "plan", "plan.random-0", "plan.magnitude-0")
TARGETS = {"report_100k_seconds": (30.0, "at most"), "report_100k_gib": (2.0, "at most")}


def report_100k(folder: Path, samples: int = SAMPLES) -> dict[str, float]:
    """Seconds and GiB of `brittle-eval report --with-samples`, and the seconds without samples, of a run made in the folder."""
    make_run(folder, samples)
    started = time.monotonic()
    command = [sys.executable, "-m", "brittle_eval", "report", str(folder)]
    subprocess.run([*command, "--with-samples"], check=True, capture_output=True)
    taken = time.monotonic() - started
    gib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    subprocess.run(command, check=True, capture_output=True)
    plain = time.monotonic() - started - taken
    return {"report_100k_seconds": taken, "report_100k_gib": gib, "report_100k_plain_seconds": plain}


def make_run(path: Path, samples: int = SAMPLES) -> None:
    """A finished run of so many answers."""
    draw, each = random.Random(0), samples // len(MODELS)
    folder = RunFolder(path, {"made": "by a benchmark"})
    with folder.opened():
        rows = []
        for model in MODELS:
            good = [draw.random() < (0.7 if model == "plan" else 0.1) for _ in range(each)]
            result = TaskResult("harm", "attack", n=each, values=_values(good), items=[float(one) for one in good])
            folder.finish(model, result, (_line(number, one, draw) for number, one in enumerate(good)))
            kind: Any = "unedited" if model == "unedited" else "edited" if model == "plan" else "control"
            recipe = "none" if kind == "unedited" else "plan"
            rows.append(Row(model, kind, recipe, recipe, "made-up", f"fingerprint of {model}", tasks=[result]))
        folder.write_rows(against_unedited(rows))


def _values(good: list[bool]) -> dict[str, Any]:
    found = Rate.of(sum(good), len(good))
    return {"not_refused_coherent": asdict(found) | {"value": found.value}, "attempts": len(good), "degenerate": 0, "unscored": 0}


def _line(number: int, good: bool, draw: random.Random) -> dict[str, Any]:
    text = " ".join(draw.choices(("some", "words", "of", "an", "answer", "<b>", "that", "nobody", "reads"), k=80))
    verdicts = {judge: {"positive": good, "reason": "" if good else "refuses"} for judge in ("wei2024", "refusal")}
    attempt = {"text": text, "cut": False, "perplexity": 1.2, "degenerate": None, "verdicts": verdicts}
    asked = {"doc_id": number, "doc": {"prompt": f"request {number}"}, "prompt": f"<user>request {number}<assistant>"}
    return asked | {"system": "none", "prefill": "", "attempts": [attempt]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("bench.json"), help="other benchmarks' keys in it are kept")
    parser.add_argument("--samples", type=int, default=SAMPLES)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = report_100k(Path(name) / "run", given.samples)
    Console().print(verdicts(found, TARGETS, f"{given.samples} samples"))
    keep(given.output, found)


if __name__ == "__main__":
    main()
