"""The command `sweep`: `run` for every combination of several values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from brittle_eval.commands.cli_run import FILE, SENDING, as_options, run

OWN = frozenset({"output_path", "config", "help"}) | SENDING
"""Options of `run` that a grid cannot have."""


def _key(parameter: click.Parameter) -> str:
    """What a grid calls an option of `run`."""
    return parameter.opts[0].removeprefix("--").replace("_", "-")


KEYS = {_key(parameter): parameter for parameter in run.params if parameter.name not in OWN}


def _several(parameter: click.Parameter) -> click.Parameter:
    """The option as `run` has it, to be given several times; its values are read when the grid is expanded."""
    own = copy(parameter)
    if not (isinstance(own, click.Option) and own.is_flag):
        own.multiple, own.type, own.callback, own.default, own.nargs = True, click.STRING, None, None, 1
        own.show_default = False  # type: ignore[attr-defined]  # an option's, which mypy no longer sees here
    return own


def command_line(chosen: Mapping[str, Any]) -> list[str]:
    """The arguments of `run` for a combination: a tuple is given again and again, a flag has no value."""
    words: list[str] = []
    for key, value in chosen.items():
        for one in value if isinstance(value, tuple) else (value,):
            option = KEYS[key].opts[0]
            words += [option] if one is True else [] if one is False else [option, str(one)]
    return words


@click.command(
    epilog="Every option of `run` can be given several times, or with a range: --seed 0..4/5, --modify 'wanda-diff:p=0.01|0.03,"
    "q=0.01..0.05/5'. Every combination is a cell."
)
@click.argument("grid_file", required=False, type=FILE, metavar="[GRID.yaml]")
@click.option("--output_path", type=FILE, help="Folder of the sweep; the same grid goes on there. Default: runs/TIME-sweep.")
@click.option("--executor", type=click.Choice(["local", "ray"]), default="local", show_default=True)
@click.option("--address", help="Address of a Ray cluster; without one, a cluster on this machine alone.")
@click.option(
    "--cell-cpus", type=click.FloatRange(min=0.1), default=1.0, show_default=True, help="CPUs, and threads, of a cell (ray)."
)
@click.option("--cell-gpus", type=click.FloatRange(min=0), default=0.0, show_default=True, help="GPUs of a cell (ray).")
@click.option("--cell-memory", type=click.FloatRange(min=0), default=0.0, show_default=True, help="GiB of a cell (ray).")
@click.option("--yes", is_flag=True, help="Run a grid of more than 10,000 cells.")
def sweep(
    grid_file: Path | None,
    output_path: Path | None,
    executor: str,
    address: str | None,
    cell_cpus: float,
    cell_gpus: float,
    cell_memory: float,
    yes: bool,
    **given: Any,
) -> None:
    """Run every combination of models, plans with their options, seeds and tasks; compare all with the unedited model.

    GRID.yaml holds options of `run`, of which a list is an axis; options on the command line replace its keys.
    """
    from brittle_eval.errors import BrittleError
    from brittle_eval.sweeps import grid as grids
    from brittle_eval.sweeps.sweep import default_folder, local, plan_sweep
    from brittle_eval.sweeps.sweep import sweep as start
    from brittle_eval.sweeps.sweep_table import show

    asked = grids.grid(_of_preset((grids.read(grid_file) if grid_file else {}) | _typed(given)), KEYS, yes=yes)
    groups = plan_sweep([(as_options(line, plans), line) for line, plans in _lines(asked.groups())])
    run_cells = local
    if executor == "ray":
        from brittle_eval.sweeps.ray_cluster import Cluster

        run_cells = Cluster(address, cell_cpus, cell_gpus, cell_memory)
    elif address:
        raise BrittleError(f"--address {address} is for --executor ray: give that too, or no address")
    folder = output_path or default_folder()
    found = start(groups, asked.axes, folder, run_cells, lambda line: click.echo(line, err=True))
    show(groups, found)
    click.echo(f"results: {folder}")


for parameter in run.params:
    if parameter.name not in OWN:
        sweep.params.append(_several(parameter))


def _typed(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that stand on the command line, as a grid has them."""
    context = click.get_current_context()
    names = {parameter.name: _key(parameter) for parameter in KEYS.values()}
    typed = [name for name in given if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    return {names[name]: list(given[name]) if isinstance(given[name], tuple) else given[name] for name in typed}


def _of_preset(given: dict[str, Any]) -> dict[str, Any]:
    """A preset that compares conditions is a grid by itself: all of them, on the unedited model."""
    from brittle_eval.cards import presets
    from brittle_eval.plugins import Plugins
    from brittle_eval.recipe import NONE

    asked = given.get("preset")
    names = asked if isinstance(asked, list) else [asked]
    known = presets(Plugins.load()) if asked and len(names) == 1 else {}
    if names[0] in known and (conditions := known[names[0]].conditions):
        return {"condition": list(conditions), "modify": [NONE]} | given
    return given


def _lines(groups: Any) -> Sequence[tuple[list[str], Sequence[str]]]:
    return [(command_line(chosen), plans) for chosen, plans in groups]
