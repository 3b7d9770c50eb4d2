"""The leaderboard's six forms: what stands in them, and that nothing a row says can break out of them."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from brittle_eval.cli import main
from brittle_eval.leaderboard.board import Board, boards
from brittle_eval.leaderboard.board_page import page
from brittle_eval.leaderboard.board_table import show
from brittle_eval.leaderboard.formats import as_csv, as_json, latex, markdown
from brittle_eval.leaderboard.gather import Found
from brittle_eval.running.record import Row
from tests.boards import rows, write

EVIL = "<script>alert(1)</script>|\"'&%$_{}\\ [bold]\u202e`*"


def made(*runs: list[Row]) -> list[Board]:
    return boards([Found(row, Path(str(number))) for number, run in enumerate(runs) for row in run])


@pytest.fixture
def two() -> list[Board]:
    first = rows({"unedited": 1, "a": 9, "a.random-0": 2}, {"a": 10}, {"a": 0.5})
    return made(first, rows({"unedited": 1, "b": 3}, preset="wei2024 1", limited=True))


class Reader(HTMLParser):
    """The tags of a page with their attributes, and the cells of its tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[list[str]] = []
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.cells.append([])
        self._inside = tag == "td" or (self._inside and tag == "a")
        if tag == "td":
            self.cells[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag not in ("tbody", "table")

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.cells[-1][-1] += data


def test_the_terminal_shows_the_best_edits_with_their_controls(tmp_path: Path) -> None:
    many = rows({"unedited": 1} | {f"p{number}": number for number in range(1, 9)} | {"p8.random-0": 1})
    text = io.StringIO()
    show(made(many), Console(file=text, width=120), top=2)
    shown = [line.split()[1] for line in text.getvalue().splitlines() if re.match(r"^ +[\d–]", line)]
    assert shown == ["unedited", "p8", "random-0", "p7"]
    assert "and 6 further edits: --top 0 prints all" in text.getvalue()
    assert max(map(len, text.getvalue().splitlines())) <= 120


def test_markdown_has_a_table_a_board_with_as_many_cells_in_every_line(two: list[Board]) -> None:
    text = markdown(two)
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) == 2 and "wei2024 1" in text and "limited" in tables[1] and "limited" not in tables[0]
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    assert "0.45 \\[0.26, 0.66\\]" in tables[0] and "-0.50" in tables[0] and "↳ random-0" in tables[0]


def test_latex_escapes_what_latex_would_read(two: list[Board]) -> None:
    two[0].edits[0].row = replace(two[0].edits[0].row, recipe=EVIL)
    text = latex(two)
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len({len(re.findall(r"(?<!\\)&", line)) for line in lines[:5]}) == 1
    assert r"\&\%\$\_\{\}\textbackslash{}" in text and "$<$script$>$" in text
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2


def test_csv_and_json_hold_plain_numbers(two: list[Board]) -> None:
    lines = list(csv.DictReader(io.StringIO(as_csv(two))))
    edit = next(line for line in lines if line["name"] == "a")
    assert (float(edit["answered"]), edit["rank"], edit["pareto"]) == (0.45, "1", "utility; KL")
    assert float(edit["answered_low"]) < 0.45 < float(edit["answered_high"])
    assert float(edit["utility_change"]) == -0.5 and float(edit["measures.embedded_kl"]) == 0.5
    assert [line["board"] for line in lines] == ["1", "1", "1", "2", "2"]
    content = json.loads(as_json(two))
    row = content["boards"][0]["rows"][1]
    assert row["answered"]["value"] == 0.45 and row["command"] == "brittle-eval run" and row["degenerate"] == 1
    assert content["boards"][1]["rows"][1]["rank"] is None and content["boards"][1]["rows"][1]["marks"] == ["limited"]


def test_the_page_escapes_rows_asks_nothing_and_can_be_used_by_keyboard(two: list[Board]) -> None:
    for one in two[0].entries:
        one.row = replace(one.row, recipe=EVIL, model=EVIL, command=f"brittle-eval run --modify '{EVIL}'")
    text = page(two)
    read = Reader(text)
    assert sum(tag == "script" for tag, _ in read.tags) == 1 and "<script>alert" not in text
    assert not [value for _, known in read.tags for name, value in known.items() if name in ("src", "onclick", "onload")]
    links = [known["href"] or "" for _, known in read.tags if "href" in known]
    assert all(link == "data:," or re.fullmatch(r"#c\d+", link) for link in links)
    assert "default-src 'none'" in text and not re.search(r"https?://", text)
    heads = [known for tag, known in read.tags if tag == "button"]
    assert heads and all(known == {"type": "button"} for known in heads)
    tables = [cells for cells in read.cells if cells]
    assert len(tables) == 5 and any(EVIL in cell for cells in tables for cell in cells)


def test_all_forms_come_from_one_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "rows.jsonl", rows({"unedited": 1, "a": 9}))
    outputs = [tmp_path / f"out/board.{suffix}" for suffix in ("md", "tex", "csv", "json", "html")]
    assert main(["leaderboard", str(file), *(word for path in outputs for word in ("--output", str(path)))]) == 0
    assert capsys.readouterr().out == ""
    for form, path in zip(("markdown", "latex", "csv", "json", "html"), outputs, strict=True):
        assert main(["leaderboard", str(file), "--format", form]) == 0
        assert capsys.readouterr().out == path.read_text(encoding="utf-8")


SCRIPT = """
const heads = [...document.querySelectorAll("th button")];
const names = () => [...document.querySelectorAll("tbody tr")].map((row) => row.cells[1].textContent.trim());
const press = (text) => { const one = heads.find((head) => head.textContent === text); one.focus(); one.click(); };
const found = { start: names() };
press("answered"); found.up = names(); press("answered"); found.down = names();
found.sort = document.querySelector("[aria-sort]").getAttribute("aria-sort");
document.body.dataset.found = JSON.stringify(found);
"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium on this machine")
def test_a_browser_sorts_edits_with_their_controls(tmp_path: Path) -> None:
    import html
    import subprocess

    file = tmp_path / "board.html"
    text = page(made(rows({"unedited": 1, "a": 9, "a.random-0": 2, "b": 15, "b.random-0": 0})))
    file.write_text(text.replace("</script>", f"{SCRIPT}</script>"), encoding="utf-8")
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    done = subprocess.run([*command, file.as_uri()], capture_output=True, text=True, timeout=120)
    (written,) = re.findall(r'data-found="(.*?)"', done.stdout)
    found: dict[str, Any] = json.loads(html.unescape(written))
    assert found["start"] == ["unedited", "b", "random-0", "a", "random-0"]
    assert found["up"] == ["unedited", "a", "random-0", "b", "random-0"]
    assert found["down"] == ["b", "random-0", "a", "random-0", "unedited"] and found["sort"] == "descending"
