"""The documentation says what the code does: generated parts are current, examples run, commands and links hold."""

from __future__ import annotations

import importlib.util
import inspect
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import pytest

import brittle_eval
from brittle_eval import cards, hookspecs
from brittle_eval.cli import cli
from brittle_eval.commands.cli_run import run
from brittle_eval.evaluation.evaluate import TaskShelf
from brittle_eval.listing import MEASURES, items
from brittle_eval.plugins import Plugins
from brittle_eval.recipe import build, check, parse
from brittle_eval.sweeps.grid import plans

ROOT = Path(brittle_eval.__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
HOOKS = sorted(name for name in vars(hookspecs) if name.startswith("brittle_"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """The script that writes the generated parts."""
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def example(generate: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples that are written by hand in docs/plugins.md, as one module."""
    by_hand = generate.BLOCK.sub("", text("docs/plugins.md"))
    file = tmp_path_factory.mktemp("example") / "example.py"
    file.write_text("\n".join(code for language, code in FENCE.findall(by_hand) if language == "python"), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def plugins(example: Path) -> Plugins:
    """All that the documentation's commands may name."""
    return Plugins.load([example, ROOT / "plugins/example/brittle_row_norm.py"])


def test_generated_parts_are_current(generate: ModuleType) -> None:
    stale = [name for name in generate.PAGES if generate.page(text(name)) != text(name)]
    assert stale == [], "run `make docs`"


def test_every_generated_part_is_on_a_page_and_every_marker_is_closed(generate: ModuleType) -> None:
    opened = [name for page in PAGES for name in re.findall(r"<!-- generated: (.*?) -->", page.read_text(encoding="utf-8"))]
    closed = [name for page in PAGES for name in re.findall(r"<!-- end: (.*?) -->", page.read_text(encoding="utf-8"))]
    assert opened == closed
    assert set(opened) == set(generate.BLOCKS)
    assert {page.relative_to(ROOT).as_posix() for page in PAGES if "<!-- generated: " in page.read_text("utf-8")} == set(
        generate.PAGES
    )


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_documented_with_its_exact_signature(hook: str) -> None:
    signature = str(inspect.signature(getattr(hookspecs, hook))).replace("'", "")
    assert f"def {hook}{signature}:" in text("docs/plugins.md")


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_test(hook: str) -> None:
    assert [file.name for file in (ROOT / "tests").glob("test_*.py") if hook in file.read_text(encoding="utf-8")]


@pytest.mark.parametrize(
    ("hook", "kind", "name"),
    [
        ("brittle_isolations", "isolation", "above"),
        ("brittle_modifications", "modification", "shrink"),
        ("brittle_judges", "judge", "long"),
    ],
)
def test_the_documented_example_brings_its_methods(plugins: Plugins, example: Path, hook: str, kind: str, name: str) -> None:
    assert f"def {hook}()" in example.read_text(encoding="utf-8")
    assert plugins.broken == []
    assert plugins.entry(kind, name).source.plugin == "example"
    assert plugins.get(kind, name)() is not None


def test_the_documented_example_brings_its_folders(plugins: Plugins, example: Path) -> None:
    assert example.parent in plugins.task_paths()
    assert example.parent in plugins.registry_paths()


def test_the_documented_test_of_a_method_passes(plugins: Plugins) -> None:
    tests = vars(inspect.getmodule(plugins.get("modification", "shrink")))
    tests["test_shrink_scales_the_region_and_nothing_else"]()


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every `brittle-eval …` of the pages and the Makefile, with the words after it."""
    makefile = text("Makefile").replace("\\\n", " ").replace("$(BIN)/", "")
    for name, page in [*((page.name, page.read_text(encoding="utf-8")) for page in PAGES), ("Makefile", makefile)]:
        lines = [line.strip() for line in page.splitlines()] + re.findall(r"`(brittle-eval [^`\n]*)`", page)
        for line in lines:
            if line.startswith("brittle-eval -"):
                yield name, shlex.split(line, comments=True)[1:]


def options_of_run() -> set[str]:
    return {name.replace("_", "-") for parameter in run.params for name in parameter.opts} | {"--help", "--version"}


@pytest.mark.parametrize("words", [pytest.param(words, id=f"{page}: {' '.join(words)}") for page, words in commands()])
def test_commands_name_options_and_plans_that_exist(plugins: Plugins, words: list[str]) -> None:
    given = {word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--")}
    assert given <= options_of_run()
    typed = [words[at + 1] for at, word in enumerate(words) if word == "--modify" and words[at + 1] != "PLAN"]
    for plan in (plan for text in typed for plan in plans(text)):
        parsed = parse(plan, plugins, cards.recipes(plugins))
        check(parsed, plugins)
        for part in parsed.components:
            build(part, plugins.get(part.kind, part.name))
    shelf = TaskShelf(plugins.task_paths(), {})
    for tasks in [words[at + 1] for at, word in enumerate(words) if word == "--tasks"]:
        assert shelf.expand(tasks.split(","), {name: group for name, (group, _) in MEASURES.items()})


def subcommands() -> Iterator[tuple[str, list[str]]]:
    """Every `brittle-eval COMMAND …` of the pages' code."""
    for page in PAGES:
        written = page.read_text(encoding="utf-8")
        fenced = [line for _, code in FENCE.findall(written) for line in code.splitlines()]
        for line in [*fenced, *re.findall(r"`([^`\n]*)`", FENCE.sub("", written))]:
            if re.match(r"brittle-eval [a-z]", line):
                yield page.name, shlex.split(line, comments=True)[1:]


@pytest.mark.parametrize("words", [pytest.param(words, id=f"{page}: {' '.join(words)}") for page, words in subcommands()])
def test_subcommands_and_their_options_exist(words: list[str]) -> None:
    command: click.Command = cli
    while isinstance(command, click.Group) and words:
        found = command.get_command(click.Context(command), words[0])
        assert found is not None, words[0]
        command, words = found, words[1:]
    if command.ignore_unknown_options:  # what follows is another command's
        return
    if command.name == "lm-eval":
        return  # its words are lm-eval's
    known = {name.replace("_", "-") for parameter in command.params for name in parameter.opts} | {"--help"}
    assert {word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--")} <= known


def test_measures_are_documented() -> None:
    assert [name for name in MEASURES if f"`{name}`" not in text("docs/tasks.md")] == []


def anchors(page: Path) -> set[str]:
    """What a heading of the page can be linked by."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text(encoding="utf-8"))):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_two_commands_of_the_readme_are_targets() -> None:
    promised = set(re.findall(r"^make (\w+)", text("README.md") + text("CONTRIBUTING.md"), re.MULTILINE))
    assert {"demo", "test"} <= promised
    assert promised <= set(re.findall(r"^(\w+):", text("Makefile"), re.MULTILINE))


def test_the_site_builds_strictly_and_asks_no_other_host(tmp_path: Path) -> None:
    """Every link and anchor holds, all that has a name has a page, and nothing is loaded from elsewhere."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(ROOT / "mkdocs.yml")]
    done = subprocess.run([*command, "--site-dir", str(tmp_path / "site")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    site = tmp_path / "site"
    pages = list(site.rglob("*.html"))
    assert {page.stem for page in site.glob("*.html")} >= {page.stem for page in PAGES if page.parent.name == "docs"}
    for section in ("attributions", "isolations", "modifications", "judges", "recipes", "tasks", "presets", "datasets"):
        own = {item.name for item in items(Plugins.load())[section] if item.distribution == "brittle-eval"}
        assert own and own <= {page.stem for page in (site / "reference" / section).glob("*.html")}
    loaded = [re.findall(r"<(?:script|img|iframe)[^>]+src=\"(https?:[^\"]+)", page.read_text(encoding="utf-8")) for page in pages]
    styles = [
        re.findall(r"<link[^>]+rel=\"(?:stylesheet|preconnect)\"[^>]+href=\"(https?:[^\"]+)", page.read_text()) for page in pages
    ]
    assert not any(loaded) and not any(styles)
