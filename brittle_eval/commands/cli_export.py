"""The command `export`: an edit of a run on local disk."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("run", metavar="RUN[:ROW]")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="The folder to write; must not exist.")
@click.option(
    "--as",
    "form",
    type=click.Choice(["sparse", "projector", "lora"]),
    help="sparse: the changed entries; projector, lora: for regions of ranks that are removed. Default: the smallest that fits.",
)
@click.option("--full-weights", is_flag=True, help="Write the whole edited model instead of the edit.")
@click.option("--licence", metavar="TEXT", help="The base model's licence, where it is not found beside the model.")
def export(run: str, output: Path, form: str | None, full_weights: bool, licence: str | None) -> None:
    """Write the edit of a finished run into a folder, with a card; nothing leaves this machine.

    ROW is the name of an edited row, if the run has several. The edit is done again and must give the very model that was
    measured. For research: what is written removes the model's safety, or is a model without it.
    """
    from brittle_eval.errors import BrittleError
    from brittle_eval.exporting.export import Asked
    from brittle_eval.exporting.export import export as start

    path, name = Path(run), ""
    if not path.exists():
        head, _, name = run.rpartition(":")
        path = Path(head or run)
    if form and full_weights:
        raise BrittleError(f"--as {form} with --full-weights: give one of them")
    asked = Asked(path, output, name or None, form, full_weights, licence)  # type: ignore[arg-type]  # click has checked it
    click.echo(f"written: {start(asked, lambda line: click.echo(line, err=True))}")
