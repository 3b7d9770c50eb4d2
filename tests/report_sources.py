"""Folders of finished runs, sweeps and probes for reports: numbers are drawn, everything else is as the commands leave it."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from typing import Any

import torch

from brittle_eval.regions import Mask, Region
from brittle_eval.reporting.report import Asked, report
from brittle_eval.running.comparison import against_unedited
from brittle_eval.running.record import Row, TaskResult, as_file, write_json, write_lines
from brittle_eval.stats import Rate
from brittle_eval.store import save_region

PLAN = "snip+set-difference+ablate"
PROMPTS = 64
KINDS = ("self_attn.q_proj", "mlp.up_proj")


def shared(positive: int, n: int = PROMPTS) -> dict[str, Any]:
    found = Rate.of(positive, n)
    return asdict(found) | {"value": found.value}


def items(positive: int, n: int = PROMPTS) -> list[float]:
    return [1.0] * positive + [0.0] * (n - positive)


def row(
    name: str,
    answered: int,
    *,
    kind: str = "edited",
    recipe: str = "snip-diff",
    degenerate: int = 0,
    refused: int = 4,
    right: int = 40,
    kl: float = 0.5,
    share: float = 0.0025,
    n: int = PROMPTS,
    **more: Any,
) -> Row:
    """A model with so many answered harmful prompts, refused harmless ones, and right answers."""
    counts = {"attempts": n, "degenerate": degenerate, "unscored": 0}
    agreement = {"wei2024|refusal": {"both": 30, "first": 4, "second": 2, "neither": 28, "unscored": 0}}
    judged = {f"judge_{judge}": shared(answered, n) | {"unscored": 0} for judge in ("wei2024", "refusal")}
    attack = {"not_refused_coherent": shared(answered, n)} | judged | counts | {"agreement": agreement}
    right_share = Rate.of(right, PROMPTS)
    tasks = [
        TaskResult("harm", "attack", group="own", n=n, values=attack, items=items(answered, n)),
        TaskResult(
            "fine", "harmless", group="own", n=PROMPTS, values={"refused": shared(refused)} | counts, items=items(refused)
        ),
        TaskResult(
            "choice",
            "utility",
            n=PROMPTS,
            values={"metric": "acc", "value": right / PROMPTS, "low": right_share.low, "high": right_share.high},
            items=items(right),
        ),
        TaskResult("embedded_perplexity", "measure", n=PROMPTS, values={"value": 1.5 + kl}, items=[1.5 + kl] * PROMPTS),
        TaskResult("embedded_kl", "measure", n=PROMPTS, values={"value": kl}, items=[kl] * PROMPTS),
    ]
    if kind == "unedited":
        recipe, size = "none", {}
    else:
        size = {"count": 1000, "of_block_linears": share, "of_all_parameters": share * 0.8}
    judges = {judge: {"method": judge, "version": "1", "counts": "not refused"} for judge in ("wei2024", "refusal")}
    known: dict[str, Any] = {"region": size, "tasks": tasks, "judges": judges, "data": {"advbench": "ab" * 32}} | more
    return Row(name, kind, recipe, PLAN if recipe != "none" else "none", "tiny", f"fingerprint of {name}", **known)  # type: ignore[arg-type]


def unedited(answered: int = 5, **more: Any) -> Row:
    return row("unedited", answered, kind="unedited", kl=0.0, **more)


def control(name: str, answered: int, recipe: str = "snip-diff", **more: Any) -> Row:
    return row(f"{as_file(recipe)}.{name}", answered, kind="control", recipe=recipe, **more)


def usual() -> list[Row]:
    """An edit that differs from its controls."""
    return [unedited(), row("snip-diff", 45, degenerate=10), control("random-0", 5), control("magnitude-0", 8, degenerate=11)]


def write_run(path: Path, rows: Sequence[Row] | None = None, config: Mapping[str, Any] | None = None) -> Path:
    """A run's folder without samples and regions."""
    given = {"model": "hf", "modify": ["snip-diff"], "tasks": ["harm", "fine"], "seed": 0, "controls": "random:1,magnitude:1"}
    write_json(path / "run.json", {"config": config or given, "digest": "0123456789abcdef", "versions": {"torch": "2.13.0"}})
    write_lines(path / "rows.jsonl", [asdict(one) for one in against_unedited(list(rows or usual()))])
    return path


def write_region(file: Path, seed: int, plan: str = PLAN, chance: float = 0.3, blocks: Sequence[int] = (0, 1, 2)) -> Path:
    """A region of random entries."""
    generator = torch.Generator().manual_seed(seed)
    names = [f"model.layers.{block}.{kind}.weight" for block in blocks for kind in KINDS]
    parts = {name: Mask.from_dense(torch.rand((6, 8), generator=generator) < chance) for name in names}
    save_region(file, Region(parts), {"plan": plan, "model": "tiny", "fingerprint": "one"})
    return file


