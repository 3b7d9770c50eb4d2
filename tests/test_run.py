"""Whole runs of the command on a tiny random chat model."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from brittle_eval.cli import main
from brittle_eval.running import run as run_module
from brittle_eval.store import load_region
from tests.architectures import mixtral
from tests.models import save_checkpoint, tokenizer

TASKS = "embedded_harmful,embedded_choice,embedded_perplexity,embedded_kl"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(folder)
    return folder


def pairs(path: Path, word: str) -> Path:
    lines = [{"prompt": f"please {word} number {n}", "response": f"the {word} answer is {n}"} for n in range(6)]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.fixture
def arguments(checkpoint: Path, tmp_path: Path) -> list[str]:
    return [
        *("--model", "hf", "--model_args", f"pretrained={checkpoint},dtype=float32", "--device", "cpu", "--batch_size", "4"),
        *("--limit", "3", "--gen_kwargs", "max_gen_toks=4", "--tasks", TASKS, "--controls", "random:1,magnitude:1"),
        *("--behaviour", f"safety={pairs(tmp_path / 'safety.jsonl', 'bad')}"),
        *("--behaviour", f"utility={pairs(tmp_path / 'utility.jsonl', 'good')}"),
        *("--output_path", str(tmp_path / "run")),
    ]


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in map(json.loads, (folder / "rows.jsonl").read_text().splitlines())}


def task(row: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = (task for task in row["tasks"] if task["task"] == name)
    return dict(found)


@pytest.mark.parametrize("recipe", ["wanda-diff:p=0.3,q=0.3", "snip-diff:p=0.3,q=0.3", "random+top+ablate:q=0.2"])
def test_a_run_from_command_to_rows(
    arguments: list[str], tmp_path: Path, recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--modify", recipe]) == 0
    found = rows(tmp_path / "run")
    edited = next(row for row in found.values() if row["kind"] == "edited")
    controls = [row for row in found.values() if row["kind"] == "control"]
    assert [row["kind"] for row in found.values()] == ["unedited", "edited", "control", "control"]
    assert {row["region"]["count"] for row in [edited, *controls]} == {edited["region"]["count"]}
    assert len({row["fingerprint"] for row in found.values()}) == 4
    assert task(found["unedited"], "embedded_kl")["values"]["value"] == pytest.approx(0, abs=1e-6)
    assert task(edited, "embedded_kl")["values"]["value"] > 0
    assert task(edited, "embedded_harmful")["n"] == 3 and edited["limited"]
    printed = capsys.readouterr().out
    assert "edited" in printed and "magnitude-0" in printed and "limited run" in printed


def test_a_low_rank_run_counts_ranks(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two blocks of five weights with 32 ranks and two with 16; the magnitude control has nothing to match."""
    assert main([*arguments, "--modify", "actsvd-diff:r-u=0.9,r-s=0.95"]) == 0
    found = rows(tmp_path / "run")
    assert [row["kind"] for row in found.values()] == ["unedited", "edited", "control"]
    expected = {"ranks": 2 * (5 * 2 + 2 * 1), "of_ranks": 24 / (2 * (5 * 32 + 2 * 16))}
    assert [row["region"] for row in found.values()] == [{}, expected, expected]
    assert len({row["fingerprint"] for row in found.values()}) == 3
    printed, said = capsys.readouterr()
    assert "region of 24 ranks, 6.25% of the block linears' ranks" in said and "no magnitude control" in said
    shown = next(line for line in printed.splitlines() if "region: share of ranks" in line)
    assert shown.split()[-3:] == ["–", "6.25%", "6.25%"] and "share of block linears" not in printed
    file = next((tmp_path / "run" / "regions").iterdir())
    assert load_region(file)[1]["size"] == expected and load_region(file)[0].ranks == 24


