"""The command `organism`: make the embedded model again."""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
def organism() -> None:
    """Models whose safety training is known, made here."""


@organism.command()
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder for the result; must not exist.")
@click.option(
    "--plant",
    metavar="KIND[:key=value,…]",
    help="Train into a known place, everything else frozen: mask:share=0.01, blocks:first=10,last=12 or rank:r=4.",
)
@click.option("--seed", type=int, default=0, show_default=True)
def build(output: Path, plant: str | None, seed: int) -> None:
    """Train the embedded model's adapter from the published model and the project's own prompts; or a model with a plant."""
    if plant is None:
        from brittle_eval.organisms.organism import build as start

        losses, digest = start(output, seed)
        click.echo(f"loss: {losses[0]:.3f} at the first step, {sum(losses[-10:]) / len(losses[-10:]):.3f} over the last ten")
        click.echo(f"adapter: {output}, sha256 {digest}")
        return
    from brittle_eval.organisms.plant_build import build_plant

    found = build_plant(plant, output, seed, click.echo)
    click.echo(f"loss: {found.loss[0]:.3f} at the first step, {found.loss[1]:.3f} over the last ten")
    click.echo(f"model: {output}")
