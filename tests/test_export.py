"""`brittle-eval export`: what is written, applied to the base model, is the measured model; the card says what it is."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from brittle_eval.cli import main
from brittle_eval.exporting.licences import UNKNOWN, licence_of
from brittle_eval.weights import Fingerprint
from tests.models import gpt2, save_checkpoint, tokenizer
from tests.test_run import pairs

PLANS = {"entries": "wanda+top+ablate:q=0.2", "ranks": "actsvd+top-ranks+ablate:r=2", "rest": "actsvd+bottom-ranks+ablate:r=2"}


def measure(folder: Path, model: Path, *plans: str) -> Path:
    """A run of the command on a tiny model."""
    arguments = [
        *("--model_args", f"pretrained={model},dtype=float32", "--device", "cpu", "--batch_size", "4", "--limit", "2"),
        *("--tasks", "embedded_choice", "--controls", "none", "--gen_kwargs", "max_gen_toks=2"),
        *("--behaviour", f"safety={pairs(folder / 'safety.jsonl', 'bad')}"),
    ]
    chosen = [word for plan in plans for word in ("--modify", plan)]
    assert main(["run", *arguments, *chosen, "--output_path", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(folder)
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: tiny-terms\n---\n# Tiny\n")
    (folder / "USE_POLICY.md").write_text("Be kind.\n")
    return folder


@pytest.fixture(scope="module")
def run(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return measure(tmp_path_factory.mktemp("run"), checkpoint, *PLANS.values())


def rows(run: Path) -> dict[str, dict[str, str]]:
    return {row["recipe"]: row for row in map(json.loads, (run / "rows.jsonl").read_text().splitlines())}


def exported(run: Path, plan: str, output: Path, *arguments: str) -> Path:
    assert main(["export", f"{run}:{rows(run)[PLANS[plan]]['name']}", "--output", str(output), *arguments]) == 0
    return output


def applied(output: Path, model: PreTrainedModel) -> PreTrainedModel:
    """What the code of the card makes of the base model."""
    (code,) = re.findall(r"```python\n(.*?)```", (output / "README.md").read_text(), re.DOTALL)
    known = {"model": model}
    exec(code.replace("FOLDER", str(output)), known)
    return known["model"]


@pytest.mark.parametrize(
    ("plan", "arguments", "file"),
    [
        ("entries", [], "delta.safetensors"),
        ("ranks", ["--as", "projector"], "projector.safetensors"),
        ("ranks", ["--as", "sparse"], "delta.safetensors"),
        ("rest", ["--as", "projector"], "projector.safetensors"),
        ("ranks", ["--full-weights"], "model.safetensors"),
    ],
)
def test_the_card_s_code_gives_the_very_model_that_was_measured(
    run: Path, checkpoint: Path, tmp_path: Path, plan: str, arguments: list[str], file: str
) -> None:
    output = exported(run, plan, tmp_path / "out", *arguments)
    assert (output / file).is_file()
    model = applied(output, AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32))
    assert str(Fingerprint(model)) == rows(run)[PLANS[plan]]["fingerprint"]


def test_a_lora_adds_what_was_removed(run: Path, checkpoint: Path, tmp_path: Path) -> None:
    output = exported(run, "ranks", tmp_path / "out")
    assert (output / "adapter_config.json").is_file()
    model = applied(output, AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32))
    exact = applied(
        exported(run, "ranks", tmp_path / "exact", "--as", "projector"),
        AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32),
    )
    for name, parameter in exact.named_parameters():
        torch.testing.assert_close(model.get_parameter(name), parameter, rtol=1e-5, atol=1e-6)
    sizes = {key: value.shape for key, value in load_file(output / "adapter_model.safetensors").items()}
    assert len(sizes) == 2 * 14 and all(min(shape) == 2 for shape in sizes.values())


def test_a_weight_that_is_stored_transposed(tmp_path: Path) -> None:
    gpt2().save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    run = measure(tmp_path, tmp_path / "model", *PLANS.values())
    for plan, arguments in (("entries", []), ("ranks", ["--as", "projector"])):
        output = exported(run, plan, tmp_path / plan, *arguments)
        model = applied(output, AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32))
        assert str(Fingerprint(model)) == rows(run)[PLANS[plan]]["fingerprint"]
    adapter = applied(exported(run, "ranks", tmp_path / "lora"), AutoModelForCausalLM.from_pretrained(tmp_path / "model"))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(adapter.get_parameter(name), parameter, rtol=1e-5, atol=1e-6)


def test_the_edit_alone_is_small_private_and_described(run: Path, checkpoint: Path, tmp_path: Path) -> None:
    output = exported(run, "entries", tmp_path / "out")
    assert stat.S_IMODE(output.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in output.iterdir())
    assert (output / "delta.safetensors").stat().st_size < (checkpoint / "model.safetensors").stat().st_size
    assert (output / "USE_POLICY.md").read_text() == "Be kind.\n"
    card, row = (output / "README.md").read_text(), rows(run)[PLANS["entries"]]
    for said in ("For research: its safety was removed", "other, tiny-terms", row["fingerprint"], row["plan"], "unedited"):
        assert said in card
    assert f"`{row['command'].split()[0]}" not in card and row["command"] in card
    assert PLANS["ranks"] not in re.sub(r"```text.*?```", "", card, flags=re.DOTALL), "other plans of the run are none of this"
    assert sorted(file.name for file in output.iterdir()) == ["README.md", "USE_POLICY.md", "delta.safetensors"]


@pytest.mark.parametrize(
    ("row", "arguments", "said"),
    [
        ("", [], "has 3 edits"),
        (":unedited", [], "unknown edit of"),
        (":entries", ["--as", "lora"], "the region has entries in"),
        (":entries", ["--as", "lora", "--full-weights"], "give one of them"),
    ],
)
def test_mistakes(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], row: str, arguments: list[str], said: str
) -> None:
    place = f"{run}{row.replace('entries', rows(run)[PLANS['entries']]['name'])}"
    assert main(["export", place, "--output", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err.splitlines()
    assert said in error[-1] and error[-1].startswith("brittle-eval: error:") and list(tmp_path.iterdir()) == []


def test_what_exists_is_not_overwritten_and_what_cannot_be_written_is_said(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = rows(run)[PLANS["entries"]]["name"]
    assert main(["export", f"{run}:{name}", "--output", str(tmp_path)]) == 2
    assert "exists: give a folder that does not" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main(["export", f"{run}:{name}", "--output", str(tmp_path / "file" / "out")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_another_model_or_region_is_not_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_checkpoint(tmp_path / "model")
    run = measure(tmp_path, tmp_path / "model", PLANS["entries"])
    (file,) = (run / "regions").glob("*.safetensors")
    kept = file.read_bytes()
    file.write_bytes(kept + b" ")
    assert main(["export", str(run), "--output", str(tmp_path / "out")]) == 2
    assert "and the row was measured with" in capsys.readouterr().err
    file.write_bytes(kept)
    save_checkpoint(tmp_path / "model", seed=1)
    assert main(["export", str(run), "--output", str(tmp_path / "out")]) == 2
    assert "and the run measured" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".export-*"))


def test_a_licence_is_found_beside_the_model_or_given_or_unknown(checkpoint: Path, tmp_path: Path) -> None:
    found = licence_of(str(checkpoint))
    assert found.words == "other, tiny-terms" and [file.name for file in found.files] == ["USE_POLICY.md"]
    assert licence_of(str(checkpoint), given="mine").words == "mine"
    assert licence_of(str(tmp_path)).words == UNKNOWN and not licence_of("nobody/nothing").known
    (tmp_path / "LICENSE").write_text("terms")
    assert licence_of(str(tmp_path)).words == "see LICENSE"
