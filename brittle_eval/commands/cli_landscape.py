"""The command `landscape`: the curve, or the plane, of steps away from a model."""

from __future__ import annotations

from typing import Any

import click

from brittle_eval.commands.cli_run import as_asked, run

MODIFY = "modify"
OWN = ("points", "lowest", "highest", "plane", "directions", "region", "where", "attack", "count")


@click.command()
@click.option("--points", type=click.IntRange(min=3), default=21, show_default=True, help="Points of each axis.")
@click.option("--lowest", type=float, help="Step of the first point. Default: -0.5 of each weight's norm, or 0 with --donor.")
@click.option("--highest", type=float, help="Step of the last point. Default: 0.5, or 1 with --donor, which is the donor itself.")
@click.option("--plane", is_flag=True, help="Two directions at once, the second orthogonal to the first: points × points models.")
@click.option("--directions", type=click.IntRange(min=1), default=1, show_default=True, help="Random directions, a curve each.")
@click.option(
    "--region", metavar="ATTRIBUTION+ISOLATION[:key=value,…]", help="Step in what these find, not in all block weights."
)
@click.option(
    "--where",
    type=click.Choice(["region", "complement"]),
    multiple=True,
    default=("region",),
    show_default=True,
    help="Of --region: in it, in the rest of its weights, or both, a curve each.",
)
@click.option("--attack", help="The task whose rate makes the curve; default: the first attack.")
@click.option(
    "--count",
    default="refusal",
    show_default=True,
    help="Whose rate: a judge of --judge, whose count has babble in it, or not-refused-coherent.",
)
def landscape(**given: Any) -> None:
    """Step away from the model along random directions, or towards --donor; VISAGE scores how wide its safety is.

    Each point is evaluated as `run` does; the unedited model is the point of no step.
    """
    from brittle_eval.landscapes.landscape import Wanted
    from brittle_eval.landscapes.landscape import landscape as start
    from brittle_eval.landscapes.landscape_table import show

    wanted = Wanted(**{name: given.pop(name) for name in OWN})
    context = click.get_current_context()
    found, folder = start(as_asked(context, given | {MODIFY: ()}), wanted, lambda line: click.echo(line, err=True))
    show(found)
    click.echo(f"results: {folder}")


landscape.params += [parameter for parameter in run.params if parameter.name not in (MODIFY, "controls", "stop_when")]
landscape.params.append(
    click.Option(
        ["--controls"], default="none", show_default=True, help="Control regions at every point, such as random:1, for --region."
    )
)
