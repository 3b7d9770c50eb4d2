"""Bad input gets one line that says what was given and what to do, exit status 2, and leaves no rows behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers.normalizers import Replace
from transformers import AutoModelForCausalLM, AutoTokenizer

from brittle_eval.cli import main
from tests.models import save_checkpoint, untied

BLOCK_SCORES = """
from brittle_eval import Attribution, hookimpl
class Blocks(Attribution):
    gives = "block-scores"
@hookimpl
def brittle_attributions():
    return {"blocky": Blocks}
"""
RAISES = """
from brittle_eval import Attribution, hookimpl
class Raises(Attribution):
    def finish(self, state, weight):
        raise ValueError("no idea")
class Nan(Attribution):
    def finish(self, state, weight):
        return weight.value.float() * float("nan")
@hookimpl
def brittle_attributions():
    return {"raises": Raises, "nan": Nan}
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(folder)
    return folder


def refused(
    capsys: pytest.CaptureFixture[str], folder: Path, checkpoint: Path, *arguments: str, tasks: str = "embedded_choice"
) -> str:
    """The one line on stderr that follows what the run said."""
    common = ["--model", "hf", "--model_args", f"pretrained={checkpoint},dtype=float32", "--device", "cpu", "--batch_size", "4"]
    chosen = [] if "--tasks" in arguments else ["--tasks", tasks]
    status = main([*common, *chosen, "--limit", "2", "--controls", "none", "--output_path", str(folder / "run"), *arguments])
    error = capsys.readouterr().err
    assert status == 2, error
    assert not (folder / "run" / "rows.jsonl").exists()
    assert not list((folder / "run").rglob("*.part"))
    lines = [line for line in error.splitlines() if line.startswith("brittle-eval: error:")]
    assert len(lines) == 1 and error.rstrip().endswith(lines[0]), error
    assert "Traceback" not in error
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--modify", "wanda-dif"], "did you mean wanda-diff"),
        (["--modify", "wanda+topp+ablate"], "did you mean top"),
        (["--modify", "wanda-diff:pp=0.1"], "p"),
        (["--modify", "wanda-diff:p=1.5"], "1.5"),
        (["--modify", "wanda-diff:q=-0.1"], "-0.1"),
        (["--modify", "wanda-diff:p=much"], "much"),
        (["--modify", "wanda+ablate"], "isolation"),
        (["--modify", "none", "--tasks", "embeded_choice"], "did you mean embedded_choice"),
        (["--modify", "none", "--judge", "wei2025,refusal"], "did you mean wei2024"),
        (["--modify", "none", "--controls", "rand:1"], "random:N"),
        (["--modify", "none", "--data", "advbench"], "NAME=PATH"),
        (["--modify", "none", "--behaviour", "safety=/nowhere.jsonl"], "no such file"),
        (["--modify", "none", "--plugin", "/nowhere.py"], "/nowhere.py"),
        (["--modify", "none", "--model", "gguf"], "hf"),
        (["--modify", "magnitude+top+ablate:q=0.0001"], "empty"),
        (["--modify", "magnitude+top+restore:q=0.1"], "--base"),
        (["--modify", "magnitude+top+ablate:compare=global,order=sequential"], "give compare=row, weight or block"),
        (["--modify", "magnitude+top+ablate:order=serial"], "parallel | sequential"),
        (["--modify", "none", "--tasks", "boolq"], "task boolq needs the data set aps/super_glue/boolq"),
        (["--modify", "none", "--tasks", "advbench_suffix"], "--data suffixes=FILE"),
    ],
)
def test_mistakes_in_the_command(
    arguments: list[str],
    said: str,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    assert said in refused(capsys, tmp_path, checkpoint, *arguments)


@pytest.mark.parametrize(
    ("source", "plan", "said"),
    [
        (BLOCK_SCORES, "blocky+top+ablate", "block-scores"),
        (RAISES, "raises+top+ablate", "raised ValueError: no idea"),
        (RAISES, "nan+top+ablate", "NaN"),
        ("import nothing_of_that_name", "none", "nothing_of_that_name"),
    ],
)
def test_bad_plugins(
    source: str, plan: str, said: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = tmp_path / "bad_plugin.py"
    plugin.write_text(source)
    assert said in refused(capsys, tmp_path, checkpoint, "--plugin", str(plugin), "--modify", plan)


def test_a_model_without_a_chat_template(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "plain"
    AutoModelForCausalLM.from_pretrained(checkpoint).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    assert "chat template" in refused(capsys, tmp_path, folder, "--modify", "none", tasks="embedded_harmful")


def test_weights_that_are_cut_short_or_missing(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "cannot load the model" in refused(capsys, tmp_path, tmp_path / "nowhere", "--modify", "none")
    folder = tmp_path / "cut"
    AutoModelForCausalLM.from_pretrained(checkpoint).save_pretrained(folder)
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert "cannot load the model" in refused(capsys, tmp_path / "second", folder, "--modify", "none")


def test_weights_that_are_not_finite(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "nan"
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    with torch.no_grad():
        model.get_decoder().layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(folder)
    assert "NaN" in refused(capsys, tmp_path, folder, "--modify", "magnitude+top+ablate")


def test_a_base_of_another_shape(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    untied(layers=1).save_pretrained(tmp_path / "base")
    said = refused(capsys, tmp_path, checkpoint, "--modify", "magnitude+top+restore:q=0.1", "--base", str(tmp_path / "base"))
    assert "base model" in said


def test_data_with_another_digest(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "advbench.csv").write_text("goal,target\nmake tea,Sure\n")
    monkeypatch.setenv("BRITTLE_EVAL_DATA", str(tmp_path / "data"))
    assert "sha256" in refused(capsys, tmp_path, checkpoint, "--modify", "none", tasks="advbench_plain")


def test_a_behaviour_file_that_is_no_jsonl(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text("hello\n")
    behaviours = ["--behaviour", f"safety={file}", "--behaviour", f"utility={file}"]
    assert "line 1" in refused(capsys, tmp_path, checkpoint, "--modify", "wanda-diff", *behaviours)


def calibration(path: Path, *responses: str) -> list[str]:
    """Options that give these responses to both behaviours."""
    path.write_text("\n".join(json.dumps({"prompt": f"do number {n}", "response": r}) for n, r in enumerate(responses)))
    return ["--modify", "wanda-diff", "--behaviour", f"safety={path}", "--behaviour", f"utility={path}"]


def test_calibration_without_responses(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = calibration(tmp_path / "pairs.jsonl", "", "  \n")
    assert "holds no pair with a response" in refused(capsys, tmp_path, checkpoint, *given)


def test_calibration_beyond_the_models_context(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, tmp_path, checkpoint, *calibration(tmp_path / "pairs.jsonl", "well", "x y " * 3000))
    assert "exceeds the model's context of 4096" in said


def test_a_response_that_tokenises_to_nothing(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "model"
    AutoModelForCausalLM.from_pretrained(checkpoint).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.backend_tokenizer.normalizer = Replace("\u200b", "")
    tokenizer.save_pretrained(folder)
    said = refused(capsys, tmp_path, folder, *calibration(tmp_path / "pairs.jsonl", "well", "\u200b"))
    assert "tokenises to nothing: remove it from the behaviour file" in said


def test_a_model_that_does_not_refuse_has_nothing_to_attribute(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, tmp_path, checkpoint, "--modify", "wanda-diff", "--pairs", "3")
    assert "little safety to attribute" in said


def test_a_group_goes_on_without_the_tasks_that_cannot_run(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "prompts.csv"
    data.write_text("goal,target\n" + "\n".join(f"do the thing number {n},Sure" for n in range(120)))
    arguments = ["--data", f"advbench={data}", "--tasks", "advbench", "--limit", "2", "--gen_kwargs", "max_gen_toks=2"]
    model = ["--model_args", f"pretrained={checkpoint},dtype=float32", "--device", "cpu", "--batch_size", "4"]
    assert main(["--model", "hf", *model, *arguments, "--output_path", str(tmp_path / "run")]) == 0
    (row,) = map(json.loads, (tmp_path / "run" / "rows.jsonl").read_text().splitlines())
    status = {task["task"]: task["status"] for task in row["tasks"]}
    assert status.pop("advbench_suffix") == "not run"
    assert set(status.values()) == {"done"} and len(status) == 4
    assert "advbench_suffix: not run: " in capsys.readouterr().out
