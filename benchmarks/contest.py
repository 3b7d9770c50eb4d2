"""Contestants that take turns: bare passes, attributions and both orders, on one model with one set of pairs."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from rich.table import Table
from transformers import PreTrainedModel

from brittle_eval.behaviour.calibration import Example, collate, input_device
from brittle_eval.engine.attribute import Pass, accumulate, batches, scores
from brittle_eval.engine.isolate import as_weight, find_region
from brittle_eval.engine.sequential import find_region_in_order
from brittle_eval.engine.sharing import sites
from brittle_eval.methods import Attribution, Context, Isolation
from brittle_eval.weights import Fingerprint, find_weights

CONTEXT = Context(lambda name: torch.Generator().manual_seed(0), lambda which: {})
Contestant = Callable[[int], Mapping[str, float]]
"""Seconds by what was measured, of one run with a batch size."""


@dataclass
class Bench:
    """The model, the pairs, and every time that was taken."""

    model: PreTrainedModel
    examples: Sequence[Example]
    pad_id: int
    rounds: int
    times: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        self.addresses = find_weights(self.model)[0]
        self.fingerprint = Fingerprint(self.model)

    def best(self, name: str) -> float:
        return min(self.times[name])

    def race(self, size: int, contestants: Sequence[Contestant]) -> None:
        """Every contestant once a round, so that none has the machine's good minute for itself."""
        for _ in range(self.rounds):
            for contestant in contestants:
                for name, seconds in contestant(size).items():
                    self.times[name].append(seconds)

    def best_size(self, limit: Contestant, sizes: Sequence[int]) -> int:
        """The batch size at which the limit is fastest, from one run each after a first one that counts for nothing."""
        limit(sizes[0])
        return min(sizes, key=lambda size: sum(limit(size).values()))

    def table(self) -> Table:
        """Every time that was taken."""
        table = Table("seconds", "best", "median", "spread", "runs", title="times")
        for name, times in self.times.items():
            spread = f"{(max(times) - min(times)) / median(times):.0%}" if len(times) > 1 else "–"
            table.add_row(name, f"{min(times):.3f}", f"{median(times):.3f}", spread, str(len(times)))
        return table

    def forward(self, size: int) -> dict[str, float]:
        started = time.perf_counter()
        with torch.inference_mode():
            for batch, _ in batches(self.examples, size):
                ids, mask, _ = collate(batch, self.pad_id, input_device(self.model))
                self.model.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False)
        return {"forward": time.perf_counter() - started}

    def forward_backward(self, size: int) -> dict[str, float]:
        """Gradients add up over the batches, as in a gradient of all pairs: making them anew every time takes longer."""
        self.model.zero_grad()
        started = time.perf_counter()
        for batch, _ in batches(self.examples, size):
            ids, mask, responses = collate(batch, self.pad_id, input_device(self.model))
            labels = ids.masked_fill(~responses, -100)
            self.model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss.backward()
        seconds = time.perf_counter() - started
        self.model.zero_grad()
        return {"forward+backward": seconds}

    def attribution(self, name: str, method: Attribution) -> Contestant:
        """All weights' states, then all weights' scores (for ActSVD: its decompositions), timed apart."""

        def contestant(size: int) -> dict[str, float]:
            started = time.perf_counter()
            weights = {address: as_weight(self.model, address, CONTEXT, base=False) for address in self.addresses}
            data = {"safety": self.examples}
            together = sites(self.model, method, self.addresses, data, self.pad_id)
            states = accumulate(self.model, method, weights, data, Pass(self.pad_id, size), together)["safety"]
            between = time.perf_counter()
            for weight in weights.values():
                scores(method, weight, states.pop(weight.name))
            return {f"{name} passes": between - started, f"{name} scores": time.perf_counter() - between}

        return contestant

    def orders(self, name: str, method: Attribution, isolation: Isolation, ablate: Any) -> Contestant:
        """A region in both orders, isolation timed apart."""

        def contestant(size: int) -> dict[str, float]:
            found: dict[str, float] = {}
            for order in ("parallel", "sequential"):
                timed, how, started = Timed(isolation), Pass(self.pad_id, size), time.perf_counter()
                given = ({"safety": self.examples}, self.addresses, CONTEXT)
                if order == "parallel":
                    find_region(self.model, method, timed, *given, how)
                else:
                    find_region_in_order(self.model, method, timed, [ablate], *given, self.fingerprint, how)
                whole = time.perf_counter() - started
                found |= {f"{name} {order}": whole - timed.seconds, f"{name} {order} isolation": timed.seconds}
            return found

        return contestant


class Timed(Isolation):
    """An isolation that counts its seconds."""

    def __init__(self, inner: Isolation) -> None:
        self.inner, self.seconds = inner, 0.0
        self.takes = inner.takes  # type: ignore[misc]  # of this one object

    @property
    def reach(self) -> Any:
        return self.inner.reach

    @property
    def behaviours(self) -> tuple[str, ...]:
        return self.inner.behaviours

    def isolate(self, scores: Any, context: Context) -> Any:
        started = time.perf_counter()
        found = self.inner.isolate(scores, context)
        self.seconds += time.perf_counter() - started
        return found
