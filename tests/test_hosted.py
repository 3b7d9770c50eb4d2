"""lm-eval's own command with our model type: the plan is on the model while lm-eval evaluates it, and nowhere else."""

from __future__ import annotations

import json
import logging
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.registry import get_model
from transformers import AutoModelForCausalLM

import brittle_eval
import brittle_tasks
from brittle_eval.cli import main
from brittle_eval.errors import BrittleError
from tests.models import save_checkpoint, tokenizer
from tests.test_api import behaviours

PLAN = "wanda-diff:p=0.3,q=0.3"
TASKS = Path(brittle_tasks.__file__).parent
ROOT = Path(brittle_eval.__file__).parents[1]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(folder)
    return folder


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """lm-eval's command points its log at the stderr of its first call, which a test closes."""
    log = logging.getLogger("lm_eval")
    before = log.handlers[:], log.level, log.propagate
    yield
    log.handlers[:], log.level, log.propagate = before


@pytest.fixture
def given(checkpoint: Path, tmp_path: Path) -> dict[str, Any]:
    return {"pretrained": str(checkpoint), "dtype": "float32", "device": "cpu", "behaviour": behaviours(tmp_path)}


@pytest.fixture
def row(checkpoint: Path, tmp_path: Path) -> dict[str, Any]:
    """The edited row of a run of the same plan on the same pairs."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    options: dict[str, Any] = {"limit": 3, "batch_size": 4, "device": "cpu", "controls": "none"}
    options |= {"behaviours": behaviours(tmp_path), "output_path": tmp_path / "run"}
    found = brittle_eval.evaluate(model, tokenizer(), modify=[PLAN], tasks=["embedded_choice"], **options)
    return vars(found.rows[1])


def results(folder: Path) -> dict[str, Any]:
    (file,) = folder.rglob("results_*.json")
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def test_lm_evals_own_command_evaluates_the_edited_model(
    checkpoint: Path,
    tmp_path: Path,
    row: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.utils.collect_env.get_pretty_env_info", lambda: "a machine")  # it asks pip, lscpu and others
    pairs = ";".join(behaviours(tmp_path))
    arguments = f"pretrained={checkpoint},dtype=float32,modify={PLAN.replace(',', ';')},behaviour={pairs}"
    line = ["lm-eval", "--model", "brittle-hf", "--model_args", arguments, "--tasks", "embedded_choice", "--limit", "3"]
    line += ["--include_path", str(TASKS), "--device", "cpu", "--batch_size", "4", "--output_path", str(tmp_path / "theirs")]
    assert main(line) == 0, capsys.readouterr().err
    theirs = results(tmp_path / "theirs")
    assert theirs["config"]["brittle"]["fingerprint"] == row["fingerprint"]
    assert theirs["config"]["brittle"]["plan"] == row["plan"] and theirs["config"]["brittle"]["region"] == row["region"]
    assert theirs["results"]["embedded_choice"]["acc,none"] == row["tasks"][0].metrics["acc,none"]
    assert theirs["model_source"] == "brittle-hf"


def test_the_model_is_edited_and_can_be_put_back(given: dict[str, Any], row: dict[str, Any]) -> None:
    plain = AutoModelForCausalLM.from_pretrained(given["pretrained"], dtype=torch.float32).state_dict()
    lm = brittle_eval.BrittleHF(modify=PLAN, batch_size="auto", **given)
    info = lm.get_model_info()["brittle"]
    assert info["fingerprint"] == row["fingerprint"] != info["fingerprint_unedited"]
    assert lm.batch_size == "auto"
    changed = {name: int((value != plain[name]).sum()) for name, value in lm.model.state_dict().items()}
    assert 0 < sum(changed.values()) <= row["region"]["count"]
    lm.undo()
    assert all(torch.equal(plain[name], value) for name, value in lm.model.state_dict().items())
    assert lm.get_model_info()["brittle"] == {"plan": "none"}


@pytest.mark.parametrize("written", ["mapping", "text"])
def test_a_plan_with_commas_gets_through(given: dict[str, Any], written: str) -> None:
    """The two ways in which lm-eval makes a model: of a mapping, and of a text that it cuts at every comma."""
    plan, device = "magnitude+top+ablate:q=0.2,compare=global", {"device": given.pop("device")}
    if written == "mapping":
        lm = brittle_eval.BrittleHF.create_from_arg_obj(given | {"modify": plan}, device)
    else:
        texts = given | {"modify": plan.replace(",", ";"), "behaviour": ";".join(given["behaviour"])}
        text = ",".join(f"{key}={value}" for key, value in texts.items())
        lm = brittle_eval.BrittleHF.create_from_arg_string(text, device)
    found = lm.get_model_info()["brittle"]["plan"]
    assert "q=0.2" in found and "compare=global" in found


def test_a_folder_keeps_what_was_found_out(given: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for calibrated in (True, False):
        lm = brittle_eval.BrittleHF(modify=PLAN, folder=tmp_path / "kept", **given)
        assert ("calibration on" in capsys.readouterr().err) is calibrated
        lm.undo()
    with pytest.raises(BrittleError, match="holds a run with another configuration"):
        brittle_eval.BrittleHF(modify="wanda-diff", folder=tmp_path / "kept", **given)


def test_without_a_plan_it_is_lm_evals_hf(given: dict[str, Any]) -> None:
    lm = brittle_eval.BrittleHF(**given)
    plain = AutoModelForCausalLM.from_pretrained(given["pretrained"], dtype=torch.float32).state_dict()
    assert all(torch.equal(plain[name], value) for name, value in lm.model.state_dict().items())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ("modify=wanda-dif", "did you mean wanda-diff"),
        ("modify=wanda-diff:p=1.5", "1.5"),
        ("modify=wanda-diff,behaviour=safety", "NAME=FILE"),
        ("modify=transplant", "needs a donor"),
        ("modify=wanda-diff,donour=x", "donour"),
        ("pretrained=/nowhere", "cannot load the model /nowhere"),
    ],
)
def test_mistakes_are_one_line(checkpoint: Path, changed: str, said: str) -> None:
    arguments = changed if "pretrained" in changed else f"pretrained={checkpoint},{changed}"
    with pytest.raises(BrittleError) as error:
        brittle_eval.BrittleHF.create_from_arg_string(arguments, {"device": "cpu"})
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_mistake_ends_lm_evals_command_as_ours(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = f"pretrained={checkpoint},modify=wanda-dif"
    line = ["--model", "brittle-hf", "--model_args", arguments, "--tasks", "embedded_choice", "--include_path", str(TASKS)]
    assert main(["lm-eval", *line, "--device", "cpu"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("brittle-eval: error: ") and "did you mean wanda-diff" in error


def test_the_entry_point_names_the_registered_class() -> None:
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["lm_eval.models"]
    assert points == {"brittle-hf": f"{brittle_eval.BrittleHF.__module__}:{brittle_eval.BrittleHF.__qualname__}"}
    assert get_model("brittle-hf") is brittle_eval.BrittleHF and get_model("hf") is not brittle_eval.BrittleHF
