"""Configuration files: what they say, what the command line says above them, and what a run leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from brittle_eval.cli import main
from brittle_eval.commands.cli_probe import probe
from brittle_eval.commands.cli_run import SENDING, as_options, run
from brittle_eval.errors import BrittleError
from brittle_eval.running.command import options_of
from brittle_eval.running.prepare import Options
from tests.models import save_checkpoint
from tests.test_row import EVERYTHING, config

HELP: dict[str, Any] = {"help_option_names": ["-h", "--help"]}  # click keeps those of a command's first context
LEFT_OUT = ("given", "output_path", "memory")


def written(folder: Path, content: Any) -> Path:
    file = folder / "run.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return file


def asked(options: Options) -> dict[str, Any]:
    return {key: value for key, value in config(options).items() if key not in LEFT_OUT}


def from_file(folder: Path, content: Any, *line: str) -> Options:
    return as_options(["--config", str(written(folder, content)), *line])


@pytest.mark.parametrize(
    "arguments",
    [
        EVERYTHING,
        [],
        ["--preset", "wei2024"],
        ["--apply_chat_template", "rag"],
        ["--system_instruction", "two\nlines: 'no', null", "--stop-when", "ppl>50", "--stop-when", "embedded_choice<0.3"],
    ],
)
def test_the_configuration_of_a_run_asks_for_the_same_again(tmp_path: Path, arguments: list[str]) -> None:
    options = as_options(arguments)
    assert asked(from_file(tmp_path, options_of(config(options)))) == asked(options)


def test_every_option_of_run_is_a_key_with_hyphens_or_underscores(tmp_path: Path) -> None:
    known = {option.name: option.opts[0] for option in run.params if option.name not in {"config", "help"} | SENDING}
    values: dict[str, Any] = {
        "model": "hf-checkpoint",
        "model_args": {"pretrained": "a,b", "dtype": "float32"},
        "modify": ["wanda-diff:p=0.02,q=0.01", "snip-diff"],
        "tasks": ["embedded_harmful", "embedded_choice"],
        "preset": "wei2024",
        "condition": "context",
        "controls": "none",
        "batch_size": 3,
        "limit": 0.5,
        "device": "cpu",
        "seed": 7,
        "output_path": "runs/mine",
        "apply_chat_template": True,
        "system_instruction": "be brief",
        "system_role": "merge",
        "include_path": ["more tasks"],
        "gen_kwargs": {"max_gen_toks": 4, "do_sample": True},
        "metadata": "shots=16",
        "num_fewshot": 2,
        "behaviours": "safety=a.jsonl",
        "pairs": 5,
        "data": ["advbench=x.csv"],
        "base": "base",
        "donor": "donor",
        "judges": ["wei2024"],
        "seeds": 2,
        "stop_when_decided": True,
        "stop_when": ["ppl>50"],
        "plugins": ["mine.py"],
        "memory": 2,
    }
    assert set(values) == set(known)
    keys = {name: known[name].removeprefix("--") for name in values}
    hyphens, underscores = (
        from_file(tmp_path, {keys[name].replace(*swap): value for name, value in values.items()})
        for swap in (("_", "-"), ("-", "_"))
    )
    assert hyphens == underscores
    plain = {name: value for name, value in values.items() if name != "system_role"}
    for name in ("include_path", "plugins"):
        plain[name] = tuple(Path(one) for one in values[name])
    for name in ("modify", "tasks", "data", "judges", "stop_when"):
        plain[name] = tuple(values[name])
    plain |= {"behaviours": ("safety=a.jsonl",), "metadata": {"shots": 16}, "output_path": Path("runs/mine")}
    assert {name: getattr(hyphens, name) for name in plain} == plain and hyphens.merge_system
    assert hyphens.given == {*plain, "merge_system"}


def test_the_command_line_replaces_what_the_file_says(tmp_path: Path) -> None:
    content = {"modify": ["wanda-diff", "snip-diff"], "seed": 3, "limit": 5, "apply_chat_template": True, "base": None}
    found = from_file(tmp_path, content, "--modify", "none", "--seed", "0", "--apply_chat_template", "rag")
    assert (found.modify, found.seed, found.limit, found.apply_chat_template) == (("none",), 0, 5.0, "rag")
    assert found.given == {"modify", "seed", "limit", "apply_chat_template"}
    assert from_file(tmp_path, {"apply_chat_template": False, "stop_when_decided": False}).apply_chat_template is False
    assert asked(from_file(tmp_path, "")) == asked(Options(modify=("none",)))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"modfy": "none"}, "unknown key of {file} 'modfy': did you mean modify"),
        ({"config": "other.yaml"}, "unknown key of {file} 'config'"),
        ({"seed": 1.5}, "{file}: seed: '1.5' is not a valid int"),
        ({"seed": True}, "{file}: seed: True is given, expected a text or a number (yes, no, on and off are true and false"),
        ({"limit": "few"}, "{file}: limit: 'few' is not a valid float. Give what `run --limit` takes"),
        ({"batch_size": 0}, "{file}: batch-size: 0 is not in the range x>=1"),
        ({"seed": [0, 1]}, "{file}: seed: [0, 1] is given, expected a text or a number (several values are a sweep)"),
        ({"modify": [{"wanda-diff": {"p": 0.1}}]}, "{file}: modify: {'wanda-diff': {'p': 0.1}} is given"),
        ({"stop-when-decided": "yes"}, "{file}: stop-when-decided: 'yes' is given, expected true or false"),
        ({"system-role": "both"}, "{file}: system-role: 'both' is not one of 'own', 'merge'"),
        ("modify: none\nbatch_size: 2\nbatch-size: 3", "the configuration {file} has batch-size twice"),
        ("- modify", "the configuration {file} holds a list: expected options"),
        ("modify: [", "cannot read the configuration {file}: while parsing"),
    ],
)
def test_mistakes_in_a_file_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: Any, said: str) -> None:
    file = written(tmp_path, content)
    assert main(["--config", str(file), "--output_path", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"brittle-eval: error: {said.replace('{file}', str(file))}"), error
    assert error.count("\n") == 1 and not (tmp_path / "run").exists()


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BrittleError, match=r"cannot read the configuration .*none\.yaml: .*No such file"):
        as_options(["--config", str(tmp_path / "none.yaml")])


def test_the_file_that_a_run_leaves_gives_its_rows_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_checkpoint(tmp_path / "model")
    line = ["--model_args", f"pretrained={tmp_path / 'model'},dtype=float32", "--modify", "magnitude+top+ablate:q=0.1"]
    line += ["--tasks", "embedded_choice", "--limit", "2", "--batch_size", "2", "--device", "cpu", "--controls", "none"]
    assert main([*line, "--output_path", str(tmp_path / "first")]) == 0
    file = tmp_path / "first" / "config.yaml"
    assert main(["run", "--config", str(file), "--output_path", str(tmp_path / "second")]) == 0, capsys.readouterr().err
    first, second = (
        [json.loads(one) | {"seconds": 0, "files": {}} for one in (tmp_path / name / "rows.jsonl").read_text().splitlines()]
        for name in ("first", "second")
    )
    assert first == second and len(first) == 2
    assert (tmp_path / "second" / "config.yaml").read_text() == file.read_text()


def test_a_probe_has_its_own_options_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = {"attribution": "magnitude", "p": 0.02, "sizes": 13, "epsilon": 0.03, "ppl_factor": 3, "max_kl": 0.4, "limit": 2}
    with probe.make_context("probe", ["--config", str(written(tmp_path, keys))], **HELP) as context:
        assert {key: context.params[key] for key in keys} == keys
    with pytest.raises(BrittleError, match=r"unknown key of .* 'stop-when': did you mean"):
        probe.make_context("probe", ["--config", str(written(tmp_path, {"stop_when": "ppl>5"}))], **HELP)
