"""The commands `leaderboard` and `verify`: rows of many runs side by side, and rows held against what they rest on."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from brittle_eval.errors import BrittleError

if TYPE_CHECKING:
    from brittle_eval.leaderboard.board import Board
    from brittle_eval.running.row import Row

FILE = click.Path(path_type=Path)
SUFFIXES = {".md": "markdown", ".tex": "latex", ".csv": "csv", ".json": "json", ".html": "html"}


@click.command()
@click.argument("runs", nargs=-1, type=FILE, metavar="[RUN]...")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", *SUFFIXES.values()]),
    default="table",
    show_default=True,
    help="What to print.",
)
@click.option(
    "--output", "outputs", multiple=True, type=FILE, help="Write this file instead: .md, .tex, .csv, .json or .html; repeatable."
)
@click.option("--top", type=click.IntRange(min=0), default=20, show_default=True, help="Edits in the printed table; 0: all.")
@click.option("--add", "collection", type=FILE, metavar="FILE", help="Add the rows to this rows.jsonl file, each once.")
def leaderboard(runs: tuple[Path, ...], form: str, outputs: tuple[Path, ...], top: int, collection: Path | None) -> None:
    """Put the rows of many runs side by side, ranked where they can be compared.

    RUN is the folder of a run or a sweep, a rows.jsonl file, or a folder that is searched for them. Without one: the rows that
    the registry has.
    """
    from brittle_eval.leaderboard.board import boards
    from brittle_eval.leaderboard.board_table import show
    from brittle_eval.leaderboard.gather import add, gather
    from brittle_eval.running.record import write_text

    for output in outputs:
        if output.suffix not in SUFFIXES:
            raise BrittleError(f"--output {output}: expected a name that ends in {', '.join(SUFFIXES)}")
    found = gather(runs or _registry(), lambda line: click.echo(line, err=True), items=collection is not None)
    if collection is not None:
        click.echo(f"{add(collection, found)} rows added to {collection}", err=True)
    made = boards(found)
    for output in outputs:
        click.echo(f"written: {write_text(output, [_written(made, SUFFIXES[output.suffix])])}", err=True)
    if not outputs and form == "table":
        show(made, top=top)
    elif not outputs:
        click.echo(_written(made, form), nl=False)


def _written(made: Sequence[Board], form: str) -> str:
    from brittle_eval.leaderboard import board_page, formats

    writers: dict[str, Callable[[Sequence[Board]], str]] = {
        "markdown": formats.markdown,
        "latex": formats.latex,
        "csv": formats.as_csv,
        "json": formats.as_json,
        "html": board_page.page,
    }
    return writers[form](made)


def _registry() -> tuple[Path, ...]:
    from brittle_eval.plugins import Plugins

    files = [path / "leaderboard" / "rows.jsonl" for path in Plugins.load().registry_paths()]
    if not (found := tuple(file for file in files if file.is_file())):
        raise BrittleError("no run was given, and the registry has no rows: brittle-eval leaderboard RUN…")
    return found


@click.command()
@click.argument("rows", nargs=-1, required=True, metavar="ROW...")
@click.option("--run", "runs", multiple=True, type=FILE, help="Folder of the run that made the row, if it is not the file's own.")
@click.option("--rerun", is_flag=True, help="Run the row's command again in a temporary folder, and compare.")
def verify(rows: tuple[str, ...], runs: tuple[Path, ...], rerun: bool) -> int:
    """Count a row's numbers anew from the stored samples, take every digest again, and name each difference.

    ROW is RUN:NAME, or RUN for all rows of it, or a rows.jsonl file with :NAME or :LINE behind it. The exit status is 1 if
    anything differs.
    """
    from brittle_eval.leaderboard.places import folder_of, named
    from brittle_eval.leaderboard.verify import run_again
    from brittle_eval.leaderboard.verify import verify as check

    different = 0
    for one in (found for text in rows for found in named(text)):
        if rerun:
            with tempfile.TemporaryDirectory(prefix="brittle-eval-") as folder:
                verdict = run_again(one.row, Path(folder) / "run", _again)
        elif (made := folder_of(one, runs)) is not None:
            verdict = check(one.row, made)
        else:
            raise BrittleError(
                f"the samples of row {one.row.name} of {one.file} are not beside it: give the run's folder with --run FOLDER, or "
                "--rerun"
            )
        different += bool(verdict.differences)
        said = f"{len(verdict.differences)} differences" if verdict.differences else "verified"
        click.echo(f"{one.file}: {one.row.name}: {said}")
        for line in verdict.differences:
            click.echo(f"  differs: {line}")
        for line in verdict.unchecked:
            click.echo(f"  not checked: {line}")
    return 1 if different else 0


def _again(row: Row, folder: Path) -> Sequence[Row]:
    """The rows of a row's command; it is read as the command line of `run`, and no shell sees it."""
    from brittle_eval.commands.cli_run import as_options
    from brittle_eval.running.run import run

    words = shlex.split(row.command)
    if words[:2] != ["brittle-eval", "run"]:
        raise BrittleError(f"the command of row {row.name} is no `brittle-eval run`: {row.command[:200]}")
    click.echo(row.command, err=True)
    return run(replace(as_options(words[2:]), output_path=folder), lambda line: click.echo(line, err=True))[0]
