"""The command `region`: what runs have found, side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from brittle_eval.commands.cli_run import as_asked, run


@click.group()
def region() -> None:
    """Regions that runs have found."""


@region.command()
@click.argument("regions", nargs=-1, required=True, metavar="[NAME=]PATH...")
@click.option("--across-models", is_flag=True, help="Also regions of two models, if their weights have the same shapes.")
@click.option("--plot", "picture", type=click.Path(path_type=Path), help="Draw the overlap by block into this .svg or .png file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare(regions: tuple[str, ...], across_models: bool, picture: Path | None, as_json: bool) -> None:
    """Show how far regions agree, by block and by kind of weight.

    It is their intersection over union, beside what chance would give. PATH is a region file, or the folder of a run:
    all its regions. Regions of one NAME (seeds=run-0 seeds=run-1) are a group, whose stability is the mean and range
    over its pairs.
    """
    from brittle_eval.comparing import compare as regions_of
    from brittle_eval.comparing.compare_plot import check_plot, plot
    from brittle_eval.comparing.compare_table import show

    if picture is not None:
        check_plot(picture)
    found = regions_of.compare(regions, across_models)
    if as_json:
        click.echo(json.dumps(regions_of.as_json(found), indent=2, ensure_ascii=False))
    else:
        show(found)
    if picture is not None:
        plot(found, picture)
        click.echo(f"plot: {picture}", err=True)


@region.command()
@click.argument("regions", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True), metavar="PATH...")
@click.option("--after", required=True, help="The adapted model: path or hub id; of a vision-language model its language side.")
@click.option("--before", help="The model that the regions were found on; default: as the regions name it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def displacement(regions: tuple[Path, ...], after: str, before: str | None, as_json: bool) -> None:
    """Show how much of what an adaptation changed lies in each region, beside a random region of its size.

    PATH is a region file, or the folder of a run: all its regions.
    """
    from brittle_eval.comparing.displacement import displacements, show

    found = displacements(regions, after, before)
    if as_json:
        click.echo(json.dumps([vars(one) for one in found], indent=2, ensure_ascii=False))
    else:
        show(found)


@region.command()
@click.option(
    "--kinds",
    default="unit-variance+four-way",
    show_default=True,
    metavar="ATTRIBUTION+ISOLATION[:key=value,…]",
    help="What sorts units; an isolation with an option part.",
)
def migration(kinds: str, **given: Any) -> None:
    """Count which units change their kind in a training: sorted before and after --modify, on the same pairs."""
    from brittle_eval.comparing.migration import migration as start
    from brittle_eval.comparing.migration import show

    found, folder = start(as_asked(click.get_current_context(), given), kinds, lambda line: click.echo(line, err=True))
    show(found)
    click.echo(f"results: {folder}")


UNUSED = ("controls", "judges", "stop_when", "stop_when_decided", "limit", "preset", "condition", "utility_limit")
migration.params += [parameter for parameter in run.params if parameter.name not in UNUSED]
