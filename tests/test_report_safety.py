"""The report as a file that goes to others: what it never holds or runs, hostile text, and input that is refused."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from brittle_eval.cli import main
from brittle_eval.reporting.report import Asked, report
from brittle_eval.reporting.visible import embedded, visible
from brittle_eval.running.record import write_json, write_lines
from tests.report_sources import (
    Elements,
    control,
    page_of,
    row,
    rows_of,
    sample,
    unedited,
    usual,
    write_probe,
    write_region,
    write_run,
    write_samples,
    write_sweep,
)

HOSTILE = "</script><script>alert(1)</script><!-- \"quoted' \u202egnirts\u202c\u2028 & \ud800"


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert main(["report", *map(str, arguments)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_without_samples_no_text_of_them_is_in_the_page_and_it_can_be_shared(tmp_path: Path) -> None:
    write_samples(write_run(tmp_path), ["xyzzy plugh"])
    (file,) = report(Asked(tmp_path))
    assert file.name == "report.html" and "xyzzy" not in file.read_text() and "request 0" not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o644


def test_with_samples_the_page_is_the_owners_and_has_a_banner(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_samples(write_run(tmp_path), ["xyzzy"])
    assert main(["report", str(tmp_path), "--with-samples"]) == 0
    assert "do not publish" in capsys.readouterr().err
    file = tmp_path / "report-with-samples.html"
    assert file.stat().st_mode & 0o777 == 0o600
    page = file.read_text()
    assert "xyzzy" in page and "Do not publish or forward it" in page and "No prompts and no generated text" not in page


def blocks(page: str) -> dict[str, Any]:
    """The JSON of every data block, as a browser finds its end."""
    found = re.findall(r'<script type="application/json" id="([^"]+)">(.*?)</script', page, re.DOTALL | re.IGNORECASE)
    return {name: json.loads(text) for name, text in found}


def test_hostile_samples_come_back_whole_and_break_nothing(tmp_path: Path) -> None:
    names = [one.name for one in usual()]
    texts = [HOSTILE, "z" * 1_000_000, *(f"answer {number}" for number in range(230))]
    write_run(tmp_path)
    for name in names:
        for task in ("harm", "fine"):
            lines = [sample(number, text, prompt=HOSTILE, positive=number % 2 == 0) for number, text in enumerate(texts)]
            (tmp_path / name).mkdir(exist_ok=True)
            written = "".join(json.dumps(line) + "\n" for line in lines)
            (tmp_path / name / f"samples_{task}.jsonl").write_text(written, encoding="utf-8")
    page = page_of(tmp_path, with_samples=True)
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u2028]", page) and "<script>alert" not in page
    known = blocks(page)
    index = known["samples-index"]
    assert [task["name"] for task in index["tasks"]] == ["harm", "fine"]
    model = index["tasks"][0]["models"][1]
    assert model["name"] == names[1] and model["flags"] == "ar" * 116
    read = [item for number in range(3) for item in known[f"{model['id']}-{number}"]]
    assert [item["a"][0]["t"] for item in read] == texts
    assert {item["q"] for item in read} == {HOSTILE}


def test_hostile_names_and_reasons_are_shown_and_do_nothing(tmp_path: Path) -> None:
    bad = "<img src=x onerror=alert(1)>\u202e"
    rows = [unedited(), row("snip-diff", 45, recipe=bad), control("random-0", 5, bad)]
    rows = [replace(one, model=bad, data={bad: bad}) for one in rows]
    rows[1].tasks[2] = replace(rows[1].tasks[2], status="not run", reason=bad)
    page = page_of(write_run(tmp_path, rows, config={"modify": [bad], "model": bad}))
    assert "<img" not in page and "\u202e" not in page and "⟨U+202E⟩" in page


@pytest.mark.parametrize("kind", ["run", "sweep", "probe"])
def test_a_page_asks_no_network_and_runs_nothing_but_its_own_script(tmp_path: Path, kind: str) -> None:
    write = {"run": write_run, "sweep": write_sweep, "probe": write_probe}[kind]
    elements = Elements(page_of(write(tmp_path)))  # type: ignore[operator]
    links = {value for _, own in elements.tags for name in ("src", "href", "xlink:href", "action") if (value := own.get(name))}
    assert all(link.startswith("#") for link in links)
    assert not [name for _, own in elements.tags for name in own if name.startswith("on") or name == "style"]
    policy = next(own["content"] for tag, own in elements.tags if own.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'") and "unsafe" not in policy
    assert sum(tag == "script" and "type" not in own for tag, own in elements.tags) == 1
    names = [own["id"] for _, own in elements.tags if "id" in own]
    assert len(names) == len(set(names))


def test_every_chart_has_words_and_numbers(tmp_path: Path) -> None:
    elements = Elements(page_of(write_probe(tmp_path)))
    charts = [own for tag, own in elements.tags if tag == "svg" and own.get("class") == "chart"]
    assert charts and all(own["role"] == "group" and len(own["aria-label"] or "") > 20 for own in charts)
    points = [own for tag, own in elements.tags if tag == "g" and own.get("class") == "point"]
    assert points and all(own["role"] == "img" and own["aria-label"] for own in points)
    assert elements.words.count("Numbers of this chart") == len(charts)


def test_figures_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "pip install 'brittle-eval[plots]'" in refused(capsys, write_run(tmp_path), "--figures", tmp_path / "figures")


def test_what_is_no_source_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is no folder" in refused(capsys, tmp_path / "nowhere")
    assert "holds no run, sweep or probe" in refused(capsys, tmp_path)
    write_json(tmp_path / "run.json", {"config": {}})
    assert "is not finished" in refused(capsys, tmp_path)
    (tmp_path / "run.json").write_text('{"config": {"mod')
    assert "run.json is damaged" in refused(capsys, tmp_path)
    write_json(tmp_path / "sweep.json", {"cells": [{}, {}]})
    assert "no cell of the sweep" in refused(capsys, tmp_path)


def test_a_row_that_a_crash_cut_or_another_version_wrote_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_run(tmp_path) / "rows.jsonl"
    whole = file.read_text()
    file.write_text(whole[: len(whole) - 200])
    assert "rows.jsonl, line 4: not a JSON object" in refused(capsys, tmp_path)
    file.write_text(whole)
    lines = rows_of(tmp_path)
    write_lines(file, [*lines[:2], dict(lines[2]) | {"schema": 99}])
    assert "line 3 is a row of schema 99, and this version reads 1, 2" in refused(capsys, tmp_path)
    write_lines(file, [{"name": "x", "tasks": []}])
    assert "line 1 is a row of schema None" in refused(capsys, tmp_path)


def test_samples_that_are_missing_or_damaged_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path)
    assert "samples_harm.jsonl is missing" in refused(capsys, tmp_path, "--with-samples")
    write_samples(tmp_path, ["a", "b"])
    file = tmp_path / "snip-diff/samples_fine.jsonl"
    file.write_text(file.read_text()[:-40])
    assert "samples_fine.jsonl, line 2: not a JSON object" in refused(capsys, tmp_path, "--with-samples")
    file.write_text("{}\n")
    assert "samples_fine.jsonl, line 1: no sample of a run" in refused(capsys, tmp_path, "--with-samples")
    assert not (tmp_path / "report-with-samples.html").exists(), "a page that could not be made leaves nothing"


def test_places_that_cannot_be_written_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path)
    (tmp_path / "file").touch()
    assert "expected a file, and this is a folder" in refused(capsys, tmp_path, "--output", tmp_path)
    assert "cannot write" in refused(capsys, tmp_path, "--output", tmp_path / "file" / "x.html")
    assert "expected a folder" in refused(capsys, tmp_path, "--figures", tmp_path / "file")
    assert "cannot write figures" in refused(capsys, tmp_path, "--figures", "/proc/nowhere")


def test_a_damaged_region_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_region(write_run(tmp_path) / "regions/a.safetensors", 0)
    file.write_bytes(file.read_bytes()[:-3])
    assert "cannot read region file" in refused(capsys, tmp_path)


def test_hidden_characters_become_visible_and_json_survives() -> None:
    assert visible("a\u202eb\x00\n\tc\ud800") == "a⟨U+202E⟩b⟨U+0000⟩\n\tc⟨U+D800⟩"
    assert visible("שלום 👩\u200d🚀") == "שלום 👩\u200d🚀"
    text = str(embedded({"a": HOSTILE}))
    assert json.loads(text) == {"a": HOSTILE}
    assert not set(text) & set("<>&\u2028\u202e\ud800")
