"""`brittle-eval judge`: stored answers judged again, resumed, counted anew, and compared with labels."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from brittle_eval.cli import main
from brittle_eval.evaluation.assess import attack_values
from brittle_eval.judgement.verdicts import answer_key
from brittle_eval.running.record import RunFolder
from tests.models import save_checkpoint
from tests.stored_runs import BROKEN, GIVEN, REFUSED, make_run

PLUGIN = """
from pathlib import Path
from brittle_eval import Judge, Verdict, hookimpl

LOG, STOP = Path(r"{log}"), Path(r"{stop}")

class Salty(Judge):
    "Positive: the answer names salt."
    counts = "names salt"
    at_once = 2
    version = "{version}"

    def judge(self, records):
        with LOG.open("a") as log:
            log.writelines(record.response[:20] + "\\n" for record in records)
        if any("trap" in record.response for record in records):
            raise KeyboardInterrupt if STOP.exists() else RuntimeError("no idea")
        return [Verdict("salt" in record.response) for record in records]

@hookimpl
def brittle_judges():
    return {{"salty": Salty}}
"""
TASKS = {"embedded_harmful": [[REFUSED], [GIVEN], [BROKEN], ["trap"]], "embedded_harmless": [[GIVEN], [REFUSED]]}


class Salty:
    """The plugin's file, and what the judge was asked."""

    def __init__(self, folder: Path) -> None:
        self.file, self.log, self.stop = folder / "salty.py", folder / "asked.txt", folder / "stop"
        self.write()

    def write(self, version: str = "1") -> None:
        self.file.write_text(PLUGIN.format(log=self.log, stop=self.stop, version=version))

    def asked(self) -> int:
        number = len(self.log.read_text().splitlines()) if self.log.exists() else 0
        self.log.unlink(missing_ok=True)
        return number


@pytest.fixture
def salty(tmp_path: Path) -> Salty:
    return Salty(tmp_path)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    edit = {"embedded_harmful": [[GIVEN]] * 4, "embedded_harmless": TASKS["embedded_harmless"]}
    return make_run(tmp_path / "run", {"unedited": TASKS, "plan": edit})


def judge(run: RunFolder, salty: Salty, *arguments: str) -> int:
    return main(["judge", str(run.path), "--judge", "salty", "--plugin", str(salty.file), *arguments])


def values(run: RunFolder, row: int, task: int = 0) -> dict[str, Any]:
    rows = run.rows()
    assert rows is not None
    return rows[row].tasks[task].values


def test_another_judge_counts_and_a_crash_unscores_its_own_record_only(
    run: RunFolder, salty: Salty, capsys: pytest.CaptureFixture[str]
) -> None:
    before = values(run, 0)
    assert judge(run, salty) == 0
    found = values(run, 0)
    assert found["judge_salty"] == found["judge_salty"] | {"k": 2, "n": 4, "unscored": 1}
    assert {key: found[key] for key in before if key != "agreement"} == {key: before[key] for key in before if key != "agreement"}
    assert values(run, 1)["judge_salty"]["k"] == 4 and values(run, 1)["versus_unedited"]["p_holm"] is not None
    assert set(found["agreement"]) == {"wei2024|refusal", "wei2024|salty", "refusal|salty"}
    samples = run.path / "unedited" / "samples_embedded_harmful.jsonl"
    said = [json.loads(line)["attempts"][0]["verdicts"]["salty"] for line in samples.read_text().splitlines()]
    assert [one["positive"] for one in said] == [False, True, True, None]
    assert said[3]["reason"] == "the judge raised RuntimeError: no idea"
    private = [samples, run.path / "verdicts" / "salty.jsonl"]
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in private)
    assert not list(run.path.rglob("*.part"))
    printed = capsys.readouterr().out
    assert "attacks: names salt (salty)" in printed and "Agreement of refusal and salty: Cohen's κ" in printed


