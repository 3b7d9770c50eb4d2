"""What is installed, described without importing it: the answers of `brittle-eval list` and `brittle-eval show`."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from brittle_eval import __version__, cards, recipe
from brittle_eval.errors import UnknownName
from brittle_eval.evaluation.backends import BACKENDS
from brittle_eval.options import Option, options_of
from brittle_eval.plugins import CONTRACTS, Entry, Folder, Plugins
from brittle_eval.scope import SCOPE, Scope

TASK_NAME = re.compile(r"""^(?:task|group):[ \t]*["']?([\w.-]+)["']?[ \t]*(?:\#.*)?$""", re.MULTILINE)
MEMBER = re.compile(r"^[ \t]*-[ \t]+([\w.-]+)[ \t]*$", re.MULTILINE)
PROMPTS = re.compile(r"^[ \t]+brittle:[ \t]*\{(.*)\}", re.MULTILINE)
"""YAML is matched, not read: its `!function` tags would import the tasks' code."""

PERPLEXITY, DIVERGENCE, WIKITEXT = "embedded_perplexity", "embedded_kl", "wikitext2_token_ppl"
REASONING = "embedded_reasoning"
MEASURES = {
    WIKITEXT: ("", "token perplexity of WikiText-2's test text, in pieces of seqlen tokens (--metadata seqlen=2048)"),
    PERPLEXITY: ("embedded", "perplexity of the unedited model's own answers to embedded_harmless"),
    DIVERGENCE: ("embedded", "KL divergence from the unedited model over the first 16 tokens of these answers, in nats"),
    REASONING: ("", "share of blocks in which a request of embedded_harmful lies nearer to a refusal than to a compliant answer"),
}
"""Names that `--tasks` takes although no YAML describes them: the group that each joins, and what it measures."""


@dataclass(frozen=True)
class Item:
    """One line of the list."""

    name: str
    summary: str
    distribution: str
    version: str


def items(plugins: Plugins) -> dict[str, list[Item]]:
    """Everything that a user can name, by section, each sorted by name."""
    found = {f"{kind}s": [_method(entry) for entry in plugins.entries(kind)] for kind in CONTRACTS}
    found["recipes"] = [_card(card, plugins) for card in cards.recipes(plugins).values()]
    found["tasks"] = [task for folder in plugins.task_folders for task in _tasks(folder)]
    found["measures"] = [Item(name, text, "brittle-eval", __version__) for name, (_, text) in MEASURES.items()]
    found["backends"] = [Item(one.name, one.summary, "brittle-eval", __version__) for one in BACKENDS.values()]
    found["datasets"] = [_card(card, plugins) for card in cards.datasets(plugins).values()]
    found["judge-cards"] = [_card(card, plugins) for card in cards.judges(plugins).values()]
    found["models"] = [_card(card, plugins) for card in cards.models(plugins).values()]
    found["presets"] = [_card(card, plugins) for card in cards.presets(plugins).values()]
    return {section: sorted(rows, key=lambda row: row.name) for section, rows in found.items()}


def _method(entry: Entry) -> Item:
    return Item(entry.name, docstring(entry).partition("\n")[0], entry.distribution, entry.version)


def docstring(entry: Entry) -> str:
    """A method's own docstring; of a `"module:Class"` from its source, so that nothing heavy is imported."""
    if not isinstance(entry.target, str):
        written = entry.target.__doc__ or ""
        # dataclasses write the signature where there is no docstring
        return "" if written.startswith(f"{entry.target.__name__}(") else inspect.cleandoc(written)
    module, _, name = entry.target.partition(":")
    try:
        spec = importlib.util.find_spec(module)
        tree = ast.parse(Path(spec.origin or "").read_text(encoding="utf-8") if spec else "")
    except (ImportError, OSError, SyntaxError, ValueError):
        return ""
    classes = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    return next((ast.get_docstring(node) or "" for node in classes), "")


def _card(card: cards.Card, plugins: Plugins) -> Item:
    source = next(folder.source for folder in plugins.registry_folders if card.path.is_relative_to(folder.path))
    return Item(card.name, card.summary, source.distribution, source.version)


def _tasks(folder: Folder) -> Iterator[Item]:
    for file in folder.path.rglob("*.yaml"):
        text = file.read_text(encoding="utf-8")
        if found := TASK_NAME.search(text):
            yield Item(found[1], _task_summary(text), folder.source.distribution, folder.source.version)


def _task_summary(text: str) -> str:
    """The comment in the first line; else a group's members; else what the task says of its prompts."""
    if text.startswith("#"):
        return text.partition("\n")[0].lstrip("# ")
    if members := MEMBER.findall(text):
        return f"group: {', '.join(members)}"
    prompts = PROMPTS.search(text)
    return prompts[1] if prompts else ""


def describe(plugins: Plugins, name: str) -> list[dict[str, Any]]:
    """Everything called `name`: methods, recipes, tasks, data sets, models, presets. UnknownName with the nearest names."""
    known = items(plugins)
    found: list[dict[str, Any]] = []
    for section, rows in known.items():
        kind = section.removesuffix("s")
        for item in (row for row in rows if row.name == name):
            found.append({"kind": kind, **asdict(item)})
            if kind in CONTRACTS:
                found[-1] |= _of_method(plugins, kind, name)
            elif kind == "recipe":
                found[-1] |= _of_recipe(plugins, name)
            elif kind == "task":
                found[-1] |= _of_task(plugins, name)
            elif kind == "dataset":
                data = cards.datasets(plugins)[name]
                found[-1] |= data.model_dump(exclude_none=True) | {"sha256": data.digest}
            elif kind == "model":
                found[-1] |= cards.models(plugins)[name].model_dump(exclude_none=True)
            elif kind == "backend":
                found[-1] |= {"status": "verified" if BACKENDS[name].verified else "unverified"}
            elif kind == "preset":
                card = cards.presets(plugins)[name]
                found[-1] |= card.model_dump(exclude_none=True, exclude={"version"}) | {"preset": card.title}
            elif kind == "judge-card":
                found[-1] |= _of_judge_card(plugins, name)
    if not found:
        raise UnknownName("name", name, {row.name for rows in known.values() for row in rows}, plugins.hint)
    return found


def _of_method(plugins: Plugins, kind: str, name: str) -> dict[str, Any]:
    options = [_option(name, option, {}) for option in options_of(plugins.get(kind, name)).values()]
    return {"docstring": docstring(plugins.entry(kind, name)), "options": options}


def _of_task(plugins: Plugins, name: str) -> dict[str, Any]:
    from brittle_eval.task_files import read_task, task_facts

    files = [file for folder in plugins.task_folders for file in folder.path.rglob("*.yaml")]
    (file, *_) = (file for file in files if name in TASK_NAME.findall(file.read_text(encoding="utf-8")))
    return task_facts(read_task(file), cards.datasets(plugins))


def _of_recipe(plugins: Plugins, name: str) -> dict[str, Any]:
    known = cards.recipes(plugins)
    plan = recipe.parse(name, plugins, known)
    options = [
        _option(part.name, option, part.options)
        for part in plan.components
        for option in options_of(plugins.get(part.kind, part.name)).values()
    ]
    if plan.components:
        options += [_option(SCOPE, option, plan.scope.options) for option in options_of(Scope).values()]
    card = known[name]
    return {"plan": card.plan, "options": options, "source": card.source, "notes": card.notes.strip()}


def _of_judge_card(plugins: Plugins, name: str) -> dict[str, Any]:
    card = cards.judges(plugins)[name]
    given = {key.replace("-", "_"): value for key, value in card.options.items()}
    options = [_option(card.method, option, given) for option in options_of(plugins.get("judge", card.method)).values()]
    shown = card.model_dump(include={"method", "source", "licence", "notes"})
    return shown | {"status": "verified" if card.verified else "unverified", "options": options}


def _option(component: str, option: Option, given: Mapping[str, str]) -> dict[str, Any]:
    default = given.get(option.name, "required" if option.required else str(option.default))
    typed = option.type + (", unverified" if option.unverified else "")
    return {"component": component, "key": option.key, "type": typed, "default": default}
