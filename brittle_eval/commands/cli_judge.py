"""The command `judge`: stored answers judged again, by any judge; judges against labels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

FILE = click.Path(path_type=Path)


@click.command()
@click.argument("run", type=FILE, required=False)
@click.option(
    "--judge",
    "judges",
    multiple=True,
    metavar="A,B",
    help="Judges, cards or card files (.toml), each with :key=value,… if need be; repeatable.",
)
@click.option("--against", type=FILE, metavar="FILE", help="Labels of answers: precision, recall and kappa of every judge.")
@click.option("--send-answers-to", "hosts", multiple=True, metavar="HOST", help="Let judges send prompts and answers to HOST.")
@click.option("--plugin", "plugins", multiple=True, type=FILE, help="Add a plugin file.")
@click.option("--json", "as_json", is_flag=True, help="Print what --against finds as JSON.")
def judge(
    run: Path | None,
    judges: tuple[str, ...],
    against: Path | None,
    hosts: tuple[str, ...],
    plugins: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Judge the stored answers of the run in the folder RUN; the model that gave them is not loaded.

    Verdicts are kept in RUN/verdicts and in the samples, and rows and results are counted anew; the same command goes on where
    it was stopped. Without RUN, --against judges the prompts and responses that the file itself has.
    """
    from brittle_eval.judgement import judge_command
    from brittle_eval.running.table import show

    asked = judge_command.Asked(run, judges, against, hosts, plugins)
    rows, found = judge_command.start(asked, lambda line: click.echo(line, err=True))
    if rows and not as_json:
        show(rows)
    if found is not None:
        click.echo(json.dumps(found, default=asdict, indent=2) if as_json else _as_text(found))
    if run is not None:
        click.echo(f"results: {run}", err=as_json)


def _as_text(found: Mapping[str, Any]) -> str:
    """A line a judge."""
    left = f"{found['undecided']} undecided, {found['of_no_answer']} of no answer here"
    lines = [f"\n{found['used']} of {found['labels']} labels ({left})"]
    for name, score in found["judges"].items():
        shares = {"precision": score.precision, "recall": score.recall, "κ": score.kappa}
        text = ", ".join(f"{key} {'–' if value is None else f'{value:.3f}'}" for key, value in shares.items())
        lines.append(f"{name}: {text} (n = {score.n}, {score.positives} labelled positive, {score.unscored} unscored)")
    return "\n".join(lines)
