"""Results handed to lm-eval's loggers: W&B really, offline; Trackio and the Hub by stand-ins that write down what they get."""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from lm_eval.utils import make_table

from brittle_eval.cli import main
from brittle_eval.commands.cli_run import SENDING
from brittle_eval.errors import BrittleError
from brittle_eval.running.publish import Receivers
from brittle_eval.running.record import Row, RunFolder
from brittle_eval.running.results import key
from tests.models import save_checkpoint

ANSWERED, MEASURE = "embedded_harmful", "embedded_perplexity"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command of a finished run; again, it sends what it finds in its folder."""
    folder = tmp_path_factory.mktemp("run")
    save_checkpoint(folder / "model")
    line = ["run", "--model_args", f"pretrained={folder / 'model'},dtype=float32", "--modify", "magnitude+top+ablate:q=0.1"]
    line += ["--tasks", f"{ANSWERED},embedded_choice,{MEASURE}", "--limit", "2", "--batch_size", "2", "--device", "cpu"]
    line += ["--controls", "none", "--gen_kwargs", "max_gen_toks=16", "--output_path", str(folder / "run")]
    assert main(line) == 0
    return line


def run_of(line: list[str]) -> tuple[RunFolder, list[Row]]:
    folder = RunFolder.stored(Path(line[-1]))
    rows = folder.rows()
    assert rows is not None
    return folder, rows


def answers(line: list[str]) -> set[str]:
    """All prompts and answers of the run that are long enough not to be elsewhere by chance."""
    files = Path(line[-1]).glob(f"*/samples_{ANSWERED}.jsonl")
    samples = [json.loads(one) for file in files for one in file.read_text().splitlines()]
    texts = [text for one in samples for text in (one["prompt"], *(attempt["text"] for attempt in one["attempts"]))]
    return {text for text in texts if len(text.strip()) > 10}


def holds(text: str, wanted: set[str]) -> list[bool]:
    return [json.dumps(one, ensure_ascii=False)[1:-1] in text for one in wanted]


def test_lm_evals_table_reads_the_results(made: list[str]) -> None:
    folder, rows = run_of(made)
    results = json.loads((folder.path / "results.json").read_text())
    table = make_table(results)
    for row in rows:
        assert results["group_subtasks"][row.name] == [key(row.name, task.task) for task in row.tasks]
        for task in row.tasks:
            assert f"{row.name}: {task.task}" in table
        choice = next(task for task in row.tasks if task.task == "embedded_choice")
        own = results["results"][key(row.name, "embedded_choice")]
        assert own["acc,none"] == choice.values["value"] and own["acc_stderr,none"] == choice.metrics["acc_stderr,none"]
        harm = next(task for task in row.tasks if task.task == ANSWERED)
        assert (
            results["results"][key(row.name, ANSWERED)]["not_refused_coherent,none"]
            == harm.values["not_refused_coherent"]["value"]
        )
    assert not any(holds((folder.path / "results.json").read_text(), answers(made)))


def test_wandb_gets_the_results_and_answers_only_if_named_again(
    made: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real package, offline: its run file and its staged artefacts hold all that would be uploaded."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_ARTIFACT_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    found = {}
    for place, more in {"results": [], "all": ["--send-answers-to", "wandb"]}.items():
        (tmp_path / place).mkdir()
        assert (
            main([*made, "--wandb_args", f"project=p,dir={tmp_path / place}", "--wandb_config_args", "lab=laboratory", *more])
            == 0
        )
        files = [file for root in (place, "WANDB_DATA_DIR") for file in (tmp_path / root).rglob("*") if file.is_file()]
        assert any(file.suffix == ".wandb" for file in files)
        found[place] = "".join(file.read_bytes().decode("utf-8", "replace") for file in files)
    known = json.loads((Path(made[-1]) / "results.json").read_text())["results"]
    assert '"acc,none": ' in found["results"] and "laboratory" in found["results"]
    assert all(f'"{name}": {{' in found["results"] for name in known)  # the artefact, which is no log of blocks
    assert not any(holds(found["results"], answers(made)))
    assert any(holds(found["all"], answers(made)))


@pytest.fixture
def trackio(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """A stand-in for the package, which brings a web server."""
    calls: list[tuple[str, Any]] = []
    module = ModuleType("trackio")
    module.__spec__ = SimpleNamespace(name="trackio")  # type: ignore[assignment]  # what find_spec looks at

    def noted(name: str) -> Callable[..., Any]:
        return lambda *args, **kwargs: calls.append((name, (args, kwargs)))

    for name in ("init", "log", "finish"):
        setattr(module, name, noted(name))
    module.config = SimpleNamespace(update=noted("config"))  # type: ignore[attr-defined]
    module.Trace = lambda **kwargs: kwargs  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trackio", module)
    return calls


def test_trackio_gets_the_results_and_answers_only_if_named_again(made: list[str], trackio: list[tuple[str, Any]]) -> None:
    assert main([*made, "--trackio_args", "project=p,name=n"]) == 0
    assert [name for name, _ in trackio] == ["init", "config", "log", "finish"]
    assert trackio[0][1] == ((), {"project": "p", "name": "n"})
    flat = trackio[2][1][0][0]
    _, rows = run_of(made)
    choice = next(task for task in rows[1].tasks if task.task == "embedded_choice")
    assert flat[f"{key(rows[1].name, 'embedded_choice')}/acc"] == choice.values["value"]
    assert not any(holds(json.dumps(trackio, default=str, ensure_ascii=False), answers(made)))
    trackio.clear()
    assert main([*made, "--trackio_args", "project=p", "--send-answers-to", "trackio"]) == 0
    traces = [args[0][name] for call, (args, _) in trackio if call == "log" for name in args[0] if name.endswith("/sample")]
    said = {message["content"] for trace in traces for message in trace["messages"]}
    assert len(traces) == 8 and all(text in said for text in answers(made))  # two documents of two tasks on two models


class Hub:
    """Stands for `HfApi`: writes down what would be uploaded."""

    calls: list[tuple[str, dict[str, Any]]] = []  # noqa: RUF012  # emptied by the fixture
    fails = False

    def __init__(self, token: str) -> None:
        self.calls.append(("token", {"token": token}))

    def create_repo(self, **given: Any) -> None:
        if self.fails:
            raise ConnectionError("no route to the hub")
        self.calls.append(("repo", given))

    def upload_file(self, **given: Any) -> None:
        self.calls.append(("file", given | {"content": Path(given["path_or_fileobj"]).read_text()}))

    def upload_folder(self, **given: Any) -> None:
        folder = Path(given["folder_path"])
        assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
        texts = {file.name: file.read_text() for file in folder.iterdir()}
        self.calls.append(("folder", given | {"texts": texts}))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[Hub]:
    Hub.calls, Hub.fails = [], False
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setenv("HF_TOKEN", "")
    return Hub


GIVEN = "push_results_to_hub=true,hub_results_org=me,token=t"


def test_the_hub_gets_the_results_in_a_private_repository(made: list[str], hub: type[Hub]) -> None:
    assert main([*made, "--hf_hub_log_args", GIVEN]) == 0
    assert [name for name, _ in hub.calls] == ["token", "repo", "file"]
    repository, file = hub.calls[1][1], hub.calls[2][1]
    assert repository["private"] and repository["repo_id"] == "me/lm-eval-results-private"
    assert file["path_in_repo"].startswith("model/results_") and not Path(file["path_or_fileobj"]).exists()
    known = json.loads((Path(made[-1]) / "results.json").read_text())
    assert json.loads(file["content"])["results"] == known["results"]
    assert not any(holds(file["content"], answers(made)))
    assert not any('"t"' in text.read_text() for text in Path(made[-1]).glob("*.json"))


def test_answers_go_to_the_hub_only_if_asked_for_twice(
    made: list[str], hub: type[Hub], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    twice = [f"{GIVEN},push_samples_to_hub=true", "--send-answers-to", "hub"]
    for once in ([twice[0]], [GIVEN, *twice[1:]]):
        assert main([*made, "--hf_hub_log_args", *once]) == 2
        assert "only if they are asked for twice" in capsys.readouterr().err and hub.calls == []
    cards: list[str] = []
    from lm_eval.loggers import EvaluationTracker

    monkeypatch.setattr(EvaluationTracker, "recreate_metadata_card", lambda tracker: cards.append(tracker.details_repo_private))
    assert main([*made, "--hf_hub_log_args", *twice]) == 0
    texts = "".join(text for name, given in hub.calls if name == "folder" for text in given["texts"].values())
    assert all(holds(texts, answers(made))) and cards == ["me/lm-eval-results-private"]


def test_what_lm_eval_only_logs_is_an_error_here(made: list[str], hub: type[Hub], capsys: pytest.CaptureFixture[str]) -> None:
    hub.fails = True
    assert main([*made, "--hf_hub_log_args", GIVEN]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "could not be sent to hub (Could not save results aggregated: ConnectionError('no route to the hub'))" in error
    assert main([*made, "--hf_hub_log_args", "push_results_to_hub=true"]) == 2
    assert "Hugging Face token is not defined" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"trackio_args": {}}, "--trackio_args needs the package trackio: pip install 'brittle-eval[trackio]'"),
        ({"wandb_config_args": {"a": 1}}, "--wandb_config_args without --wandb_args"),
        ({"send_answers_to": ("hub",)}, "--send-answers-to hub without --hf_hub_log_args"),
        ({"send_answers_to": ("wandb",)}, "--send-answers-to wandb without --wandb_args"),
        ({"hf_hub_log_args": {"push_result_to_hub": True}}, "did you mean push_results_to_hub"),
        ({"hf_hub_log_args": {"hub_results_org": "me"}}, "says nothing that is to be pushed"),
    ],
)
def test_mistakes_are_found_before_the_run(given: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("brittle_eval.running.publish.find_spec", lambda name: None)
    with pytest.raises(BrittleError) as error:
        Receivers(**given).check()
    assert said in str(error.value) and "\n" not in str(error.value)


def test_the_command_has_every_receiver() -> None:
    assert set(vars(Receivers())) == SENDING