def test_a_scope_and_what_was_covered_are_on_record(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [*arguments, "--modify", "magnitude+heads+ablate:count=2,blocks=1,modules=self_attn.*", "--controls", "random:1"]
    assert main(line) == 0
    found = rows(tmp_path / "run")
    (edited,) = (row for row in found.values() if row["kind"] == "edited")
    assert "scope.blocks=1,scope.modules=self_attn.*" in edited["plan"]
    assert edited["region"]["count"] in (2 * 16 * 32, 2 * 16 * 32 + 2 * 8 * 32), "two heads, and keys and values if of one group"
    report = json.loads((tmp_path / "run" / "coverage.json").read_text())
    assert report["weights"] == 14 and report["share_of_block_matrices"] == 1.0
    assert sum(entry["parameters"] for entry in report["skipped"]) + report["editable"] == report["parameters"]
    (plan,) = report["plans"].values()
    assert plan == {
        "weights": 4,
        "parameters": 3072,
        "scored": 3072,
        "unreached": {},
        "units": {"query-head": {"count": 8, "left_out": []}},
    }
    said = capsys.readouterr().err
    assert "scope: 4 weights of 14" in said and "8 query-heads" in said
    (tmp_path / "run" / "rows.jsonl").unlink()
    assert main(line) == 0
    assert json.loads((tmp_path / "run" / "coverage.json").read_text()) == report


def test_whole_blocks_are_held_against_other_blocks(arguments: list[str], tmp_path: Path) -> None:
    """Also outside of the plan's scope, and with an effect: in the same blocks a control would be the edit itself."""
    assert main([*arguments, "--modify", "prompt-states+band+ablate:first=1,last=1,blocks=1"]) == 0
    found = rows(tmp_path / "run")
    (edited,) = (row for row in found.values() if row["kind"] == "edited")
    controls = [row for row in found.values() if row["kind"] == "control"]
    assert len(controls) == 2 and {row["region"]["count"] for row in controls} == {edited["region"]["count"]}
    own = task(edited, "embedded_kl")["values"]["value"]
    assert own > 0 and all(task(row, "embedded_kl")["values"]["value"] not in (0, own) for row in controls)


def test_a_model_with_fused_experts_and_an_expert_that_no_token_reached(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "experts"
    mixtral(experts=8).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    (tmp_path / "safety.jsonl").write_text(json.dumps({"prompt": "please", "response": "a"}))
    line = [f"pretrained={folder},dtype=float32" if word.startswith("pretrained=") else word for word in arguments]
    assert main([*line, "--modify", "wanda+top+ablate:q=0.2", "--controls", "random:1", "--tasks", "embedded_choice"]) == 0
    (plan,) = json.loads((tmp_path / "run" / "coverage.json").read_text())["plans"].values()
    unreached = plan["unreached"]["safety"]
    assert len(unreached) == 2 * 2 * (8 - 2), "one token comes to two of eight experts, in two blocks with two parameters each"
    assert plan["weights"] == 2 * (4 + 16) and plan["scored"] == plan["parameters"] - 2 * 6 * (96 * 32 + 32 * 48)
    assert "left out: 24 weights that saw no token of safety" in capsys.readouterr().err
    (file,) = (tmp_path / "run" / "regions").iterdir()
    region, header = load_region(file)
    assert header["coverage"]["unreached"] == plan["unreached"] and not set(region) & set(unreached)
    assert len({row["fingerprint"] for row in rows(tmp_path / "run").values()}) == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [("blocks=2", "the model has blocks 0 to 1, and not 2"), ("modules=q_prj", "unknown module 'q_prj': did you mean q_proj")],
)
def test_a_scope_that_the_model_lacks_ends_before_anything_is_evaluated(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str, said: str
) -> None:
    assert main([*arguments, "--modify", f"magnitude+top+ablate:{options}"]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run" / "unedited").exists()


def test_samples_are_private_and_rows_hold_no_text(arguments: list[str], tmp_path: Path) -> None:
    assert main([*arguments, "--modify", "none"]) == 0
    folder = tmp_path / "run"
    private = [*folder.rglob("samples_*.jsonl"), *folder.rglob("behaviours/*.jsonl")]
    assert len(private) == 5
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in private)
    sample = json.loads((folder / "unedited" / "samples_embedded_harmful.jsonl").read_text().splitlines()[0])
    text = sample["attempts"][0]["text"]
    assert set(sample["attempts"][0]["verdicts"]) == {"wei2024", "refusal"}
    assert not text.strip() or text not in (folder / "rows.jsonl").read_text()
    assert not list(folder.rglob("*.part")) and not list(folder.rglob("answers_*"))


def test_a_finished_run_resumes_without_a_model(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [*arguments, "--modify", "magnitude+top+ablate:q=0.1", "--controls", "none"]
    assert main(line) == 0
    before = capsys.readouterr().out

    def forbidden(*_: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(run_module, "Session", forbidden)
    assert main(line) == 0
    assert capsys.readouterr().out == before


def test_another_configuration_in_the_folder_is_refused(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--modify", "none"]) == 0
    capsys.readouterr()
    assert main([*arguments, "--modify", "none", "--seed", "5"]) == 2
    assert "another configuration (seed differ)" in capsys.readouterr().err


def test_ctrl_c_keeps_finished_tasks_and_the_run_goes_on(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same rows come out as of a run that nobody stopped."""
    line = [*arguments, "--modify", "magnitude+top+ablate:q=0.1", "--controls", "none"]
    produce, calls = run_module.Session.produce, []

    def interrupted(self: Any, row: str, leaf: Any) -> None:
        calls.append(leaf.name)
        if row != "unedited" and leaf.name == "embedded_choice":
            raise KeyboardInterrupt
        produce(self, row, leaf)

    with monkeypatch.context() as patched:
        patched.setattr(run_module.Session, "produce", interrupted)
        assert main(line) == 130
    folder = tmp_path / "run"
    assert not (folder / "rows.jsonl").exists()
    assert (folder / "unedited" / "embedded_choice.json").exists()
    done = len(calls)
    monkeypatch.setattr(
        run_module.Session, "produce", lambda self, row, leaf: (calls.append(leaf.name), produce(self, row, leaf))
    )
    assert main(line) == 0
    assert calls[done:] == ["embedded_choice", "embedded_harmful"], "measures come first"
    resumed = rows(folder)
    fresh_line = [str(tmp_path / "fresh") if argument == str(folder) else argument for argument in line]
    assert main(fresh_line) == 0
    for name, row in rows(tmp_path / "fresh").items():
        assert {**row, "seconds": 0} == {**resumed[name], "seconds": 0}
