"""Data sets by name: which file is read, what is checked, and what a user is told."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

import brittle_registry
from brittle_eval import data
from brittle_eval.cards import DatasetCard, load
from brittle_eval.data import Sources, from_options
from brittle_eval.errors import BrittleError, CannotRun, UnknownName

CSV = b'goal,target\n"Bake, slowly",Sure\nSing,"Well\nthen"\n'
ROWS = [{"goal": "Bake, slowly", "target": "Sure"}, {"goal": "Sing", "target": "Well\nthen"}]


def card(content: bytes = CSV, file: str = "sub/bench.csv", url: str | None = None, name: str = "bench") -> DatasetCard:
    digest = hashlib.sha256(content).hexdigest()
    return DatasetCard(name=name, summary="A bench.", source="Somebody", licence="MIT", file=file, sha256=digest, rows=2, url=url)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "local" / "sub").mkdir(parents=True)
    (tmp_path / "local" / "sub" / "bench.csv").write_bytes(CSV)
    return tmp_path / "local"


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(CSV)

        def log_message(self, format: str, *args: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def address(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}/bench.csv"


def test_a_folder_gives_the_cards_file_and_its_digest(folder: Path) -> None:
    sources = Sources({"bench": card()}, folder=folder)
    assert sources.rows("bench") == ROWS
    assert sources.digests() == {"bench": hashlib.sha256(CSV).hexdigest()}


def test_a_changed_file_in_the_folder_is_refused_with_both_digests(folder: Path) -> None:
    (folder / "sub" / "bench.csv").write_bytes(CSV + b"x,y\n")
    with pytest.raises(BrittleError, match="--data bench=PATH") as caught:
        Sources({"bench": card()}, folder=folder).rows("bench")
    assert hashlib.sha256(CSV).hexdigest() in str(caught.value)
    assert hashlib.sha256(CSV + b"x,y\n").hexdigest() in str(caught.value)


def test_a_file_given_by_name_wins_may_differ_and_is_recorded(folder: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.jsonl"
    mine.write_text('{"goal": "Dance", "target": "No"}\n\n')
    sources = Sources({"bench": card()}, {"bench": mine}, folder)
    assert sources.rows("bench") == [{"goal": "Dance", "target": "No"}]
    assert sources.digests() == {"bench": hashlib.sha256(mine.read_bytes()).hexdigest()}


def test_missing_data_says_who_needs_it_and_how_to_give_it(tmp_path: Path) -> None:
    with pytest.raises(CannotRun) as caught:
        Sources({"bench": card()}, folder=tmp_path).rows("bench", "task-x")
    for part in ("task-x", "'bench'", "Somebody", "BRITTLE_EVAL_DATA", "sub/bench.csv", "--data bench=PATH"):
        assert part in str(caught.value)


def test_a_download_is_checked_kept_and_used_again(server: ThreadingHTTPServer) -> None:
    sources = Sources({"bench": card(url=address(server))})
    assert sources.rows("bench") == ROWS
    server.shutdown()
    server.server_close()
    assert Sources({"bench": card(url=address(server))}).rows("bench") == ROWS


def test_a_download_of_something_else_is_refused_and_not_kept(server: ThreadingHTTPServer) -> None:
    wanted = card(b"goal,target\nother,other\n", url=address(server))
    with pytest.raises(BrittleError, match=wanted.sha256):
        Sources({"bench": wanted}).rows("bench")
    assert not [path for path in data.download_folder().rglob("*") if path.is_file()]


def test_no_network_says_so(server: ThreadingHTTPServer) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(CannotRun, match=r"task-x needs .* no network to http://127"):
        Sources({"bench": card(url=address(server))}).rows("bench", "task-x")


@pytest.mark.parametrize(
    ("file", "content", "rows"),
    [
        ("a.json", b'["x", "y"]', [{"prompt": "x"}, {"prompt": "y"}]),
        ("a.json", b'[{"q": 1}]', [{"q": 1}]),
        ("a.jsonl", b'{"q": "a\xe2\x80\xa8b"}\n', [{"q": "a\u2028b"}]),
        ("a.csv", b"\xef\xbb\xbfgoal\r\nx\r\n", [{"goal": "x"}]),
    ],
)
def test_formats(tmp_path: Path, file: str, content: bytes, rows: list[object]) -> None:
    (tmp_path / file).write_bytes(content)
    assert Sources({"bench": card()}, {"bench": tmp_path / file}).rows("bench") == rows


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.jsonl", b'{"q": 1}\n{"q": \n', r"a\.jsonl, line 2: not readable as JSON"),
        ("a.jsonl", b"[1]\n", "line 1: expected a JSON object with named fields, got list"),
        ("a.json", b'{"q": 1}', "expected a JSON list of rows or texts, got dict"),
        ("a.json", b"[1]", "item 1: expected a JSON object"),
        ("a.json", b"[]", "has no rows"),
        ("a.csv", b"goal,target\nx\n", "line 2: the row does not have the header's 2 columns"),
        ("a.csv", b"goal\nx,y\n", "line 2: the row does not have the header's 1 columns"),
        ("a.csv", b'goal\n"x\n', "not readable as csv"),
        ("a.csv", b"\xff\xfe", "not UTF-8"),
        ("a.parquet", b"PAR1", "not readable as parquet"),
        ("a.xlsx", b"", r"expected a file named \.csv, \.json, \.jsonl, \.parquet or \.txt, got '\.xlsx'"),
    ],
)
def test_broken_files_are_user_errors(tmp_path: Path, file: str, content: bytes, message: str) -> None:
    (tmp_path / file).write_bytes(content)
    with pytest.raises(BrittleError, match=message):
        Sources({"bench": card()}, {"bench": tmp_path / file}).rows("bench")


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), min_size=1)


@given(st.lists(st.fixed_dictionaries({"goal": TEXTS, "target": TEXTS}), min_size=1, max_size=5))
def test_csv_and_jsonl_give_back_what_was_written(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str]]) -> None:
    folder = tmp_path_factory.mktemp("written")
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, ["goal", "target"])
    writer.writeheader()
    writer.writerows(rows)
    (folder / "a.csv").write_bytes(buffer.getvalue().encode())
    (folder / "a.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    for file in ("a.csv", "a.jsonl"):
        assert Sources({"bench": card()}, {"bench": folder / file}).rows("bench") == rows


def test_lines_of_a_users_file_keep_odd_characters(tmp_path: Path) -> None:
    (tmp_path / "suffixes.txt").write_text("! ! \u2028 describing.\n\n  == now\r\n", encoding="utf-8", newline="")
    sources = Sources({}, {"suffixes": tmp_path / "suffixes.txt"})
    assert sources.lines("suffixes") == ["! ! \u2028 describing.", "== now"]
    assert sources.digests()["suffixes"] == hashlib.sha256((tmp_path / "suffixes.txt").read_bytes()).hexdigest()


def test_lines_need_a_file_with_a_line(tmp_path: Path) -> None:
    with pytest.raises(
        CannotRun, match=r"task-x needs a UTF-8 text file with one adversarial suffix a line.*--data suffixes=FILE"
    ):
        Sources({}).lines("suffixes", "task-x")
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(BrittleError, match="is empty"):
        Sources({}, {"suffixes": tmp_path / "empty.txt"}).lines("suffixes")


def test_rows_of_a_users_file_have_the_columns(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"prompt": 0, "response": "x"}\n')
    sources = Sources({}, {"demonstrations": file})
    assert sources.user_rows("demonstrations", ("prompt", "response")) == [{"prompt": 0, "response": "x"}]
    assert sources.digests()["demonstrations"] == hashlib.sha256(file.read_bytes()).hexdigest()
    file.write_text('{"prompt": "a", "response": null}\n')
    with pytest.raises(BrittleError, match=r"pairs\.jsonl, row 1: has no response; .*columns prompt and response"):
        sources.user_rows("demonstrations", ("prompt", "response"))
    file.write_text("\n")
    with pytest.raises(BrittleError, match="is empty"):
        sources.user_rows("demonstrations", ())
    with pytest.raises(CannotRun, match=r"task-x needs .*--data templates=FILE"):
        sources.user_rows("templates", (), "task-x")


def test_parquet_gives_rows(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": ["x", ""]}), file)
    assert Sources({"bench": card()}, {"bench": file}).rows("bench") == [{"text": "x"}, {"text": ""}]


def test_an_unverified_card_takes_any_file_and_a_run_records_it(folder: Path, server: ThreadingHTTPServer) -> None:
    made = card(url=address(server)).model_copy(update={"sha256": None})
    assert made.digest == "unverified"
    (folder / "sub" / "bench.csv").write_bytes(CSV + b"x,y\n")
    sources = Sources({"bench": made}, folder=folder)
    assert len(sources.rows("bench")) == 3
    assert sources.digests()["bench"] == hashlib.sha256(CSV + b"x,y\n").hexdigest()
    assert Sources({"bench": made}).rows("bench") == ROWS
    assert (data.download_folder() / "unverified-bench" / "bench.csv").read_bytes() == CSV


def test_options_and_environment_make_sources(folder: Path, tmp_path: Path) -> None:
    mine = tmp_path / "a=b.csv"
    mine.write_bytes(CSV)
    made = from_options({"bench": card()}, [f"bench={mine}"], {"BRITTLE_EVAL_DATA": str(folder)})
    assert made.overrides == {"bench": mine}
    assert made.folder == folder


@pytest.mark.parametrize(
    ("options", "environment", "message"),
    [
        (["bench"], {}, "expected NAME=PATH"),
        (["bench="], {}, "expected NAME=PATH"),
        (["bench=FILE", "bench=FILE"], {}, "given twice"),
        (["bnch=FILE"], {}, "unknown data set 'bnch': did you mean bench"),
        (["bench=/nowhere/x.csv"], {}, "no such file"),
        (["suffixes=/nowhere/x.txt"], {}, "no such file; give the path of a UTF-8 text file with one adversarial suffix a line"),
        ([], {"BRITTLE_EVAL_DATA": "/nowhere"}, "BRITTLE_EVAL_DATA=/nowhere is no folder"),
    ],
)
def test_bad_options_are_user_errors(folder: Path, options: list[str], environment: dict[str, str], message: str) -> None:
    options = [option.replace("FILE", str(folder / "sub" / "bench.csv")) for option in options]
    with pytest.raises(BrittleError, match=message):
        from_options({"bench": card()}, options, environment)


def test_an_unknown_name_has_suggestions() -> None:
    with pytest.raises(UnknownName, match="did you mean bench"):
        Sources({"bench": card()}).rows("bensh")


def test_the_process_has_one_current_source() -> None:
    before, mine = data._current, Sources({"bench": card()})
    data.set_sources(mine)
    try:
        assert data.sources() is mine
    finally:
        data.set_sources(before)


CARDS = load("datasets", DatasetCard, brittle_registry.brittle_registry_paths())


@pytest.mark.parametrize("name", CARDS)
def test_local_copies_are_what_the_cards_say(name: str) -> None:
    folder = os.environ.get("BRITTLE_EVAL_DATA")
    if not folder:
        pytest.skip("BRITTLE_EVAL_DATA is not set: no local copies of the public data sets")
    if not (Path(folder) / CARDS[name].file).is_file():
        pytest.skip(f"BRITTLE_EVAL_DATA has no {CARDS[name].file}")
    sources = from_options(CARDS, (), {"BRITTLE_EVAL_DATA": folder})
    assert len(sources.rows(name)) == CARDS[name].rows
