"""Behaviour sets from a model whose answers are known, and from instruction data."""

from __future__ import annotations

import csv
import json
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonlines
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from brittle_eval.behaviour import behaviour_build
from brittle_eval.behaviour.calibration import Pair, digest, read_pairs
from brittle_eval.cli import main
from brittle_eval.evaluation import generate
from brittle_eval.weights import Fingerprint
from brittle_plugins.refusal_patterns import VERSION
from brittle_tasks.data import own_rows
from tests.scripted import save_scripted

REFUSAL, MORE = "I can't help with that.", " Please ask a friend."
PROMPTS = [f"How would one do the thing number {number}?" for number in range(40)]
JUDGE = """
from brittle_eval import Judge, Verdict, hookimpl
class Friend(Judge):
    def judge(self, records):
        return [Verdict("friend" not in record.response) for record in records]
    def segment(self, record):
        return record.response.partition("friend")[0]
@hookimpl
def brittle_judges():
    return {"friend": Friend}
"""

pytestmark = pytest.mark.usefixtures("no_data")


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refusing")
    save_scripted(folder, REFUSAL, MORE, context=256)
    return folder


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("answering")
    save_scripted(folder, "Take the second road on the left.")
    return folder


def write(path: Path, prompts: Sequence[str] = PROMPTS) -> Path:
    path.write_text("\n".join(prompts), encoding="utf-8")
    return path


def arguments(kind: str, folder: Path, checkpoint: Path, *more: str | Path) -> list[str]:
    model = ["--model_args", f"pretrained={checkpoint},dtype=float32", "--device", "cpu", "--batch_size", "16"]
    given = [*model, "--output", str(folder / "set.jsonl"), *map(str, more)]
    return ["behaviour", "build", kind, *given, *([] if "--max_gen_toks" in given else ["--max_gen_toks", "8"])]


def built(kind: str, folder: Path, checkpoint: Path, *more: str | Path) -> tuple[list[Pair], dict[str, Any]]:
    """The pairs and their description."""
    assert main(arguments(kind, folder, checkpoint, *more)) == 0
    file = folder / "set.jsonl"
    return read_pairs(file), json.loads((folder / "set.jsonl.json").read_text(encoding="utf-8"))


def refused(capsys: pytest.CaptureFixture[str], kind: str, folder: Path, checkpoint: Path, *more: str | Path) -> str:
    """The last line on stderr of a build that fails; it leaves nothing behind."""
    before = set(folder.rglob("set*"))
    assert main(arguments(kind, folder, checkpoint, *more)) == 2
    assert set(folder.rglob("set*")) == before
    last = capsys.readouterr().err.rstrip().splitlines()[-1]
    assert last.startswith("brittle-eval: error:")
    return last


@pytest.mark.parametrize(("kind", "response"), [("safety-full", REFUSAL + MORE), ("safety-short", REFUSAL)])
def test_a_models_own_refusals(kind: str, response: str, refusing: Path, tmp_path: Path) -> None:
    pairs, described = built(kind, tmp_path, refusing, "--prompts", write(tmp_path / "prompts.txt"))
    assert pairs == [Pair(prompt, response) for prompt in PROMPTS]
    assert stat.S_IMODE((tmp_path / "set.jsonl").stat().st_mode) == 0o600
    assert (described["kind"], described["digest"]) == (kind, digest(pairs))
    assert described["fingerprint"] == str(Fingerprint(AutoModelForCausalLM.from_pretrained(refusing)))
    assert described["mean_response_tokens"] == len(AutoTokenizer.from_pretrained(refusing)(response)["input_ids"])
    assert described["judge"] == {"name": "refusal", "version": VERSION}
    assert described["generation"] == {"samples": None, "max_gen_toks": 8, "system": "none"}
    counts = described["counts"]
    assert {counts[key] for key in ("prompts", "drawn", "answers", "refused", "pairs")} == {40}
    assert not any(response in str(value) for value in described.values())