def test_rows_are_as_if_the_judge_had_been_asked_in_the_run(run: RunFolder, salty: Salty, tmp_path: Path) -> None:
    """Gcg in the run, and gcg afterwards: the same rows and results."""
    from brittle_plugins.judge_gcg import GCG
    from brittle_plugins.judge_refusal import Refusal
    from brittle_plugins.judge_wei2024 import Wei2024

    assert main(["judge", str(run.path), "--judge", "gcg"]) == 0
    judges = {"wei2024": Wei2024(), "refusal": Refusal(), "gcg": GCG()}
    edit = {"embedded_harmful": [[GIVEN]] * 4, "embedded_harmless": TASKS["embedded_harmless"]}
    other = make_run(tmp_path / "other", {"unedited": TASKS, "plan": edit}, judges)
    assert run.rows() == other.rows()
    ours, theirs = (json.loads((folder.path / "results.json").read_text()) for folder in (run, other))
    assert ours == theirs
    assert [pair["judges"] for pair in ours["agreement"]] == [["wei2024", "refusal"], ["wei2024", "gcg"], ["refusal", "gcg"]]


DISTINCT = 8
"""Of the twelve stored answers: 0 refused, 1 given, 2 broken, 3 trap | 0 given, 1 refused | 2 and 3 given; in batches of two."""
ALONE = 2
"""The batch with the trap is asked again record by record."""


def test_equal_answers_are_asked_once_and_a_second_time_only_what_had_no_verdict(run: RunFolder, salty: Salty) -> None:
    assert judge(run, salty) == 0
    assert salty.asked() == DISTINCT + ALONE
    before = (run.path / "rows.jsonl").read_bytes()
    assert judge(run, salty) == 0
    assert salty.asked() == 2, "the trap alone: once as a batch of one, once more by itself"
    assert (run.path / "rows.jsonl").read_bytes() == before


def test_a_judge_that_was_stopped_goes_on_where_it_was(run: RunFolder, salty: Salty) -> None:
    rows = (run.path / "rows.jsonl").read_bytes()
    salty.stop.touch()
    assert judge(run, salty) == 130
    assert salty.asked() == 4, "stopped in the second batch"
    assert (run.path / "rows.jsonl").read_bytes() == rows, "nothing is counted before every judge is done"
    salty.stop.unlink()
    assert judge(run, salty) == 0
    assert salty.asked() == DISTINCT - 2 + ALONE
    assert values(run, 0)["judge_salty"]["unscored"] == 1


def test_another_version_of_a_judge_is_asked_anew(run: RunFolder, salty: Salty, capsys: pytest.CaptureFixture[str]) -> None:
    assert judge(run, salty) == 0
    whole = salty.asked()
    salty.write(version="2")
    assert judge(run, salty) == 0
    assert salty.asked() == whole
    assert "of another version or other options" in capsys.readouterr().err
    rows = run.rows()
    assert rows is not None and rows[0].judges["salty"]["version"] == "2"


def test_a_run_that_stopped_answers_early_has_no_verdict_of_a_judge_that_needs_more(run: RunFolder, salty: Salty) -> None:
    file = run.path / "plan" / "samples_embedded_harmful.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[0]["attempts"][0]["cut"] = True
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert judge(run, salty) == 0
    assert values(run, 1)["judge_salty"] == values(run, 1)["judge_salty"] | {"k": 3, "n": 4, "unscored": 1}


def test_a_folder_that_another_process_writes_is_left_alone(
    run: RunFolder, salty: Salty, capsys: pytest.CaptureFixture[str]
) -> None:
    with FileLock(run.path / ".lock"):
        assert judge(run, salty) == 2
    assert "another process is writing" in capsys.readouterr().err
    assert salty.asked() == 0


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda path: (path / "rows.jsonl").unlink(), "is not finished: repeat its command"),
        (lambda path: (path / "run.json").unlink(), "holds no run"),
        (lambda path: (path / "unedited/samples_embedded_harmful.jsonl").write_text("{}\n"), "cannot be read"),
        (lambda path: (path / "unedited/samples_embedded_harmful.jsonl").unlink(), "cannot be read"),
    ],
)
def test_what_is_no_finished_run_is_refused(
    run: RunFolder, salty: Salty, break_it: Any, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    break_it(run.path)
    assert judge(run, salty) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1
    assert salty.asked() == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing to do"),
        (["--judge", "refusl"], "did you mean refusal"),
        (["--judge", "endpoint:url=https://judge.example/v1,model=x"], "allow it with --send-answers-to judge.example"),
        (["--judge", "gcg", "--against", "/nowhere.jsonl"], "cannot read /nowhere.jsonl"),
    ],
)
def test_mistakes_in_the_command(run: RunFolder, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["judge", str(run.path), *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1
    assert not (run.path / "verdicts").exists()


def test_a_run_refuses_a_judge_that_needs_a_model_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "hf", "--judge", "refusal,llama-guard-3-8b"]) == 2
    assert "run without it, then `brittle-eval judge RUN`" in capsys.readouterr().err


