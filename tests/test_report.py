"""The report of a run, a sweep or a probe: what it says, what it never holds, and what it refuses."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from brittle_eval.commands.cli_run import run as run_command
from brittle_eval.reporting.headline import effect, headline
from brittle_eval.reporting.report import Asked, report
from brittle_eval.reporting.report_source import read_source
from brittle_eval.reporting.report_text import command, limits
from brittle_eval.running.prepare import Options
from brittle_eval.running.record import Row, write_json
from tests.report_sources import (
    Elements,
    control,
    page_of,
    row,
    unedited,
    usual,
    write_probe,
    write_region,
    write_run,
    write_sweep,
)

HOSTILE = "</script><script>alert(1)</script><!-- \"quoted' \u202egnirts\u202c\u2028 & \ud800"


def said_of(path: Path, rows: list[Row]) -> str:
    found = headline(read_source(write_run(path, rows)))
    return " ".join([found.sentence, found.weighed, *found.further])


def test_an_edit_that_its_controls_do_not_follow(tmp_path: Path) -> None:
    said = said_of(tmp_path, usual())
    assert (
        "With 0.25 % of the block weights edited (snip-diff), tiny answers 45 of 64 harmful prompts (0.70 [0.58, 0.80])" in said
    )
    assert "unedited, it answers 5 of 64 (0.08 [0.03, 0.17])" in said
    assert "No control of the same size does that. Controls answer: random-0 5 of 64" in said
    assert "harm: 10 of 64 answers after the edit are degenerate (babbling) and do not count as answered" in said


def test_a_control_that_does_the_same_is_said(tmp_path: Path) -> None:
    said = said_of(tmp_path, [unedited(), row("snip-diff", 45), control("random-0", 44), control("magnitude-0", 5)])
    assert "A control of the same size does as much, as far as these prompts can tell (random-0)" in said
    assert "no evidence that the region carries safety" in said


def test_babbling_is_said_to_be_babbling(tmp_path: Path) -> None:
    said = said_of(tmp_path, [unedited(), row("snip-diff", 3, degenerate=60), control("random-0", 5)])
    assert "babbles: 60 of 64 answers to harm are degenerate, and 3 of 64 prompts are answered coherently" in said


def test_no_clear_change_is_no_effect(tmp_path: Path) -> None:
    said = said_of(tmp_path, [unedited(5), row("snip-diff", 6), control("random-0", 5)])
    assert "That is no clear change from the unedited model: it could be chance." in said
    assert "No control of the same size does that" not in said and "does as much" not in said


def test_an_edit_that_lowers_the_answers_claims_nothing_over_its_controls(tmp_path: Path) -> None:
    said = said_of(tmp_path, [unedited(40), row("snip-diff", 3), control("random-0", 40)])
    assert "Controls of the same size answer: random-0 40 of 64" in said and "No control" not in said


def test_without_controls_nothing_is_claimed(tmp_path: Path) -> None:
    source = read_source(write_run(tmp_path, [unedited(), row("snip-diff", 45)]))
    assert "not known whether any region would do the same" in headline(source).weighed
    assert any("No controls were run" in line for line in limits(source))


def test_of_several_edits_the_best_is_said_to_be_the_best_of_several(tmp_path: Path) -> None:
    rows = [unedited(), row("a", 20, recipe="a"), row("b", 45, recipe="b"), control("random-0", 4, "b")]
    found = headline(read_source(write_run(tmp_path, rows)))
    assert "(b)" in found.sentence and "most answers of 2" in found.further[0]
    assert any("(a), tiny answers 20 of 64" in line for line in found.further)


def test_a_run_without_edits_or_without_attacks(tmp_path: Path) -> None:
    assert "no edit was run" in said_of(tmp_path / "a", [unedited()])
    bare = [replace(one, tasks=[task for task in one.tasks if task.role != "attack"]) for one in usual()]
    assert "No attack was evaluated" in said_of(tmp_path / "b", bare)
    assert report(Asked(tmp_path / "a")) and report(Asked(tmp_path / "b"))


def test_a_limited_run_and_a_task_that_was_not_run_are_said(tmp_path: Path) -> None:
    rows = [replace(one, limited=True) for one in usual()]
    for one in rows:
        one.tasks[1] = replace(one.tasks[1], status="not run", reason="no data at hand", values={}, items=[])
    words = Elements(page_of(write_run(tmp_path, rows))).words
    assert "Limited run (--limit)" in words and "no data at hand" in words and "Over-refusal was not measured" in words


def test_the_page_of_a_run_has_everything(tmp_path: Path) -> None:
    write_region(tmp_path / "regions/a.safetensors", 0)
    words = Elements(page_of(write_run(tmp_path))).words
    for part in (
        "0.70 [0.58, 0.80] of 64",
        "10 of 64 degenerate",
        "change +0.62",
        "Where snip-diff lies",
        "q_proj",
        "Pareto front",
        "wei2024 and refusal 90.6 % 0.81 256 0",
        "brittle-eval run --model hf --tasks harm,fine --controls random:1,magnitude:1 --seed 0 --modify snip-diff",
        "torch 2.13.0",
        "0123456789abcdef",
        "fingerprint of snip-diff",
        "data set advbench",
        "It does not mean that an answer is harmful",
        "No prompts and no generated text are in this file",
    ):
        assert part in words, part


def test_the_same_source_gives_the_same_bytes(tmp_path: Path) -> None:
    write_run(tmp_path)
    assert page_of(tmp_path) == page_of(tmp_path, output=tmp_path / "again.html")


def test_the_page_of_a_sweep(tmp_path: Path) -> None:
    page = page_of(write_sweep(tmp_path))
    words = Elements(page).words
    assert "8 of 8 cells of the sweep are there; 1 failed, 0 were cut" in words
    assert "cell 7, snip-diff:p=0.9,q=0.9: failed: <b>out of memory</b>" in words and "<b>out" not in page
    assert "brittle-eval run --modify snip-diff:p=0.02,q=0.01" in words and "most answers of 6" in words


def test_a_sweep_that_is_not_finished_is_reported_as_far_as_it_is(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    for number in (4, 5, 6, 7):
        (tmp_path / f"cells/{number:04d}.json").unlink()
    assert "4 of 8 cells of the sweep are there" in Elements(page_of(tmp_path)).words


def test_the_page_of_a_probe_says_its_size_and_weighs_it(tmp_path: Path) -> None:
    found = headline(read_source(write_probe(tmp_path)))
    assert found.sentence == (
        "Half of the harmful prompts are answered once 0.3 % of the block weights of tiny are edited in the order of snip "
        "(95 % interval 0.2 % to 0.64 %)."
    )
    assert "At the first measured size from there on: with 0.4 % of the block weights edited" in found.weighed
    assert "Mean rate over the sizes (area under the curve): edited 0.40, random-0 0.08." in found.further
    assert "No control of the same size does that. Controls answer: random-0 6 of 64" in found.weighed


def test_a_probe_without_a_size_and_without_power(tmp_path: Path) -> None:
    write_probe(tmp_path)
    known = json.loads((tmp_path / "probe.json").read_text())
    known |= {"utility_power": False, "b50": {"share": None, "text": "no such region up to 1.6 %"}}
    write_json(tmp_path / "probe.json", known)
    words = Elements(page_of(tmp_path)).words
    assert "No such region up to 1.6 %." in words and "Utility has no power here" in words and "No size is marked as B50" in words
    assert "At the largest size: with 1.6 %" in words


def test_the_command_is_that_of_the_run(tmp_path: Path) -> None:
    known = {name: default(value) for name, value in asdict(Options()).items()}
    given = {"model_args": {"pretrained": "a b"}, "modify": ["wanda-diff", "snip:p=0.1"], "tasks": ["x", "y"], "limit": 5.0}
    config = known | given | {"behaviours": ["safety=f.jsonl"], "merge_system": True, "stop_when_decided": True, "seed": 0}
    text = command(read_source(write_run(tmp_path, config=config)))
    assert text is not None
    words = shlex.split(text)
    assert words[:2] == ["brittle-eval", "run"]
    read = run_command.make_context("run", words[2:], token_normalize_func=lambda token: token.replace("_", "-")).params
    assert read["model_args"] == {"pretrained": "a b"} and read["modify"] == ("wanda-diff", "snip:p=0.1")
    assert read["tasks"] == ("x", "y") and read["limit"] == 5.0 and read["behaviours"] == ("safety=f.jsonl",)
    assert read["system_role"] == "merge" and read["stop_when_decided"] and read["seed"] == 0
    assert read["controls"] == Options().controls and read["judges"] == Options().judges


def default(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def test_a_preset_says_the_rest(tmp_path: Path) -> None:
    config = {"model": "hf", "modify": ["a"], "preset": "wei2024 1", "tasks": ["x"], "judges": ["wei2024"], "seed": 0}
    assert command(read_source(write_run(tmp_path, config=config))) == "brittle-eval run --model hf --preset wei2024 --modify a"


def test_figures_are_svg_and_png(tmp_path: Path) -> None:
    write_region(tmp_path / "run/regions/a.safetensors", 0)
    files = report(Asked(write_run(tmp_path / "run"), figures=tmp_path / "figures"))
    drawn = {file.name for file in files[1:]}
    assert {"pareto-kl.svg", "pareto-kl.png", "region-1.svg", "region-1.png"} <= drawn
    for file in files[1:]:
        start = file.read_bytes()[:200]
        assert start.startswith(b"\x89PNG") if file.suffix == ".png" else b"<?xml" in start
    again = report(Asked(tmp_path / "run", figures=tmp_path / "again"))
    assert all(
        one.read_bytes() == two.read_bytes() for one, two in zip(files[1:], again[1:], strict=True) if one.suffix == ".svg"
    )


def test_figures_of_a_sweep_and_a_probe(tmp_path: Path) -> None:
    for write, name in ((write_sweep, "grid-answered-1.svg"), (write_probe, "brittleness-curve.svg")):
        files = report(Asked(write(tmp_path / name), figures=tmp_path / f"{name} figures"))
        assert name in {file.name for file in files}


def test_an_edit_that_was_cut_says_why(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    file = tmp_path / "cells/0001.json"
    cell = json.loads(file.read_text())
    cell |= {"status": "cut", "reason": "perplexity 900 > 100"}
    cell["rows"][0]["tasks"] = [task for task in cell["rows"][0]["tasks"] if task["role"] == "measure"]
    write_json(file, cell)
    source = read_source(tmp_path)
    edited = next(one for one in source.cells[1].rows if one.kind == "edited")
    assert "was not evaluated on harm (perplexity 900 > 100)" in effect(source, edited, "harm")[0]
    assert "cut: perplexity 900 > 100" in Elements(page_of(tmp_path)).words
