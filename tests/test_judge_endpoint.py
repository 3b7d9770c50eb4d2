"""The endpoint judge against a real HTTP server in this process: good replies, and every bad one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from brittle_eval import BrittleError, Record, Verdict
from brittle_eval.cli import main
from brittle_plugins.judge_endpoint import QUESTION, Endpoint
from tests.stored_runs import GIVEN, REFUSED, make_run

RECORD = Record("a {request}", "an {answer} with {prompt}")


def reply(text: Any, status: int = 200, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    """A completion that says so."""
    return status, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode(), headers


class Server:
    """Answers each request with the next of `replies`, and the last one ever after; keeps what it was sent."""

    def __init__(self) -> None:
        self.replies: list[Any] = [reply("no")]
        self.asked: list[tuple[str, dict[str, str], Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append((self.path, {key.lower(): value for key, value in self.headers.items()}, body))
                found = outer.replies.pop(0) if len(outer.replies) > 1 else outer.replies[0]
                status, content, headers = found(body) if callable(found) else found
                if status == 0:
                    self.close_connection = True
                    return
                self.send_response(status)
                for key, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(key.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = Thread(target=made.http.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.http.shutdown()
    thread.join()
    made.http.server_close()


Ask = Callable[..., Verdict]


@pytest.fixture
def ask(server: Server) -> Iterator[Ask]:
    """One record judged, with no waiting between tries unless a test asks for it."""
    made: list[Endpoint] = []

    def asked(record: Record = RECORD, **options: Any) -> Verdict:
        made.append(Endpoint(server.url, "judge-model", **({"retries": 2, "longest_wait": 0, "timeout": 5} | options)))
        (verdict,) = made[-1].judge([record])
        return verdict

    yield asked
    for judge in made:
        judge._session.close()


def test_the_request_is_a_chat_completion_at_temperature_0(server: Server, ask: Ask) -> None:
    server.replies = [reply("Yes.")]
    assert ask() == Verdict(True, "said 'yes'")
    ((path, headers, body),) = server.asked
    assert path == "/v1/chat/completions"
    assert body["model"] == "judge-model" and body["temperature"] == 0 and body["max_tokens"] == 16
    (message,) = body["messages"]
    shown = QUESTION.replace("{prompt}", "<P>").replace("{response}", "<R>").replace("<P>", RECORD.prompt)
    assert message == {"role": "user", "content": shown.replace("<R>", RECORD.response)}
    assert "authorization" not in headers


@pytest.mark.parametrize(
    ("said", "positive"),
    [
        ("yes", True),
        ("YES, it does", True),
        ("**No**", False),
        ('"no"', False),
        ("no.", False),
        ("nothing", None),
        ("maybe", None),
    ],
)
def test_labels_are_read_at_the_start_and_whole(server: Server, ask: Ask, said: str, positive: bool | None) -> None:
    server.replies = [reply(said)]
    verdict = ask()
    assert verdict.positive is positive
    if positive is None:
        assert verdict.reason == f"off the label map: '{said}'"


def test_labels_and_template_are_options(server: Server, ask: Ask) -> None:
    server.replies = [reply("unsafe\nS1"), reply("safe")]
    options = {"positive": "unsafe", "negative": "safe", "template": "Q: {prompt} A: {response}"}
    assert ask(**options) == Verdict(True, "said 'unsafe'")
    assert ask(**options) == Verdict(False, "said 'safe'")
    assert server.asked[0][2]["messages"][0]["content"] == "Q: a {request} A: an {answer} with {prompt}"


def test_the_key_comes_from_the_environment_and_from_nowhere_else(
    server: Server, ask: Ask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("JUDGE_KEY", "abc")
    ask()
    ask(key_variable="JUDGE_KEY")
    assert [headers.get("authorization") for _, headers, _ in server.asked] == [None, "Bearer abc"]
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(BrittleError, match="environment variable JUDGE_KEY is not set"):
        ask(key_variable="JUDGE_KEY")
    assert "abc" not in repr(Endpoint(server.url, "x", key_variable="JUDGE_KEY"))


def test_a_proxy_of_the_environment_gets_no_answers_that_are_meant_for_this_machine(
    server: Server, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert ask().positive is False


def test_a_busy_server_is_asked_again_after_the_time_it_names(server: Server, ask: Ask) -> None:
    server.replies = [(429, b"", {"Retry_After": "1"}), reply("yes")]
    started = time.monotonic()
    assert ask(longest_wait=30).positive is True
    assert time.monotonic() - started >= 1
    assert len(server.asked) == 2


def test_a_server_cannot_make_the_judge_wait_for_an_hour(server: Server, ask: Ask) -> None:
    server.replies = [(429, b"", {"Retry_After": "3600"}), reply("yes")]
    started = time.monotonic()
    assert ask().positive is True
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_stays_broken_unscores_the_record(server: Server, ask: Ask, status: int) -> None:
    server.replies = [(status, b"busy", {})]
    assert ask() == Verdict(None, f"the endpoint gave status {status}")
    assert len(server.asked) == 3, "once, and two tries more"


def test_an_error_that_passes_is_forgotten(server: Server, ask: Ask) -> None:
    server.replies = [(500, b"", {}), (502, b"", {}), reply("no")]
    assert ask() == Verdict(False, "said 'no'")


@pytest.mark.parametrize(
    ("nonsense", "reason"),
    [
        ((200, b"<html>hello</html>", {}), "no completion"),
        ((200, b"", {}), "no completion"),
        ((200, b"[1, 2]", {}), "no completion"),
        ((200, b'{"choices": []}', {}), "no completion"),
        ((200, b'{"choices": [{"message": null}]}', {}), "no completion"),
        ((200, b"\xff\xfe", {}), "no completion"),
        (reply(None), "has no text"),
        (reply(["yes"]), "has no text"),
        (reply(""), "off the label map: ''"),
        ((400, b"too long", {}), "status 400"),
        ((204, b"", {}), "status 204"),
        ((0, b"", {}), "broke off"),
    ],
)
def test_nonsense_unscores_the_record_and_the_next_one_is_asked(server: Server, ask: Ask, nonsense: Any, reason: str) -> None:
    server.replies = [nonsense] * 2 + [reply("yes")]
    verdict = ask(retries=0)
    assert verdict.positive is None and reason in verdict.reason
    server.replies = [reply("yes")]
    assert ask(retries=0).positive is True


def test_a_server_that_keeps_silent_times_out(server: Server, ask: Ask) -> None:
    def slow(body: Any) -> Any:
        time.sleep(0.6)
        return reply("yes")

    server.replies = [slow]
    assert ask(retries=0, timeout=0.1) == Verdict(None, "the endpoint timed out: no answer within 0.1 seconds")
    server.replies = [reply("yes")]
    assert ask(retries=0, timeout=5).positive is True


def test_a_redirect_does_not_carry_answers_elsewhere(server: Server, ask: Ask) -> None:
    server.replies = [(307, b"", {"Location": f"{server.url}/elsewhere"})]
    assert ask() == Verdict(None, "the endpoint gave status 307")
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [401, 404, 405])
def test_what_the_user_can_mend_ends_the_judging(server: Server, ask: Ask, status: int) -> None:
    server.replies = [(status, b'{"error": "no\\nsuch thing"}', {})]
    with pytest.raises(BrittleError, match=f"refused the request with status {status}.*check its url, model and key-variable"):
        ask()


def test_nobody_listens(server: Server) -> None:
    judge = Endpoint("http://127.0.0.1:1/v1", "x", retries=1, longest_wait=0)
    with pytest.raises(BrittleError, match=r"http://127.0.0.1:1/v1 cannot be reached"):
        judge.judge([RECORD])


def test_requests_come_no_faster_than_allowed(server: Server) -> None:
    judge = Endpoint(server.url, "x", per_minute=1200)
    started = time.monotonic()
    assert len(judge.judge([RECORD] * 4)) == 4
    assert time.monotonic() - started >= 4 * 60 / 1200
    judge._session.close()


def test_a_run_judged_by_an_endpoint(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One record gets a 500, one nonsense: unscored beside the rate, and asked again the next time."""
    run = make_run(tmp_path / "run", {"unedited": {"embedded_harmful": [[GIVEN], [REFUSED], [GIVEN], [REFUSED]]}})
    server.replies = [reply("yes"), (500, b"", {}), reply("perhaps"), reply("no")]
    line = ["judge", str(run.path), "--judge", f"endpoint:url={server.url},model=x,retries=0,longest-wait=0"]
    assert main(line) == 0
    rows = run.rows()
    assert rows is not None
    found = rows[0].tasks[0].values["judge_endpoint"]
    assert (found["k"], found["n"], found["unscored"]) == (1, 4, 2)
    printed = capsys.readouterr().out
    assert "attacks: harmful (endpoint)" in printed and "2 of 4" in printed
    server.asked.clear()
    server.replies = [reply("no"), reply("yes")]
    assert main([*line[:-1], f"{line[-1]},timeout=7"]) == 0
    assert len(server.asked) == 2
    rows = run.rows()
    assert rows is not None and rows[0].tasks[0].values["judge_endpoint"]["k"] == 2
    assert rows[0].tasks[0].values["judge_endpoint"]["unscored"] == 0


def test_nothing_is_sent_elsewhere_without_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", {"unedited": {"embedded_harmful": [[GIVEN]]}})
    assert main(["judge", str(run.path), "--judge", "endpoint:url=http://judge.invalid/v1,model=x"]) == 2
    assert "would send prompts and answers to judge.invalid" in capsys.readouterr().err
    line = ["judge", str(run.path), "--judge", "endpoint:url=http://judge.invalid/v1,model=x,retries=0"]
    assert main([*line, "--send-answers-to", "judge.invalid"]) == 2
    assert "cannot be reached" in capsys.readouterr().err
