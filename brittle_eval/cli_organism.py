"""The command `organism`: make the embedded model again."""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
def organism() -> None:
    """Models whose safety training is known, made here."""


@organism.command()
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder for the adapter; must not exist.")
@click.option("--seed", type=int, default=0, show_default=True)
def build(output: Path, seed: int) -> None:
    """Train the embedded model's adapter from the published model and the project's own prompts."""
    from brittle_eval.organism import build as start

    losses, digest = start(output, seed)
    click.echo(f"loss: {losses[0]:.3f} at the first step, {sum(losses[-10:]) / len(losses[-10:]):.3f} over the last ten")
    click.echo(f"adapter: {output}, sha256 {digest}")
