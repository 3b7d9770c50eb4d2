"""The command's front: `list`, `show`, `--help`, dispatch to `run`, and how errors end."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import click
import pytest

from brittle_eval import BrittleError, cli, listing
from brittle_eval.discovery import Source
from brittle_eval.listing import docstring
from brittle_eval.plugins import CONTRACTS, Entry, Plugins

PLUGIN = '''
from pathlib import Path
from brittle_eval import Modification, hookimpl

class Noise(Modification):
    """`W + ε`: noise.

    Second paragraph.
    """

@hookimpl
def brittle_modifications():
    return {"noise": Noise}

@hookimpl
def brittle_task_paths():
    return [Path(__file__).parent / "tasks"]
'''


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """A plugin file with a modification and three tasks."""
    folder = tmp_path / "tasks" / "inner"
    folder.mkdir(parents=True)
    (folder / "one.yaml").write_text("# What one asks.\ntask: one_task  # its name\ninclude: ../_base\n", encoding="utf-8")
    two = "group: 'two'\ntask:\n  - one_task\n  - three.task\nmetadata: {version: 1.0}\n"
    (folder / "two.yaml").write_text(two, encoding="utf-8")
    three = 'task: "three.task"\nprocess_docs: !function no_such_module.f\nmetadata:\n  brittle: {chat: true, role: attack}\n'
    (folder / "three.yaml").write_text(three, encoding="utf-8")
    (folder / "base.yaml").write_text("output_type: generate_until\n", encoding="utf-8")
    file = tmp_path / "noise_plugin.py"
    file.write_text(PLUGIN, encoding="utf-8")
    return file


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert cli.main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["list", "--json"], ["--version"]])
def test_nothing_heavy_is_imported(arguments: list[str]) -> None:
    code = (
        "import sys; from brittle_eval.cli import main; status = main(sys.argv[1:]); "
        "heavy = {'torch', 'lm_eval', 'transformers', 'numpy', 'brittle_eval.commands.cli_run'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_list_has_every_section_with_summaries_and_provenance(capsys: pytest.CaptureFixture[str]) -> None:
    listed = as_json(capsys, "list")
    assert listed.pop("broken") == []
    sections = ["attributions", "isolations", "modifications", "judges", "recipes", "tasks", "measures", "backends"]
    sections += ["datasets", "judge-cards", "models", "presets"]
    assert list(listed) == sections
    names = {section: {row["name"] for row in rows} for section, rows in listed.items()}
    assert names["attributions"] >= {"wanda", "snip"}
    assert names["recipes"] >= {"wanda-diff", "none"}
    assert names["tasks"] >= {"advbench", "advbench_system", "utility", "embedded"}
    assert names["datasets"] >= {"advbench"}
    assert names["measures"] == {"embedded_perplexity", "embedded_kl", "embedded_reasoning", "wikitext2_token_ppl"}
    assert names["models"] == {"embedded"}
    for rows in listed.values():
        for row in rows:
            assert row["summary"], f"{row['name']} has no summary"
            assert "\n" not in row["summary"]
            assert (row["distribution"], row["version"]) == ("brittle-eval", "0.1.0")


def test_a_summary_from_the_source_is_the_docstring_of_the_class() -> None:
    plugins = Plugins.load()
    for kind in CONTRACTS:
        for entry in plugins.entries(kind):
            imported = Entry(kind, entry.name, plugins.get(kind, entry.name), entry.source)
            assert docstring(entry) == docstring(imported) != ""


def test_a_class_without_a_docstring_or_a_module_has_no_summary() -> None:
    source = Source("p", "d", "1")
    assert docstring(Entry("judge", "x", "no_such_module:X", source)) == ""
    assert docstring(Entry("judge", "x", "no_such_package.module:X", source)) == ""
    assert docstring(Entry("judge", "x", "json:X", source)) == ""


def test_a_file_adds_to_the_list(capsys: pytest.CaptureFixture[str], plugin: Path) -> None:
    listed = as_json(capsys, "list", "--plugin", str(plugin))
    (noise,) = (row for row in listed["modifications"] if row["name"] == "noise")
    assert (noise["summary"], noise["distribution"]) == ("`W + ε`: noise.", str(plugin))
    tasks = {row["name"]: row["summary"] for row in listed["tasks"] if row["distribution"] == str(plugin)}
    expected = {"one_task": "What one asks.", "two": "group: one_task, three.task", "three.task": "chat: true, role: attack"}
    assert tasks == expected


def test_the_table_shows_what_the_json_shows(capsys: pytest.CaptureFixture[str], plugin: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.py"
    empty.write_text("x = 1\n", encoding="utf-8")
    files = ["--plugin", str(plugin), "--plugin", str(empty)]
    listed = as_json(capsys, "list", *files)
    assert cli.main(["list", *files]) == 0
    lines = capsys.readouterr().out.splitlines()
    for rows in (rows for section, rows in listed.items() if section != "broken"):
        for row in rows:
            ours = row["distribution"] == "brittle-eval"
            whole = (f"  {row['name']} ", row["summary"], "" if ours else f"{row['distribution']} {row['version']}")
            assert any(all(part in line for part in whole) for line in lines), row
    assert [one["plugin"] for one in listed["broken"]] == ["empty"]
    assert any("empty" in line and "implements no hook" in line for line in lines)


def test_show_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    (shown,) = as_json(capsys, "show", "wanda-diff")
    assert shown["kind"] == "recipe"
    assert shown["plan"].startswith("wanda+set-difference+ablate:")
    assert "2402.05162" in shown["source"]
    assert "SNIP" in shown["notes"]
    options = {(row["component"], row["key"]): (row["type"], row["default"]) for row in shown["options"]}
    assert options["set-difference", "p"] == ("fraction in [0, 1]", "0.05")
    assert options["set-difference", "compare"] == ("row | weight | block | global", "row")
    assert options["set-difference", "minus"] == ("text", "utility")
    assert cli.main(["show", "wanda-diff"]) == 0
    text = capsys.readouterr().out
    for part in (shown["plan"], shown["source"], "set-difference.p", "fraction in [0, 1]", shown["notes"].splitlines()[0]):
        assert part in text


def test_show_a_task(capsys: pytest.CaptureFixture[str]) -> None:
    (shown,) = as_json(capsys, "show", "advbench_decoding")
    assert (shown["role"], shown["data"], shown["prompt"]) == ("attack", "advbench: first 100", "plain text")
    assert shown["answers"] == "5 samples at temperature 1, at most 256 tokens"
    (group,) = as_json(capsys, "show", "advbench")[:1]
    assert "role" not in group
    assert cli.main(["show", "xstest_safe"]) == 0
    assert "of 450, without type contrast_*" in capsys.readouterr().out


def test_show_every_task(capsys: pytest.CaptureFixture[str]) -> None:
    for item in listing.items(Plugins.load())["tasks"]:
        assert cli.main(["show", item.name]) == 0
        assert item.name in capsys.readouterr().out


def test_show_a_method_and_a_file_of_ones_own(capsys: pytest.CaptureFixture[str], plugin: Path) -> None:
    (top,) = as_json(capsys, "show", "top")
    assert {row["key"]: row["default"] for row in top["options"]} == {"q": "0.05", "compare": "row", "of": "safety"}
    assert "ties" in top["docstring"]
    assert cli.main(["show", "noise", "--plugin", str(plugin)]) == 0
    assert "Second paragraph." in capsys.readouterr().out


def test_show_everything_of_one_name(capsys: pytest.CaptureFixture[str]) -> None:
    shown = {one["kind"]: one for one in as_json(capsys, "show", "advbench")}
    assert set(shown) == {"task", "dataset"}
    assert shown["dataset"]["licence"] == "MIT"


def test_show_an_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["show", "wanda-dif"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("brittle-eval: error: unknown name 'wanda-dif': did you mean wanda-diff")
    assert error.count("\n") == 1


def test_no_arguments_and_an_unknown_command_are_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert cli.main(["lst"]) == 2
    assert "No such command 'lst'" in capsys.readouterr().err


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a `run` command of the tests was given; `raises` makes it fail."""
    got: dict[str, Any] = {}

    @click.command()
    @click.option("--model")
    @click.option("--model_args")
    @click.option("--apply-chat-template", is_flag=True)
    def run(**given: Any) -> None:
        got.update(given)
        if "raises" in got:
            raise got["raises"]

    module = types.ModuleType("tests_run_command")
    module.run = run  # type: ignore[attr-defined]  # a module made by hand
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(cli.LAZY, "run", (module.__name__, "Run."))
    return got


@pytest.mark.parametrize("command", [["run"], []])
@pytest.mark.parametrize("option", ["--model_args", "--model-args"])
def test_run_is_the_default_and_takes_hyphens_or_underscores(received: dict[str, Any], command: list[str], option: str) -> None:
    assert cli.main([*command, "--model", "hf", option, "pretrained=a_b-c", "--apply_chat_template"]) == 0
    assert received == {"model": "hf", "model_args": "pretrained=a_b-c", "apply_chat_template": True}


def test_how_errors_end(received: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    received["raises"] = BrittleError("p=2 was given")
    assert cli.main(["--model", "hf"]) == 2
    assert capsys.readouterr().err == "brittle-eval: error: p=2 was given\n"
    received["raises"] = KeyboardInterrupt()
    assert cli.main(["--model", "hf"]) == 130
    received["raises"] = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError, match="a bug"):
        cli.main(["--model", "hf"])
    assert cli.main(["--modell", "hf"]) == 2
    assert "No such option" in capsys.readouterr().err
