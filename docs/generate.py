"""The generated parts of the documentation, each between `<!-- generated: NAME -->` and `<!-- end: NAME -->`.

`make docs` writes them; `tests/test_docs.py` fails where a page differs from what would be written.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner

from brittle_eval import cards, cli, hookspecs, methods, reading, scores, streams, units
from brittle_eval import hooks as hook_contract
from brittle_eval.evaluation.conditions import CONDITIONS
from brittle_eval.listing import docstring
from brittle_eval.options import Option, options_of
from brittle_eval.plugins import CONTRACTS, Entry, Plugins
from brittle_eval.running.record import write_json
from brittle_eval.running.row import row_schema
from brittle_eval.task_files import read_task, task_facts
from brittle_tasks.data import own_rows, select

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "CONTRIBUTING.md", "docs/cli.md", "docs/methods.md", "docs/plugins.md", "docs/tasks.md")
OURS = "brittle-eval"
"""Only what this distribution brings is documented, whatever else is installed."""
COLUMNS = 100
"""Width of the help texts."""


@cache
def plugins() -> Plugins:
    """Everything that is installed here."""
    return Plugins.load()


def _methods(kind: str) -> list[Entry]:
    return [entry for entry in plugins().entries(kind) if entry.distribution == OURS]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def _python(source: str) -> str:
    return f"```python\n{source.strip()}\n```"


def row_norm() -> str:
    """The example plugin's module."""
    return _python((ROOT / "plugins/example/brittle_row_norm.py").read_text(encoding="utf-8"))


def hooks() -> str:
    """Every hook with its signature and what it is for."""
    functions = [node for node in ast.parse(inspect.getsource(hookspecs)).body if isinstance(node, ast.FunctionDef)]
    lines = []
    for node in functions:
        returned = ast.unparse(node.returns) if node.returns else "None"
        lines.append(f"@hookspec\ndef {node.name}({ast.unparse(node.args)}) -> {returned}:")
        lines.append(f'    """{ast.get_docstring(node)}"""\n\n')
    return _python("\n".join(lines))


def _contract(cls: type) -> str:
    """A class as its author wrote it, each method's body without its code."""
    source = inspect.getsource(cls)
    (node,) = ast.parse(source).body
    assert isinstance(node, ast.ClassDef)
    lines, done = source.splitlines(), 0
    kept: list[str] = []
    for method in (item for item in node.body if isinstance(item, ast.FunctionDef)):
        documented = ast.get_docstring(method) is not None
        kept += lines[done : method.body[0].end_lineno if documented else method.body[0].lineno - 1]
        kept[-1] += "" if documented else " ..."
        done = method.end_lineno or 0
    return "\n".join([*kept, *lines[done:]])


def _contracts(*classes: type) -> str:
    return _python("\n\n\n".join(map(_contract, classes)))


def method_table() -> str:
    """Every built-in method with its formula."""
    rows = [(kind, f"`{entry.name}`", _formula(entry), _needs(entry)) for kind in CONTRACTS for entry in _methods(kind)]
    return table(("kind", "name", "what it computes", "needs"), rows)


def _formula(entry: Entry) -> str:
    return docstring(entry).partition("\n")[0]


def _needs(entry: Entry) -> str:
    """What options decide is shown for the defaults."""
    cls = plugins().get(entry.kind, entry.name)
    needs = getattr(cls, "needs", ())
    return ", ".join(sorted(cls().needs if isinstance(needs, property) else needs)) or "–"


def option_table() -> str:
    """Every option of every built-in method."""
    rows = [
        (f"`{entry.name}`", f"`{option.key}`", _type(option), "required" if option.required else f"`{option.default}`")
        for kind in CONTRACTS
        for entry in _methods(kind)
        for option in options_of(plugins().get(entry.kind, entry.name)).values()
    ]
    return table(("method", "option", "type", "default"), rows)


def _type(option: Option) -> str:
    return option.type + (" (unverified)" if option.unverified else "")


def recipe_table() -> str:
    """Every recipe card."""
    rows = [(f"`{card.name}`", f"`{card.plan}`", card.summary) for card in _ours(cards.recipes(plugins()).values())]
    return table(("recipe", "plan", "what it does"), rows)


def _ours(found: Iterable[Any]) -> list[Any]:
    """The cards that lie in this distribution's registry, by name."""
    folders = [folder.path for folder in plugins().registry_folders if folder.source.distribution == OURS]
    return sorted((card for card in found if card.path.parent.parent in folders), key=lambda card: card.name)


def dataset_table() -> str:
    """Every data set card."""
    rows = [
        (f"`{card.name}`", str(card.rows or "–"), f"`{card.file}`", card.source, card.licence, _known(card), card.summary)
        for card in _ours(cards.datasets(plugins()).values())
    ]
    return table(("data set", "rows", "file", "source", "licence", "digest", "what it holds"), rows)