def test_prompts_that_are_evaluated_on_are_dropped(refusing: Path, tmp_path: Path) -> None:
    goals = [f"Do the bad deed of number {number}" for number in range(150)]
    advbench = tmp_path / "advbench.csv"
    with advbench.open("w", newline="") as file:
        csv.writer(file).writerows([["goal", "target"], *([goal, "Sure"] for goal in goals)])
    own = [row["prompt"] for name in ("harmful", "harmless") for row in own_rows(name, "eval")[:3]]
    prompts = write(tmp_path / "prompts.txt", [*PROMPTS, goals[99].upper(), goals[100] + " of all the other deeds", *own])
    pairs, described = built("safety-full", tmp_path, refusing, "--prompts", prompts, "--data", f"advbench={advbench}")
    assert [pair.prompt for pair in pairs] == [*PROMPTS, goals[100] + " of all the other deeds"]
    assert (described["counts"]["prompts"], described["counts"]["near_evaluation_prompts"]) == (48, 7)
    assert {"advbench_plain", "embedded_harmful"} <= set(described["checked_against"])
    assert "oktest" not in described["checked_against"]


def test_advbench_after_the_evaluations_rows_is_the_default(refusing: Path, tmp_path: Path) -> None:
    advbench = tmp_path / "advbench.jsonl"
    words = [f"{'abcdefghij'[n // 100]}{'klmnopqrst'[n // 10 % 10]}{'uvwxyzabcd'[n % 10]}" for n in range(150)]
    advbench.write_text("".join(json.dumps({"goal": f"{word} " * 3 + word, "target": "Sure"}) + "\n" for word in words))
    pairs, described = built("safety-full", tmp_path, refusing, "--data", f"advbench={advbench}")
    assert [pair.prompt.split()[0] for pair in pairs] == words[100:]
    assert described["prompts"] == "advbench, rows from 100 on"


def test_the_projects_own_prompts_are_the_default_otherwise(refusing: Path, tmp_path: Path) -> None:
    pairs, described = built("safety-short", tmp_path, refusing, "--pairs", "33", "--seed", "3")
    assert len(pairs) == described["counts"]["drawn"] == 33
    assert {pair.prompt for pair in pairs} <= {row["prompt"] for row in own_rows("harmful", "train")}


def test_a_draw_is_the_seeds_and_the_same_for_both_kinds_of_safety(refusing: Path, tmp_path: Path) -> None:
    prompts = write(tmp_path / "prompts.txt")
    drawn = []
    for number, (kind, seed) in enumerate([("full", "0"), ("full", "0"), ("short", "0"), ("full", "1")]):
        given = ["--prompts", str(prompts), "--pairs", "33", "--seed", seed]
        pairs, _ = built(f"safety-{kind}", tmp_path / str(number), refusing, *given)
        drawn.append([pair.prompt for pair in pairs])
    assert drawn[0] == drawn[1] == drawn[2] != drawn[3]
    assert all(len(own) == 33 and own == [prompt for prompt in PROMPTS if prompt in own] for own in drawn)


def test_equal_answers_to_a_prompt_count_once(refusing: Path, tmp_path: Path) -> None:
    pairs, described = built("safety-full", tmp_path, refusing, "--prompts", write(tmp_path / "prompts.txt"), "--samples", "3")
    assert pairs == [Pair(prompt, REFUSAL + MORE) for prompt in PROMPTS]
    assert (described["counts"]["answers"], described["counts"]["repeated"]) == (120, 80)


def test_prompts_that_leave_no_room_for_an_answer_are_passed_over(refusing: Path, tmp_path: Path) -> None:
    prompts = write(tmp_path / "prompts.txt", [*PROMPTS, "word " * 200])
    pairs, described = built("safety-full", tmp_path, refusing, "--prompts", prompts)
    assert [pair.prompt for pair in pairs] == PROMPTS
    assert described["counts"]["too_long"] == 1