def sample(
    number: int, text: str, *, degenerate: str | None = None, positive: bool | None = True, prompt: str = ""
) -> dict[str, Any]:
    """A line of a samples file."""
    asked = prompt or f"request {number}"
    verdicts = {judge: {"positive": positive, "reason": "" if positive else "refuses"} for judge in ("wei2024", "refusal")}
    attempt = {"text": text, "cut": False, "perplexity": 1.2, "degenerate": degenerate, "verdicts": verdicts}
    doc = {"doc_id": number, "doc": {"prompt": asked}, "prompt": f"<user>{asked}<assistant>", "system": "none", "prefill": ""}
    return doc | {"attempts": [attempt]}


def write_samples(path: Path, texts: Sequence[str], tasks: Sequence[str] = ("harm", "fine")) -> None:
    """The same answers for every usual row and every task."""
    for one in usual():
        for task in tasks:
            lines = [sample(number, text, positive="cannot" not in text) for number, text in enumerate(texts)]
            write_lines(path / one.name / f"samples_{task}.jsonl", lines, private=True)


def write_sweep(
    path: Path, ps: Sequence[float] = (0.01, 0.02, 0.04), qs: Sequence[float] = (0.01, 0.02), seeds: Sequence[int] = (0,)
) -> Path:
    """A sweep over p and q, and perhaps seeds; the last cell is failed."""
    draw, cells = random.Random(0), list[tuple[dict[str, Any], list[Row]]]()

    def add(recipe: str, options: Mapping[str, Any], seed: int, rows: list[Row]) -> None:
        number = len(cells)
        known = {"cell": number, "model": "tiny", "plan": recipe, "recipe": recipe, "options": options, "seed": seed}
        known |= {"tasks": ["harm"], "command": ["brittle-eval", "run", "--modify", recipe], "run": f"runs/{number:04d}"}
        cells.append((known, rows))

    for seed in seeds:
        add("none", {}, seed, [unedited()])
        for p, q in product(ps, qs):
            name, share = f"snip-diff:p={p},q={q}", q / 4
            edited = row(as_file(name), min(PROMPTS, int(200 * q / p) % 60) + seed, recipe=name, kl=q * 40, share=share)
            add(name, {"p": p, "q": q}, seed, [edited, control("random-0", draw.randrange(9), name, kl=q * 10, share=share)])
    add("snip-diff:p=0.9,q=0.9", {"p": 0.9, "q": 0.9}, seeds[-1], [])
    write_json(path / "sweep.json", {"schema": 1, "grid": {"modify": ["snip-diff"]}, "cells": [known for known, _ in cells]})
    for known, rows in cells:
        ended = {"status": "done", "reason": ""} if rows else {"status": "failed", "reason": "<b>out of memory</b>"}
        write_json(path / f"cells/{known['cell']:04d}.json", known | ended | {"rows": [asdict(one) for one in rows]})
    return path


def write_probe(path: Path, shares: Sequence[float] = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016)) -> Path:
    """A probe that finds its size at the fourth."""
    rows, points, sizes = [unedited()], {"edited": [], "random-0": [], "magnitude-0": []}, []  # type: ignore[var-annotated]
    counts = {"edited": [5, 8, 20, 40, 58, 60], "random-0": [5, 5, 4, 6, 7, 9], "magnitude-0": [5, 6, 7, 9, 14, 20]}
    for place, share in enumerate(shares):
        name = f"size-{place}"
        names = {"edited": name, "random-0": f"{name}.random-0", "magnitude-0": f"{name}.magnitude-0"}
        for curve, of in names.items():
            kind = "edited" if curve == "edited" else "control"
            rows.append(row(of, counts[curve][place], kind=kind, recipe=name, share=share, kl=share * 60, right=40 - place))
            rate = shared(counts[curve][place])
            utility = {"mean": -place / PROMPTS, "low": -place / PROMPTS - 0.02, "high": -place / PROMPTS + 0.03}
            more = {"utility": utility, "kl": share * 60, "perplexity": 1.5 + share * 60, "degenerate": 0}
            points[curve].append(
                {"share": share, "count": int(share * 1e6), **{k: rate[k] for k in ("low", "high")}, "rate": rate["value"]} | more
            )
        sizes.append(
            {
                "share": share,
                "count": int(share * 1e6),
                "edited": name,
                "controls": {k: v for k, v in names.items() if k != "edited"},
            }
        )
    write_run(path, rows)
    text = "B50 = 0.300% (3,000), 95 % interval 0.200% to 0.640%"
    b50 = {
        "share": 0.003,
        "count": 3000,
        "low": shares[2],
        "high": shares[4] * 0.8,
        "at_most": False,
        "further": [],
        "text": text,
    }
    probe = {"schema": 1, "model": "tiny", "attribution": "snip", "p": 0.01, "epsilon": 0.02, "sizes": sizes, "points": points}
    write_json(
        path / "probe.json",
        probe
        | {
            "b50": b50,
            "area": {"edited": 0.4, "random-0": 0.08},
            "attack": "harm",
            "unit": "entries",
            "utility_power": True,
            "seeds": [0],
        },
    )
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "rows.jsonl").read_text(encoding="utf-8").splitlines()]


class Elements(HTMLParser):
    """Every start tag with its attributes, and the text of each script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] not in ("script", "style"):
            self.text.append(data)

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))


def page_of(path: Path, **asked: Any) -> str:
    return report(Asked(path, **asked))[0].read_text(encoding="utf-8")
