"""The command `run`: lm-eval's option names, and what is ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import click
from click.core import ParameterSource

from brittle_eval.commands import cli_config
from brittle_eval.commands.cli_config import FILE as FILE
from brittle_eval.commands.cli_config import Pairs
from brittle_eval.running.prepare import Options

GIVEN = (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP)
"""Where a value comes from that the user chose: the command line, or a configuration file."""

SENDING = frozenset({"wandb_args", "wandb_config_args", "trackio_args", "hf_hub_log_args", "send_answers_to"})
"""Options that say who gets the results: they change no row, and no configuration has them, since they may hold a token."""


def _names(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    return tuple(name.strip() for name in value.split(",") if name.strip()) if value is not None else None


def _typed(context: click.Context) -> frozenset[str]:
    """The options that the user gave, by their names in `Options`."""
    known = {one.name for one in fields(Options)} | {"system_role"}
    names = [name for name in context.params if name in known and context.get_parameter_source(name) in GIVEN]
    return frozenset("merge_system" if name == "system_role" else name for name in names)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})  # click keeps those of its first context
@cli_config.option
@click.option(
    "--model", default="hf", show_default=True, help="What answers: hf (the model itself), hf-checkpoint, vllm, sglang."
)
@click.option(
    "--model_args", type=Pairs(), help="pretrained=PATH_OR_HUB_ID,dtype=… as lm-eval reads it; without: the embedded model."
)
@click.option(
    "--modify", multiple=True, metavar="PLAN", help="A recipe or attribution+isolation+modification[:key=value,…]; repeatable."
)
@click.option(
    "--tasks", callback=_names, help="Tasks and groups, by comma. Default: embedded, or advbench,utility for a given model."
)
@click.option("--preset", help="A fixed evaluation by name: tasks, judges, lengths, seeds, data. `brittle-eval list` has them.")
@click.option(
    "--condition",
    help="What is put around every request: no-system, safety-instruction, exemplars, check-before, check-after, context.",
)
@click.option("--controls", default="random:3,magnitude:1", show_default=True, help="Control regions of the same size, or none.")
@click.option("--batch_size", type=click.IntRange(min=1), help="Rows at a time; default from the memory.")
@click.option("--limit", type=float, help="Only the first N items (or that share) of each task; such rows are marked.")
@click.option("--device", help="cuda, cuda:0, mps or cpu.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--seeds", type=click.IntRange(min=1), help="Trainings of each plan that trains and names no seed, a row each. Default: 3."
)
@click.option(
    "--output_path", type=FILE, help="Folder of the run; the same configuration resumes. Default: runs/TIME-MODEL-PLAN."
)
@click.option("--apply_chat_template", is_flag=False, flag_value="true", help="Chat template (by name) for lm-eval's own tasks.")
@click.option("--system_instruction", help="System turn for lm-eval's own tasks.")
@click.option(
    "--system-role", type=click.Choice(["own", "merge"]), default="own", help="merge: system text goes into the user turn."
)
@click.option("--include_path", multiple=True, type=FILE, help="A folder with more task YAML.")
@click.option("--gen_kwargs", type=Pairs(), help="Overrides of generation options, such as max_gen_toks=64.")
@click.option("--metadata", type=Pairs(), help="Options of tasks, such as prefill_tokens=5,shots=16,seqlen=2048.")
@click.option("--num_fewshot", type=click.IntRange(min=0))
@click.option(
    "--behaviour", "behaviours", multiple=True, metavar="NAME=FILE", help="Calibration pairs: jsonl with prompt and response."
)
@click.option(
    "--pairs",
    type=int,
    default=128,
    show_default=True,
    help="At most so many calibration pairs a behaviour, drawn with the seed.",
)
@click.option("--data", multiple=True, metavar="NAME=PATH", help="A local file for a data set.")
@click.option("--base", help="Base model (before safety training): path or hub id.")
@click.option("--donor", help="A model of the same shape for `transplant`: path or hub id.")
@click.option("--judge", "judges", callback=_names, default="wei2024,refusal", show_default=True)
@click.option("--stop-when-decided", is_flag=True, help="Stop an answer once every judge's verdict on it is final.")
@click.option(
    "--stop-when", multiple=True, metavar="MEASURE>N", help="Give an edited model up after the cheap measures, as 'ppl>50'."
)
@click.option("--plugin", "plugins", multiple=True, type=FILE, help="Add a plugin file.")
@click.option("--memory", type=float, default=4.0, show_default=True, help="GiB for the scores of one group of blocks.")
@click.option("--wandb_args", type=Pairs(), help="Send the results to Weights & Biases: arguments of its init, as project=NAME.")
@click.option("--wandb_config_args", type=Pairs(), help="Configuration of that run.")
@click.option("--trackio_args", type=Pairs(), help="Send the results to Trackio: arguments of its init, as project=NAME.")
@click.option(
    "--hf_hub_log_args",
    type=Pairs(),
    help="Send the results to the Hugging Face Hub, as push_results_to_hub=true,hub_results_org=NAME; private by default.",
)
@click.option(
    "--send-answers-to",
    type=click.Choice(["wandb", "trackio", "hub"]),
    multiple=True,
    help="Send that receiver the prompts and answers too, some of them harmful.",
)
def run(**given: Any) -> None:
    """Attribute, isolate, modify; evaluate the unedited model, the edited ones, and controls of the same size."""
    from brittle_eval.running.publish import Receivers, publish
    from brittle_eval.running.record import RunFolder
    from brittle_eval.running.run import run as start
    from brittle_eval.running.sides import show_sides
    from brittle_eval.running.table import show, terminal
    from brittle_eval.trials.course import show_course
    from brittle_eval.trials.freezing import show_freezing
    from brittle_eval.trials.seeds import show_seeds

    def say(line: str) -> None:
        click.echo(line, err=True)

    receivers = Receivers(**{name: given[name] for name in SENDING})
    receivers.check()
    rows, folder = start(as_asked(click.get_current_context()), say=say)
    if not rows:
        return  # one of several processes, and not the first
    show(rows)
    show_sides(rows, terminal())
    for shown in (show_seeds, show_course, show_freezing):
        shown(rows, terminal())
    click.echo(f"results: {folder}")
    publish(RunFolder.stored(folder), rows, receivers, say)


def as_options(arguments: Sequence[str], plans: Sequence[str] = ()) -> Options:
    """What `run` would make of a command line, with these plans; click's own errors for what it would refuse."""
    line = [*arguments, *(word for plan in plans for word in ("--modify", plan))]
    with run.make_context("run", line, token_normalize_func=lambda token: token.replace("_", "-")) as context:
        return as_asked(context)


def as_asked(context: click.Context, params: Mapping[str, Any] | None = None) -> Options:
    """The options that click has read, or those of another command that has the same ones."""
    given = {name: value for name, value in (context.params if params is None else params).items() if name not in SENDING}
    given["given"] = _typed(context)
    given["modify"] = given["modify"] or ("none",)
    given["merge_system"] = given.pop("system_role") == "merge"
    template = given["apply_chat_template"]
    given["apply_chat_template"] = True if template == "true" else template or False
    return Options(**given)
