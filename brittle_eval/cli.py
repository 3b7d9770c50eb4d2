"""The command `brittle-eval`: `run` is the default; `list` and `show` answer without importing torch or lm-eval."""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click

from brittle_eval import __version__
from brittle_eval.errors import BrittleError

LAZY = {
    "run": ("brittle_eval.commands.cli_run", "Attribute, isolate, modify, and evaluate before, after and against controls."),
    "sweep": ("brittle_eval.commands.cli_sweep", "Run every combination of models, plans, their options, seeds and tasks."),
    "probe": ("brittle_eval.commands.cli_probe", "The brittleness curve: at which size of the region safety gives way."),
    "landscape": ("brittle_eval.commands.cli_landscape", "Step away from a model at random or towards another: VISAGE."),
    "lm-eval": ("brittle_eval.commands.cli_lm_eval", "lm-eval's own command, with the model type brittle-hf."),
    "judge": ("brittle_eval.commands.cli_judge", "Judge a run's stored answers again, or judges against labels."),
    "leaderboard": ("brittle_eval.commands.cli_leaderboard", "Put the rows of many runs side by side, ranked."),
    "verify": ("brittle_eval.commands.cli_leaderboard", "Count a row's numbers anew from what it rests on."),
    "export": ("brittle_eval.commands.cli_export", "Write an edit to disk: a sparse delta, a projector, a LoRA or all weights."),
    "behaviour": ("brittle_eval.commands.cli_behaviour", "Make sets of prompts and responses to attribute."),
    "region": ("brittle_eval.commands.cli_region", "Compare regions that runs have found."),
    "organism": ("brittle_eval.commands.cli_organism", "Make the embedded model again, or models with safety in a known place."),
    "localize": ("brittle_eval.commands.cli_localize", "Compare what methods find with where safety was planted."),
    "report": ("brittle_eval.commands.cli_report", "Write one HTML page about a run, a sweep, a probe or a landscape."),
    "suffix": ("brittle_eval.commands.cli_suffix", "Optimise an adversarial suffix for the model under test."),
}
"""Commands whose module is imported when they are used: module (with a command of that name), and what `--help` says."""

Given = ParamSpec("Given")
Returned = TypeVar("Returned")


class Commands(click.Group):
    """A group that takes options without a command for `run`, and imports the commands of `LAZY` on use."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {name for parameter in self.get_params(ctx) for name in parameter.opts}
        if args and args[0].startswith("-") and args[0] not in own:
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*LAZY, *super().list_commands(ctx)])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in LAZY:
            return super().get_command(ctx, cmd_name)
        logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of our tasks' arguments, which are meant so
        command: click.Command = getattr(importlib.import_module(LAZY[cmd_name][0]), cmd_name.replace("-", "_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, LAZY[name][1] if name in LAZY else self._summary(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def _summary(self, ctx: click.Context, name: str) -> str:
        command = self.get_command(ctx, name)
        return command.get_short_help_str(limit=100) if command else ""


def hyphens(token: str) -> str:
    """Option and command names with hyphens or underscores: `--model_args` is `--model-args`."""
    return token.replace("_", "-")


@click.group(
    cls=Commands,
    context_settings={"token_normalize_func": hyphens, "help_option_names": ["-h", "--help"], "max_content_width": 120},
)
@click.version_option(__version__, prog_name="brittle-eval")
def cli() -> None:
    """Find, isolate and modify the weights that carry a model's safety behaviour, and evaluate what happens.

    Without a command: run. `brittle-eval run --help` lists its options.
    """


def _shared(command: Callable[Given, Returned]) -> Callable[Given, Returned]:
    """The options that `list` and `show` have in common."""
    file = click.option("--plugin", "files", multiple=True, type=click.Path(path_type=Path), help="Add a plugin file.")
    return file(click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command))


@cli.command("list")
@_shared
def list_all(files: tuple[Path, ...], as_json: bool) -> None:
    """List methods, recipes, tasks, measures, data sets, models and presets; others' with where they come from."""
    from brittle_eval import listing
    from brittle_eval.plugins import Plugins

    plugins = Plugins.load(files)
    sections = {section: [vars(item) for item in rows] for section, rows in listing.items(plugins).items()}
    broken = [{**vars(one.source), "error": one.error} for one in plugins.broken]
    if as_json:
        _print_json({**sections, "broken": broken})
        return
    for section, rows in sections.items():
        _print_table(section, [(row["name"], row["summary"], _source(row)) for row in rows])
    _print_table("broken plugins", [(row["plugin"], row["error"], row["distribution"]) for row in broken])


@cli.command()
@click.argument("name")
@_shared
def show(name: str, files: tuple[Path, ...], as_json: bool) -> None:
    """Show one method, recipe, task, data set, model or preset: options, types, defaults, source."""
    from brittle_eval import listing
    from brittle_eval.plugins import Plugins

    found = listing.describe(Plugins.load(files), name)
    if as_json:
        _print_json(found)
        return
    for thing in found:
        _print_one(thing)


def _source(row: Mapping[str, Any]) -> str:
    """Where a thing comes from, if it is not ours."""
    return "" if row["distribution"] == "brittle-eval" else f"{row['distribution']} {row['version']}"


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _print_table(title: str, rows: Sequence[tuple[str, ...]]) -> None:
    if not rows:
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    click.echo(f"{title}:")
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(f"  {line}".rstrip())
    click.echo()


def _print_one(thing: Mapping[str, Any]) -> None:
    click.echo(f"{thing['name']}: {thing['kind']} of {thing['distribution']} {thing['version']}\n")
    click.echo(thing.get("docstring") or thing["summary"])
    click.echo()
    data = (
        "plan",
        "method",
        "status",
        "source",
        "licence",
        "file",
        "sha256",
        "rows",
        "hub",
        "url",
        "requests",
        "wheel",
        "gguf",
        "adapter",
    )
    task = ("role", "data", "prompt", "system turn", "answers")
    preset = ("preset", "max_gen_toks", "num_fewshot", "utility_limit", "condition", "seed")
    keys = [key for key in (*data, "adapter_sha256", *task, *preset, "judges") if key in thing]
    _print_table("card", [(key, _cell(thing[key])) for key in keys if not isinstance(thing[key], Mapping)])
    for key in ("tasks", "samples", "system_prompts", "data", "numbers"):
        if isinstance(thing.get(key), Mapping):
            _print_table(key, [(name, _cell(value)) for name, value in thing[key].items()])
    rows = [(f"{o['component']}.{o['key']}", f"= {o['default']}", o["type"]) for o in thing.get("options", ())]
    _print_table("options", rows)
    if thing.get("notes"):
        click.echo(f"notes:\n{_indented(thing['notes'].splitlines())}\n")


def _cell(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)


def _indented(lines: Iterable[str]) -> str:
    return "\n".join(f"  {line}" for line in lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0, 2 for a user's mistake (one line on stderr), 130 after Ctrl-C. A bug keeps its traceback."""
    try:
        status = cli.main(args=arguments, prog_name="brittle-eval", standalone_mode=False)
    except BrittleError as error:
        click.echo(f"brittle-eval: error: {error}", err=True)
        return 2
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("brittle-eval: interrupted", err=True)
        return 130
    return status if isinstance(status, int) else 0
