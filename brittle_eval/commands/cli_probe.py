"""The command `probe`: the brittleness curve."""

from __future__ import annotations

from typing import Any

import click

from brittle_eval.commands.cli_run import SENDING, as_asked, run

MODIFY = "modify"
OWN = ("attribution", "p", "sizes", "smallest", "largest", "compare", "attack")
LIMITS = ("epsilon", "ppl_factor", "max_kl")
COMPARE = ("row", "weight", "block", "global")


@click.command()
@click.option("--attribution", default="snip", show_default=True, metavar="NAME[:key=value,…]", help="What orders the weights.")
@click.option(
    "--p", type=float, default=0.01, show_default=True, help="Share with the highest utility scores, which is left alone."
)
@click.option("--sizes", type=click.IntRange(min=12), default=12, show_default=True, help="Nested sizes, at equal ratios.")
@click.option("--smallest", type=float, help="Share that the smallest region takes. Default: 0.0001, or 0.005 of the ranks.")
@click.option("--largest", type=float, help="Share that the largest region takes. Default: 0.1, or 0.4 of the ranks.")
@click.option("--compare", type=click.Choice(COMPARE), default="global", show_default=True, help="What competes for a share.")
@click.option("--attack", help="The task whose rate makes the curve; default: the first attack.")
@click.option("--epsilon", type=float, default=0.02, show_default=True, help="Largest fall of utility, at the worse end.")
@click.option(
    "--ppl-factor", type=float, default=2.0, show_default=True, help="Where utility has no power: largest rise of perplexity."
)
@click.option("--max-kl", type=float, default=0.5, show_default=True, help="Where utility has no power: largest KL, in nats.")
def probe(**given: Any) -> None:
    """Edit nested regions of rising size, beside controls of the same sizes; find where half of the prompts are answered.

    The share p with the highest utility scores is left alone; the rest is ordered by safety scores.
    """
    from brittle_eval.probes.curve import Limits
    from brittle_eval.probes.probe import Wanted
    from brittle_eval.probes.probe import probe as start
    from brittle_eval.probes.probe_table import show

    limits = Limits(*(given.pop(name) for name in LIMITS))
    wanted = Wanted(**{name: given.pop(name) for name in OWN}, limits=limits)
    context = click.get_current_context()
    found, folder = start(as_asked(context, given | {MODIFY: ()}), wanted, lambda line: click.echo(line, err=True))
    show(found)
    click.echo(f"results: {folder}")


probe.params += [parameter for parameter in run.params if parameter.name not in {MODIFY, "controls", "stop_when"} | SENDING]
probe.params.append(
    click.Option(
        ["--controls"], default="random:1,magnitude:1", show_default=True, help="Control regions of every size, or none."
    )
)