def _known(card: cards.DatasetCard) -> str:
    return "known" if card.sha256 else "unverified"


def preset_table() -> str:
    """Every preset card."""
    rows = [
        (f"`{card.name}`", card.version, card.summary, ", ".join(card.judges), str(card.max_gen_toks), ", ".join(card.numbers))
        for card in _ours(cards.presets(plugins()).values())
    ]
    return table(("preset", "version", "what it is", "judges", "longest answer", "its numbers"), rows)


def condition_table() -> str:
    """Every prompt condition."""
    return table(("condition", "what it does"), [(f"`{name}`", one.summary) for name, one in CONDITIONS.items()])


def _task_files() -> list[dict[str, Any]]:
    folders = [folder.path for folder in plugins().task_folders if folder.source.distribution == OURS]
    return [read_task(file) for folder in folders for file in sorted(folder.rglob("*.yaml"))]


def task_table() -> str:
    """Every task of our own: its data, its prompt, its answers, and what is counted."""
    return table(*task_rows())


def task_rows() -> tuple[Sequence[str], list[Sequence[str]]]:
    """The head and the rows of the table of tasks."""
    rows: list[Sequence[str]] = []
    for task in sorted((task for task in _task_files() if "task" in task and "group" not in task), key=lambda task: task["task"]):
        facts = task_facts(task, cards.datasets(plugins()))
        source = task["dataset_kwargs"]["source"]
        count = "" if "card" in source else f": {len(select(own_rows(source['name'], source['split']), source))}"
        rows.append((f"`{task['task']}`", *(text + count if key == "data" else text for key, text in facts.items())))
    return ("task", "role", "data", "prompt", "system turn", "answers"), rows


def group_table() -> str:
    """Every group of tasks."""
    groups = sorted((task for task in _task_files() if "group" in task), key=lambda task: task["group"])
    rows = [(f"`{task['group']}`", ", ".join(f"`{name}`" for name in task["task"])) for task in groups]
    return table(("group", "tasks"), rows)


def command_help() -> str:
    """`--help` of the command and of every command below it."""
    return "\n\n".join(_help(cli.cli, ()))


def _help(command: click.Command, path: tuple[str, ...]) -> list[str]:
    answer = CliRunner().invoke(cli.cli, [*path, "--help"], prog_name="brittle-eval", terminal_width=COLUMNS)
    if answer.exit_code:
        raise RuntimeError(f"brittle-eval {' '.join(path)} --help gave {answer.exit_code}: {answer.output}")
    parts = [f"## `{' '.join(['brittle-eval', *path])}`\n\n```text\n{answer.output.rstrip()}\n```"]
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            parts += _help(below, (*path, name))
    return parts


def floors() -> str:
    """The floors of the building as the test of import statements has them, the highest first."""
    tree = ast.parse((ROOT / "tests/test_floors.py").read_text(encoding="utf-8"))
    (node,) = (node for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FLOORS")
    found = list(enumerate(ast.literal_eval(node.value)))
    return "\n".join(["```text", *(f"{number}  {' '.join(modules)}" for number, modules in reversed(found)), "```"])


BLOCKS: dict[str, Callable[[], str]] = {
    "attribution": lambda: _contracts(methods.Attribution, methods.Weight, methods.Seen),
    "commands": command_help,
    "conditions": condition_table,
    "datasets": dataset_table,
    "floors": floors,
    "groups": group_table,
    "hook-modification": lambda: _contracts(hook_contract.HookModification, streams.Streams),
    "hooks": hooks,
    "isolation": lambda: _contracts(methods.Isolation, methods.Context, units.Unit, units.Member),
    "judge": lambda: _contracts(methods.Judge, methods.Record, methods.Verdict),
    "methods": method_table,
    "model-attribution": lambda: _contracts(methods.ModelAttribution, scores.HiddenStates, reading.Reader, reading.Steering),
    "modification": lambda: _contracts(methods.Modification, methods.Tuning),
    "options": option_table,
    "presets": preset_table,
    "recipes": recipe_table,
    "row-norm": row_norm,
    "tasks": task_table,
}
BLOCK = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end: \2 -->)", re.DOTALL)


def page(text: str) -> str:
    """A page's text with every generated part written anew."""
    return BLOCK.sub(lambda found: f"{found[1]}\n{BLOCKS[found[2]]()}\n\n{found[3]}", text)


SCHEMA = ROOT / "registry/brittle_registry/schema/row.json"


def main() -> None:
    """Write the generated parts of every page, and the schema of rows."""
    write_json(SCHEMA, row_schema())
    for name in PAGES:
        file = ROOT / name
        old = file.read_text(encoding="utf-8")
        new = page(old)
        if new != old:
            file.write_text(new, encoding="utf-8")
            print(f"{name}: written")


if __name__ == "__main__":
    main()