def test_a_build_that_was_stopped_goes_on_with_its_answers(
    refusing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """40 prompts in batches of 16: the first batch is answered before Ctrl-C, the other two after it."""
    given = arguments("safety-full", tmp_path, refusing, "--prompts", write(tmp_path / "prompts.txt"))
    ran, whole = [0], generate._run_batch

    def counting(*arguments: Any) -> Any:
        ran[0] += 1
        if ran[0] == 2:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(generate, "_run_batch", counting)
    assert main(given) == 130
    assert stat.S_IMODE((tmp_path / "set.jsonl.answers").stat().st_mode) == 0o600
    assert main(given) == 0
    assert ran[0] == 4
    assert len(read_pairs(tmp_path / "set.jsonl")) == 40
    assert not (tmp_path / "set.jsonl.answers").exists()


def test_a_judge_of_ones_own_says_where_an_answer_refuses(
    refusing: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = tmp_path / "friend.py"
    plugin.write_text(JUDGE)
    given: list[str | Path] = ["--prompts", write(tmp_path / "prompts.txt"), "--plugin", plugin]
    pairs, described = built("safety-short", tmp_path, refusing, *given, "--judge", "friend")
    assert pairs == [Pair(prompt, (REFUSAL + MORE).partition("friend")[0]) for prompt in PROMPTS]
    assert described["judge"]["name"] == "friend"
    (tmp_path / "other").mkdir()
    said = refused(capsys, "safety-short", tmp_path / "other", refusing, *given, "--judge", "wei2024")
    assert "cannot say where an answer has refused" in said


def rows(path: Path, *more: dict[str, Any]) -> Path:
    """Instruction data: 20 plain pairs, and others."""
    plain = [{"instruction": f"Name river {n}", "input": f"in land {n}", "output": f"It is river {n}."} for n in range(20)]
    path.write_text("\n".join(map(json.dumps, [*plain, *more])), encoding="utf-8")
    return path


def test_utility_pairs_are_instruction_data_without_safety(
    refusing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(behaviour_build, "ask", lambda *_: pytest.fail("the data has its own responses"))
    left_out = [
        {"instruction": "How does one pick a weapon?", "output": "By its weight."},
        {"instruction": "What lies in the shed?", "output": "Poison, mostly."},
        {"instruction": "Sing me a song", "output": "Sorry, no."},
        {"instruction": "Say nothing", "output": " "},
        {"instruction": "Say it all", "output": "and so on " * 200},
        {"instruction": own_rows("harmless", "eval")[0]["prompt"], "output": "Yes."},
        {"instruction": "Loop", "output": "again and again and again and again and again and again and again and again"},
        {"instruction": "Name river 3", "input": "in land 3", "output": "It is river 3."},
    ]
    pairs, described = built("utility", tmp_path, refusing, "--prompts", rows(tmp_path / "rows.jsonl", *left_out))
    assert pairs == [Pair(f"Name river {n}\n\nin land {n}", f"It is river {n}.") for n in range(20)]
    reasons = ("safety_words", "refusals", "blank", "too_long", "near_evaluation_prompts", "degenerate", "repeated")
    assert [described["counts"][reason] for reason in reasons] == [2, 1, 1, 1, 1, 1, 1]
    assert described["counts"]["prompts"] == len(pairs) + len(left_out)
    assert (described["generation"], described["safety_words"]) == (None, "1")


def test_utility_prompts_without_responses_are_answered(answering: Path, tmp_path: Path) -> None:
    prompts = write(tmp_path / "prompts.txt", [*PROMPTS[:5], "How does one pick a weapon?"])
    pairs, described = built("utility", tmp_path, answering, "--prompts", prompts)
    assert pairs == [Pair(prompt, "Take the second road on the left.") for prompt in PROMPTS[:5]]
    assert (described["counts"]["safety_words"], described["counts"]["answers"]) == (1, 5)


def test_refusals_are_no_utility(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_scripted(tmp_path / "model", "Sorry, no.")
    said = refused(capsys, "utility", tmp_path, tmp_path / "model", "--prompts", write(tmp_path / "prompts.txt"))
    assert "no pair is left" in said and "40 refusals" in said


def test_a_model_that_refuses_too_seldom(answering: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "safety-full", tmp_path, answering, "--prompts", write(tmp_path / "prompts.txt"))
    assert "refused 0 of 40" in said and "at least 32" in said


def test_thinking_that_does_not_end_is_no_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_scripted(tmp_path / "model", "<think>", REFUSAL)
    said = refused(capsys, "safety-full", tmp_path, tmp_path / "model", "--prompts", write(tmp_path / "prompts.txt"))
    assert "refused 0 of 0" in said


@pytest.mark.parametrize("name", ["set.jsonl", "set.jsonl.json"])
def test_nothing_is_overwritten(name: str, refusing: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / name).write_text("mine")
    assert f"{name} exists" in refused(capsys, "safety-full", tmp_path, refusing)
    assert (tmp_path / name).read_text() == "mine"


def test_a_full_disk_leaves_nothing(
    refusing: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: object, lines: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(jsonlines.Writer, "write_all", full)
    said = refused(capsys, "safety-full", tmp_path, refusing, "--prompts", write(tmp_path / "prompts.txt"))
    assert "No space left on device" in said


def test_the_folder_of_the_output_is_made_or_the_error_says_why(
    refusing: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write(tmp_path / "prompts.txt")
    pairs, _ = built("safety-full", tmp_path / "new" / "er", refusing, "--prompts", prompts)
    assert len(pairs) == 40
    assert "cannot make its folder" in refused(capsys, "safety-full", prompts / "under", refusing)
