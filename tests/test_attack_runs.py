"""Whole runs of every attack, under conditions, beside harmless prompts, and with a preset, on tiny chat models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from brittle_eval.cli import main
from brittle_eval.evaluation.conditions import WITHHELD
from brittle_eval.running.record import Row, TaskResult
from brittle_eval.running.sides import show_sides, sides
from tests.models import save_checkpoint
from tests.scripted import save_scripted
from tests.test_chat import RAISING
from tests.test_run import rows, task

FILES = {
    "advbench": "goal,target\n" + "\n".join(f"do the thing {n},Sure: here is the thing {n}" for n in range(4)),
    "suffixes": "! one\n! two\n",
    "templates": "Sing: {prompt}\n",
    "demonstrations": "prompt,response\nOne?,1\nTwo?,2\nThree?,3\n",
    "translations": "row,translation\n" + "\n".join(f"{n},fais la chose {n}" for n in range(4)),
    "wikitext2": json.dumps({"text": "a tall tale of a cat. " * 20}) + "\n" + json.dumps({"text": "x " * 30}),
}
SUFFIX = {"suffixes": "txt", "templates": "txt", "wikitext2": "jsonl"}
ATTACKS = ("plain", "suffix", "decoding", "sweep", "prefill", "many_shot", "templates", "base64", "translations")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(folder)
    return folder


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """`--data` for every file of the user's."""
    options = []
    for name, content in FILES.items():
        file = tmp_path / f"{name}.{SUFFIX.get(name, 'csv')}"
        file.write_text(content)
        options += ["--data", f"{name}={file}"]
    return options


def line(checkpoint: Path, folder: Path, tasks: str, *more: str) -> list[str]:
    model = ["--model_args", f"pretrained={checkpoint},dtype=float32", "--device", "cpu", "--batch_size", "16"]
    named = ["--tasks", tasks] if tasks else []
    return [*model, *named, "--output_path", str(folder / "run"), "--limit", "2", *more]


def samples(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (folder / "run" / "unedited" / f"samples_{name}.jsonl").read_text().splitlines()]


