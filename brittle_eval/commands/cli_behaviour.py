"""The command `behaviour`: sets of prompts and responses for `run --behaviour NAME=FILE`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click

from brittle_eval.behaviour.behaviour_build import Kind, Wanted
from brittle_eval.behaviour.behaviour_build import build as make
from brittle_eval.evaluation.evaluate import parse_arguments
from brittle_eval.running.prepare import Options

FILE = click.Path(path_type=Path)


@click.group()
def behaviour() -> None:
    """Sets of prompts and responses that show a behaviour."""


@behaviour.command()
@click.argument("kind", type=click.Choice(get_args(Kind)))
@click.option("--output", type=FILE, required=True, help="The jsonl file to write; must not exist.")
@click.option("--model_args", help="pretrained=PATH_OR_HUB_ID,dtype=… as lm-eval reads it; without: the embedded model.")
@click.option(
    "--prompts", type=FILE, help="csv, json, jsonl or txt. Default: AdvBench from row 100 on, or the project's prompts."
)
@click.option("--judge", default="refusal", show_default=True, help="Whose negative verdict is a refusal.")
@click.option("--samples", type=click.IntRange(min=1), help="Answers a prompt, at temperature 1. Default: one, greedy.")
@click.option("--pairs", type=click.IntRange(min=1), help="At most so many prompts, drawn with the seed. Default: all.")
@click.option("--max_gen_toks", type=click.IntRange(min=1), default=256, show_default=True, help="Longest answer in tokens.")
@click.option(
    "--system",
    type=click.Choice(["none", "default"]),
    default="none",
    show_default=True,
    help="default: the template's own turn.",
)
@click.option("--batch_size", type=click.IntRange(min=1), help="Rows at a time; default from the memory.")
@click.option("--device", help="cuda, cuda:0, mps or cpu.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--data", multiple=True, metavar="NAME=PATH", help="A local file for a data set.")
@click.option("--plugin", "plugins", multiple=True, type=FILE, help="Add a plugin file.")
def build(kind: Kind, model_args: str | None, **given: Any) -> None:
    """Make a set for `run --behaviour NAME=FILE`, and FILE.json that describes it.

    safety-full: the model's own answers to harmful prompts, where it refuses. safety-short: these up to where they have
    refused. utility: pairs of an instruction set without those that concern safety; where it has no responses, the model
    answers.
    """
    own = {key: given.pop(key) for key in ("output", "prompts", "judge", "samples", "pairs", "max_gen_toks", "system")}
    judges = tuple(dict.fromkeys((own["judge"], "refusal")))
    arguments = parse_arguments(model_args) if model_args is not None else None
    make(Options(model_args=arguments, judges=judges, **given), Wanted(kind, **own), lambda line: click.echo(line, err=True))
    click.echo(f"pairs: {own['output']}")
