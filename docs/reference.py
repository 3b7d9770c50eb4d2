"""A page for each method, recipe, task, judge, preset, data set and model that this project brings, made when the site is built.

A hook of mkdocs: the pages lie in no folder, their text is what `brittle-eval show` knows, and what the registry's
leaderboard has measured of them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))

from generate import OURS, plugins, table

from brittle_eval.cards import recipes
from brittle_eval.leaderboard.board import Board, boards
from brittle_eval.leaderboard.formats import markdown
from brittle_eval.leaderboard.gather import gather
from brittle_eval.listing import Item, describe, items
from brittle_eval.plugins import CONTRACTS

SECTIONS = {
    "attributions": "Attributions",
    "isolations": "Isolations",
    "modifications": "Modifications",
    "recipes": "Recipes",
    "tasks": "Tasks",
    "judges": "Judges",
    "judge-cards": "Judge cards",
    "presets": "Presets",
    "datasets": "Data sets",
    "models": "Models",
}
"""The parts of the reference, as `brittle-eval list` names them."""
COMMANDS = {
    "recipe": "brittle-eval --model hf --modify {}",
    "task": "brittle-eval --model hf --modify none --tasks {}",
    "judge": "brittle-eval judge RUN --judge {}",
    "judge-card": "brittle-eval judge RUN --judge {}",
    "preset": "brittle-eval --model hf --modify snip-diff --preset {}",
}
"""How what has a page is used."""
SHOWN = frozenset({"kind", "name", "summary", "distribution", "version", "docstring", "options", "plan", "notes", "path"})
"""What a page has a place of its own for; everything else that is known is a line of its table."""


@cache
def _items() -> dict[str, list[Item]]:
    return {section: [item for item in rows if item.distribution == OURS] for section, rows in items(plugins()).items()}


def names(section: str) -> list[str]:
    """What a section has pages of."""
    return [item.name for item in _items()[section]]


@cache
def pages() -> dict[str, dict[str, str]]:
    """Each section's pages: the text of every name, in Markdown."""
    found: dict[str, dict[str, str]] = {}
    for section in SECTIONS:
        found[section] = {name: _page(section.removesuffix("s"), name) for name in names(section)}
    return found


def _page(kind: str, name: str) -> str:
    (known,) = (one for one in describe(plugins(), name) if one["kind"] == kind)
    parts = [f"# `{name}`", f"*{kind}*", *_words(known), *_facts(kind, known), *_options(known), *_related(kind, known)]
    if known.get("notes"):
        parts += ["## Notes", known["notes"].strip()]
    return "\n\n".join([*parts, *_measured(kind, name)]) + "\n"


def _words(known: Mapping[str, Any]) -> list[str]:
    """The docstring, a paragraph each, or the summary."""
    return [known.get("docstring") or known["summary"]]


def _facts(kind: str, known: Mapping[str, Any]) -> Iterator[str]:
    if "plan" in known:
        yield f"```text\n{known['plan']}\n```"
    facts = [(key.replace("_", " "), _text(one)) for key, one in known.items() if key not in SHOWN and one not in ("", [], {})]
    if facts:
        yield table(("what", "is"), facts)
    if kind in COMMANDS:
        yield f"```\n{COMMANDS[kind].format(known['name'])}\n```"


def _text(value: Any) -> str:
    """A card's value in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_text(one)}" for key, one in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value))
    text = " ".join(str(value).split())
    return f"`{text}`" if re.search(r"[<>_*{}]", text) else text


def _options(known: Mapping[str, Any]) -> Iterator[str]:
    if options := known.get("options"):
        yield "## Options"
        keys = ("component", "key", "type", "default")
        yield table(keys, [[_code(str(option[key])) for key in keys] for option in options])


def _code(text: str) -> str:
    return f"`{text}`" if text else "–"


def _related(kind: str, known: Mapping[str, Any]) -> Iterator[str]:
    """Recipes that use a method, and the methods of a recipe."""
    links = []
    if kind == "recipe":
        for name in _components(known["plan"]):
            links += [f"[`{name}`](../{one}s/{name}.md)" for one in CONTRACTS if name in names(f"{one}s")]
    elif kind in CONTRACTS:
        plans = {name: card.plan for name, card in recipes(plugins()).items() if name in names("recipes")}
        links = [f"[`{name}`](../recipes/{name}.md)" for name, plan in plans.items() if known["name"] in _components(plan)]
    if links:
        yield f"{'Uses' if kind == 'recipe' else 'Recipes'}: {', '.join(links)}."


def _components(plan: str) -> list[str]:
    return plan.partition(":")[0].split("+")


@cache
def _board_rows() -> list[Board]:
    files = [file for folder in plugins().registry_folders if (file := folder.path / "leaderboard/rows.jsonl").is_file()]
    return boards(gather(files, lambda line: None)) if files else []


def _measured(kind: str, name: str) -> Iterator[str]:
    """What the registry's leaderboard says of plans that hold a method or are a recipe, with the commands."""
    if kind not in ("recipe", *CONTRACTS):
        return
    kept, commands = [], []
    for board in _board_rows():
        edits = [one for one in board.edits if name == one.row.recipe.partition(":")[0] or name in _components(one.row.plan)]
        if edits:
            kept.append(Board(board.title, board.tasks, board.unedited, edits, []))
            commands += [one.row.command for one in edits]
    if kept:
        yield "## Measured"
        yield markdown(kept).replace("### ", "**", 1).replace("\n\n|", "**\n\n|", 1)
        yield "```\n" + "\n".join(dict.fromkeys(commands)) + "\n```"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Hook of mkdocs: each section's list joins the navigation. Not the pages: each would draw links to all others."""
    config.nav = [*(config.nav or []), {"Reference": [{title: _path(section)} for section, title in SECTIONS.items()]}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Hook of mkdocs: the lists and the pages join the files."""
    for section, texts in pages().items():
        files.append(File.generated(config, _path(section), content=_list(section)))
        for name, text in texts.items():
            files.append(File.generated(config, _path(section, name), content=text))
    return files


def _list(section: str) -> str:
    """A section's own page: every name with its summary."""
    rows = [(f"[`{one.name}`]({one.name}.md)", one.summary) for one in _items()[section]]
    return f"# {SECTIONS[section]}\n\n{table(('name', 'what it is'), rows)}\n"


def _path(section: str, name: str = "index") -> str:
    return f"reference/{section}/{name}.md"