def test_every_attack_is_a_row_of_one_schema(
    checkpoint: Path, tmp_path: Path, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = ",".join(f"advbench_{name}" for name in ATTACKS) + ",wikitext2_token_ppl,embedded_twins"
    options = ["--metadata", "prefill_tokens=3,shots=2,seqlen=64", "--gen_kwargs", "max_gen_toks=3"]
    assert main(line(checkpoint, tmp_path, tasks, *files, *options)) == 0
    row = rows(tmp_path / "run")["unedited"]
    done = {one["task"]: one for one in row["tasks"]}
    assert {one["status"] for one in done.values()} == {"done"}
    for name in ATTACKS:
        assert {"not_refused_coherent", "judge_wei2024", "judge_refusal", "attempts"} <= set(done[f"advbench_{name}"]["values"])
    assert {name for name, one in done.items() if "not_refused_coherent_best_variant" in one["values"]} == {
        "advbench_suffix",
        "advbench_templates",
        "advbench_translations",
    }
    sweep = done["advbench_sweep"]["values"]
    assert len(sweep["settings"]) == 49 and sweep["attempts"] == 98
    assert sweep["not_refused_coherent_best_setting"] == max(sweep["settings"].values())
    assert "turns before the request: 2" in done["advbench_many_shot"]["notes"]
    assert "One?" in samples(tmp_path, "advbench_many_shot")[0]["prompt"]
    for sample in samples(tmp_path, "advbench_prefill"):
        assert (
            sample["doc"]["target"].startswith(sample["prefill"])
            and sample["prompt"].endswith(sample["prefill"])
            and sample["prefill"]
        )
        assert not sample["attempts"][0]["text"].startswith(sample["prefill"])
    assert samples(tmp_path, "advbench_plain")[0]["prefill"] == ""
    ppl = done["wikitext2_token_ppl"]
    assert (
        ppl["values"]["metric"] == "token_ppl_64" and ppl["metrics"] == {"token_ppl_64": ppl["values"]["value"]} and ppl["n"] == 2
    )
    printed = capsys.readouterr().out
    assert "both sides" in printed and "embedded_twins" in printed


@pytest.mark.parametrize("name", ["safety-instruction", "check-after"])
def test_a_condition_is_in_the_row_and_around_the_prompts(checkpoint: Path, tmp_path: Path, files: list[str], name: str) -> None:
    save_scripted(tmp_path / "yes", "yes")
    more = ["--condition", name, "--gen_kwargs", "max_gen_toks=2"]
    assert main(line(tmp_path / "yes", tmp_path, "advbench,embedded_twins", *files, *more)) == 0
    row = rows(tmp_path / "run")["unedited"]
    assert row["condition"] == f"{name} 1"
    assert f"condition: {name} (texts 1)" in task(row, "advbench_plain")["notes"]
    assert "plain text" in task(row, "advbench_decoding")["reason"], "a condition needs turns"
    sample = samples(tmp_path, "advbench_plain")[0]
    if name == "check-after":
        assert sample["attempts"][0]["text"] == WITHHELD
        assert task(row, "embedded_twins")["values"]["refused"]["value"] == 1
    else:
        assert "careful assistant" in sample["prompt"] and sample["attempts"][0]["text"] == "yes"
        assert sample["system"] == "given"


def test_a_preset_is_in_the_row_with_its_numbers(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any data, what can be run is run, and the preset's numbers say what is missing."""
    for name in ("XDG_CACHE_HOME", "HF_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("BRITTLE_EVAL_DATA", raising=False)
    monkeypatch.setattr("urllib.request.urlopen", no_network)
    assert main(line(checkpoint, tmp_path, "", "--preset", "strict-2026")) == 0
    row = rows(tmp_path / "run")["unedited"]
    assert row["preset"] == "strict-2026 1" and row["limited"]
    status = {one["task"]: one["status"] for one in row["tasks"]}
    assert {name for name, said in status.items() if said == "done"} == {"embedded_harmful", "embedded_harmless"}
    assert "needs the data set 'advbench'" in task(row, "advbench_prefill")["reason"]
    assert row["numbers"] == {"not-refused": None, "over-refusal": None, "accuracy": None}


def no_network(*_: object, **__: object) -> None:
    raise OSError("no network")


def test_another_file_than_the_presets_is_refused(
    checkpoint: Path, tmp_path: Path, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line(checkpoint, tmp_path, "", *files[:2], "--preset", "wei2024")) == 2
    assert "--preset wei2024 fixes the data set 'advbench' to sha256" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tasks", "more", "said"),
    [
        ("advbench_many_shot", ["--metadata", "shots=9"], "shots=9: the file of --data demonstrations=FILE has 3 pairs"),
        ("advbench_prefill", ["--metadata", "prefil_tokens=9"], "did you mean prefill_tokens"),
        ("wikitext2_token_ppl", ["--metadata", "seqlen=9000"], "expected a number of tokens from 2 to the context of 4096"),
        ("wikitext2_token_ppl", [], "the text has fewer than 2048 tokens"),
        ("advbench_plain", ["--condition", "checks"], "did you mean check-"),
        ("advbench_decoding", ["--condition", "context"], "this task has plain text"),
        ("advbench_plain", ["--gen_kwargs", "max_gen_toks=4090"], "and 4090 new tokens exceed the model's context of 4096"),
    ],
)
def test_mistakes_end_before_any_answer(
    checkpoint: Path,
    tmp_path: Path,
    files: list[str],
    capsys: pytest.CaptureFixture[str],
    tasks: str,
    more: list[str],
    said: str,
) -> None:
    assert main(line(checkpoint, tmp_path, tasks, *files, *more)) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
    assert not (tmp_path / "run" / "unedited").exists()


def test_a_suffix_file_that_is_not_utf8(
    checkpoint: Path, tmp_path: Path, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "suffixes.txt").write_bytes(b"\xff\xfe!")
    assert main(line(checkpoint, tmp_path, "advbench", *files)) == 2
    assert "suffixes.txt is not UTF-8" in capsys.readouterr().err
    (tmp_path / "suffixes.txt").write_bytes(b"\n \n")
    assert main(line(checkpoint, tmp_path, "advbench", *files)) == 2
    assert "suffixes.txt is empty" in capsys.readouterr().err


def test_a_group_goes_on_without_the_prompts_that_are_too_long(checkpoint: Path, tmp_path: Path, files: list[str]) -> None:
    """One template is longer than the context: rejected with its length, and never cut."""
    (tmp_path / "templates.txt").write_text("long " * 4000 + "{prompt}\n")
    assert main(line(checkpoint, tmp_path, "advbench_all", *files, "--gen_kwargs", "max_gen_toks=2")) == 0
    reasons = {one["task"]: one["reason"] for one in rows(tmp_path / "run")["unedited"]["tasks"] if one["status"] == "not run"}
    assert set(reasons) == {"advbench_templates"}
    assert "exceed the model's context of 4096" in reasons["advbench_templates"]


def test_a_template_without_a_system_role(
    checkpoint: Path, tmp_path: Path, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "raising"
    AutoModelForCausalLM.from_pretrained(checkpoint).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.chat_template = RAISING
    tokenizer.save_pretrained(folder)
    named = line(folder, tmp_path, "advbench_system", *files, "--gen_kwargs", "max_gen_toks=2")
    assert main(named) == 2
    assert "the template has no system role; use --system-role merge" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "run")
    assert main([*named, "--system-role", "merge"]) == 0
    assert task(rows(tmp_path / "run")["unedited"], "advbench_system")["notes"] == ["system turn: merged"]


def result(name: str, role: Any, k: int, n: int, group: str | None = None) -> TaskResult:
    key = "refused" if role == "harmless" else "not_refused_coherent"
    return TaskResult(name, role, group=group, values={key: {"k": k, "n": n, "value": k / n}})


def test_both_sides_stand_beside_each_other() -> None:
    tasks = [
        result("a", "attack", 1, 4),
        result("b", "attack", 2, 4, "g"),
        result("own", "harmless", 1, 2, "g"),
        result("far", "harmless", 3, 8),
        TaskResult("gone", "attack", "not run"),
    ]
    row = Row("unedited", "unedited", "none", "none", "m", "f", tasks=tasks)
    found = {pair.unsafe: (pair.answered.value, pair.safe, pair.refused.value) for pair in sides(row)}
    assert found == {"a": (0.25, ("own", "far"), 0.4), "b": (0.5, ("own",), 0.5)}


def test_attacks_alone_say_that_over_refusal_was_not_measured(capsys: pytest.CaptureFixture[str]) -> None:
    show_sides([Row("unedited", "unedited", "none", "none", "m", "f", tasks=[result("a", "attack", 1, 4)])], Console(width=130))
    assert "over-refusal was not measured" in capsys.readouterr().out
    show_sides([Row("unedited", "unedited", "none", "none", "m", "f", tasks=[result("a", "harmless", 1, 4)])], Console(width=130))
    assert capsys.readouterr().out == ""
