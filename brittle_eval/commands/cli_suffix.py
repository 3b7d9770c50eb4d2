"""The command `suffix`: an adversarial suffix for the model under test."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import click

FILE = click.Path(path_type=Path)


@click.command()
@click.option("--model_args", help="pretrained=PATH_OR_HUB_ID,dtype=… as lm-eval reads it; without: the embedded model.")
@click.option("--preset", "preset_name", default="cpu", show_default=True, metavar="NAME", help="cpu, or paper.")
@click.option("--steps", type=int, help="Steps of the search. [cpu: 100, paper: 500]")
@click.option("--candidates", type=int, help="Suffixes tried a step. [cpu: 16, paper: 512]")
@click.option("--top-k", type=int, help="Tokens a place that candidates are drawn from. [cpu: 64, paper: 256]")
@click.option("--length", type=int, help="Tokens of the suffix. [20]")
@click.option("--goals", type=int, help="Prompts that one suffix is for, drawn with the seed. [cpu: 3, paper: 25]")
@click.option("--target-tokens", type=int, help="The target's first tokens that count; 0: all. [cpu: 8, paper: 0]")
@click.option("--progressive/--all-at-once", default=None, help="Begin with one prompt. [cpu: all at once, paper: progressive]")
@click.option("--descend/--always-move", default=None, help="Take only better candidates. [cpu: descend, paper: always move]")
@click.option(
    "--prompts", type=FILE, help="csv, json, jsonl or txt. Default: AdvBench from row 100 on, or the project's prompts."
)
@click.option("--evaluate/--no-evaluate", default=True, show_default=True, help="Compare with a random suffix, held out.")
@click.option("--show", is_flag=True, help="Print the suffix, which otherwise stays in its file.")
@click.option("--output_path", type=FILE, help="Folder; the same configuration resumes. Default: runs/TIME-MODEL-suffix.")
@click.option("--batch_size", type=click.IntRange(min=1), help="Rows at a time; default from the memory.")
@click.option("--device", help="cuda, cuda:0, mps or cpu.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--data", multiple=True, metavar="NAME=PATH", help="A local file for a data set.")
@click.option("--plugin", "plugins", multiple=True, type=FILE, help="Add a plugin file.")
def suffix(model_args: str | None, preset_name: str, prompts: Path | None, evaluate: bool, show: bool, **given: Any) -> None:
    """Optimise one adversarial suffix over several prompts (GCG), for --data suffixes=FILE of the task advbench_suffix.

    Candidates are kept only if their text is read as the same tokens again. A killed search goes on behind its last step
    when it is started again with the same --output_path.
    """
    from brittle_eval.evaluation.evaluate import parse_arguments
    from brittle_eval.gcg.suffix import Settings, preset
    from brittle_eval.gcg.suffix_run import LINES, Wanted, find
    from brittle_eval.running.prepare import Options

    settings = preset(preset_name, **{field.name: given.pop(field.name) for field in fields(Settings)})
    wanted = Wanted(settings, prompts, evaluate)
    arguments = parse_arguments(model_args) if model_args is not None else None
    result, folder = find(Options(model_args=arguments, **given), wanted, lambda line: click.echo(line, err=True))
    if show:
        click.echo(result["suffix"])
    click.echo(f"suffix: {folder / LINES}")
