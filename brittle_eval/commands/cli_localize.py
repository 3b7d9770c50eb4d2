"""The command `localize`: attributions against the truth."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click


@click.command()
@click.argument("plants", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FOLDER...")
@click.option(
    "--method", "methods", multiple=True, metavar="ATTRIBUTION+ISOLATION[:key=value,…]", help="Repeatable; default: all."
)
@click.option("--pairs", type=click.IntRange(min=1), default=64, show_default=True, help="Prompts a behaviour.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--output_path", type=click.Path(path_type=Path), default=Path("runs/localize"), show_default=True)
@click.option("--markdown", is_flag=True, help="Print the tables as Markdown.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def localize(
    plants: tuple[Path, ...],
    methods: tuple[str, ...],
    pairs: int,
    seed: int,
    output_path: Path,
    markdown: bool,
    as_json: bool,
) -> None:
    """Compare what methods find with where safety was planted.

    FOLDER is a model that `organism build --plant` has made. What is finished in --output_path is not done again.
    """
    from brittle_eval.organisms.localize import METHODS
    from brittle_eval.organisms.localize import localize as start
    from brittle_eval.organisms.localize_table import show

    found = start(plants, methods or METHODS, output_path, pairs, seed, lambda line: click.echo(line, err=True))
    if as_json:
        click.echo(json.dumps([asdict(plant) for plant in found], indent=2, ensure_ascii=False))
    else:
        show(found, markdown=markdown)
