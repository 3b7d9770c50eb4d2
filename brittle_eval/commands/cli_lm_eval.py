"""The command `lm-eval`: lm-eval's own command, which knows our model type."""

from __future__ import annotations

import click


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[LM-EVAL'S OWN ARGUMENTS]")
def lm_eval(words: tuple[str, ...]) -> None:
    """Run lm-eval's own command with the model type `brittle-hf`: its `hf`, with a plan applied while it loads.

    Everything after the name is lm-eval's: --model brittle-hf --model_args 'pretrained=PATH,modify=wanda-diff:p=0.02;q=0.01'
    --tasks arc_easy. A semicolon stands for the comma, which --model_args has for itself. `lm-eval run --help` lists its options.
    """
    from brittle_eval.evaluation.evaluate import lm_eval_command
    from brittle_eval.running.hosted import BRITTLE_HF as BRITTLE_HF  # its import registers it

    lm_eval_command(words)