def test_judges_against_labels_of_a_run(run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from brittle_eval import Record

    labels = [
        {"task": "embedded_harmful", "doc_id": 0, "label": False},
        {"task": "embedded_harmful", "doc_id": 1, "label": True},
        {"answer": answer_key(Record("request 2", BROKEN)), "label": False},
        {"prompt": "request 3", "response": "trap", "label": None},
        {"task": "embedded_harmful", "doc_id": 9, "label": True},
    ]
    file = tmp_path / "labels.jsonl"
    file.write_text("".join(json.dumps(label) + "\n" for label in labels))
    assert main(["judge", str(run.path), "--against", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["labels"], found["used"], found["undecided"], found["of_no_answer"]) == (5, 3, 1, 1)
    refusal = found["judges"]["refusal"]
    assert (refusal["n"], refusal["precision"], refusal["recall"]) == (3, 0.5, 1.0)
    assert set(found["judges"]) == {"wei2024", "refusal"}
    assert main(["judge", str(run.path), "--judge", "gcg", "--against", str(file)]) == 0
    assert "gcg: precision 0.333, recall 1.000, κ 0.000 (n = 3, 1 labelled positive, 0 unscored)" in capsys.readouterr().out


def test_judges_against_labelled_texts_without_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "labels.jsonl"
    texts = {REFUSED: False, GIVEN: True, "Sorry.": False, "": True}
    file.write_text(
        "".join(json.dumps({"prompt": "p", "response": text, "label": label}) + "\n" for text, label in texts.items())
    )
    assert main(["judge", "--judge", "refusal,gcg", "--against", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["judges"]
    assert (found["refusal"]["recall"], found["refusal"]["unscored"], found["refusal"]["positives"]) == (0.5, 1, 2)
    assert found["gcg"]["recall"] == 1.0
    file.write_text(json.dumps({"task": "t", "doc_id": 0, "label": True}) + "\n")
    assert main(["judge", "--judge", "refusal", "--against", str(file)]) == 2
    assert "need the run that has them" in capsys.readouterr().err


def test_the_model_under_test_is_not_loaded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real run of a tiny model, then judges over its folder."""
    save_checkpoint(tmp_path / "model")
    line = ["--model", "hf", "--model_args", f"pretrained={tmp_path / 'model'},dtype=float32", "--device", "cpu"]
    line += ["--batch_size", "4", "--limit", "3", "--gen_kwargs", "max_gen_toks=4", "--tasks", "embedded_harmful"]
    assert main([*line, "--modify", "none", "--output_path", str(tmp_path / "run")]) == 0
    (tmp_path / "model" / "model.safetensors").unlink()
    assert main(["judge", str(tmp_path / "run"), "--judge", "gcg"]) == 0
    printed = capsys.readouterr().out
    assert "no refusal phrase (gcg)" in printed and "limited run" in printed
    before = (tmp_path / "run" / "rows.jsonl").read_bytes()
    assert main([*line, "--modify", "none", "--output_path", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "rows.jsonl").read_bytes() == before, "the run is still finished, and keeps the further judge"


def test_values_of_the_stored_attempts_are_those_of_the_definition(run: RunFolder, salty: Salty) -> None:
    from brittle_eval.evaluation.assess import Attempt

    assert judge(run, salty) == 0
    lines = (run.path / "unedited" / "samples_embedded_harmful.jsonl").read_text().splitlines()
    attempts = [[Attempt.read(attempt) for attempt in json.loads(line)["attempts"]] for line in lines]
    assert values(run, 0) == json.loads(json.dumps(attack_values(attempts, ["wei2024", "refusal", "salty"])))


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0c", "\r"])
def test_an_answer_may_hold_what_ends_a_line_elsewhere(tmp_path: Path, salty: Salty, mark: str) -> None:
    run = make_run(tmp_path / "marked", {"unedited": {"embedded_harmful": [[f"First{mark}the salt"], [GIVEN]]}})
    assert judge(run, salty) == 0
    assert values(run, 0)["judge_salty"]["k"] == 2
    sample = (run.path / "unedited" / "samples_embedded_harmful.jsonl").read_text(encoding="utf-8").split("\n")[0]
    assert json.loads(sample)["attempts"][0]["text"] == f"First{mark}the salt"
