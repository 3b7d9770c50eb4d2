"""The freezing table: shares in both denominators, numbers of pairs, seeds, and the matched control."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from brittle_eval.cli import main
from brittle_eval.reporting.report_source import read_source
from brittle_eval.reporting.training_charts import training_charts
from brittle_eval.running.comparison import against_unedited
from brittle_eval.running.record import Row
from brittle_eval.stats import t_interval, wilson
from brittle_eval.trials.freezing import BY_ITSELF, freezing, show_freezing
from brittle_plugins.finetune import Finetune
from brittle_plugins.rewind import Rewind
from tests.report_sources import unedited, write_run
from tests.test_finetune_run import TRAIN, arguments, checkpoint  # noqa: F401  # fixtures
from tests.trained_rows import FREE, FROZEN, trained

CHAIN = "snip+top+finetune"


def frozen(share: float, answered: int, n: int, seed: int = 0, *chain: Any, **more: Any) -> Row:
    """`trained` multiplies the share by 0.8 for that of all parameters."""
    name = f"frozen:q={share},n={n},seed={seed}"
    modifications = [replace(one, n=n) if isinstance(one, Finetune) else one for one in chain or (FROZEN,)]
    return trained(name, answered, *modifications, seed=seed, share=share, **more)


def free(answered: int, n: int, seed: int = 0) -> Row:
    return trained(f"free:n={n},seed={seed}", answered, replace(FREE, n=n), seed=seed)


def rows() -> list[Row]:
    found = [free(60, 100), free(62, 100, 1), free(20, 10)]
    found += [frozen(0.1, 58, 100), frozen(0.1, 60, 100, 1), frozen(0.5, 30, 100), frozen(0.5, 8, 10)]
    controls = [replace(frozen(0.1, 61, 100, seed), name=f"frozen{seed}.random-0", kind="control") for seed in (0, 1)]
    return against_unedited([unedited(5), *found, *controls])


def test_lines_are_shares_and_columns_numbers_of_pairs() -> None:
    (table,) = freezing(rows())
    assert table.title == CHAIN and table.head[3:] == ["n = 10", "n = 100"]
    lines = list(table.lines())
    assert [line[:3] for line in lines] == [
        ["0.00%", "0.00%", "nothing"],
        ["10.00%", "8.00%", "region"],
        ["10.00%", "8.00%", "random-0"],
        ["50.00%", "40.00%", "region"],
        ["", "", BY_ITSELF],
    ]
    low, high = t_interval([58 / 64, 60 / 64]) or (0.0, 0.0)
    assert lines[1][3:] == ["–", f"{59 / 64:.2f} [{max(0.0, low):.2f}, {min(1.0, high):.2f}] of 2 seeds"]
    one, two = wilson(8, 64)
    assert lines[3][3] == f"0.12 [{one:.2f}, {two:.2f}]"
    assert lines[-1][3:] == ["too weak +0.23", "+0.86"]


def test_rewinding_has_a_table_of_its_own_and_other_trainings_have_none() -> None:
    rewound = trained("rewound", 30, FREE, Rewind(), share=0.3)
    inside = trained("whole", 30, replace(FREE, loss="few-tokens-deep"), share=1.0)
    found = freezing(against_unedited([*rows(), rewound, inside]))
    assert [one.title for one in found] == [CHAIN, "snip+top+finetune+rewind"]
    assert freezing([unedited(), free(60, 100), inside]) == []


def test_other_settings_are_not_mixed() -> None:
    other = trained("other", 30, replace(FROZEN, lr=1e-3), share=0.3)
    assert [len(one.spots) for one in freezing(against_unedited([*rows(), other]))] == [6, 1]
    assert list(freezing(against_unedited([*rows(), other]))[1].lines())[-1][3:] == ["none in this run"]


def test_markdown_terminal_and_chart_have_the_table(tmp_path: Path) -> None:
    found = rows()
    (table,) = freezing(found)
    text = table.markdown().splitlines()
    assert text[0].startswith(f"{CHAIN}: share of the prompts of harm") and text[3] == "| --- | --- | --- | --- | --- |"
    assert text[5].split(" | ")[:3] == ["| 10.00%", "8.00%", "region"]
    file = tmp_path / "table.txt"
    with file.open("w", encoding="utf-8") as raw:
        show_freezing(found, Console(file=raw, width=120))
    assert "too weak +0.23" in file.read_text(encoding="utf-8")
    (chart,) = training_charts(read_source(write_run(tmp_path / "run", found)).rows)
    assert [one.name for one in chart.series] == ["n = 10, region", "n = 100, region", "n = 100, random-0"]  # type: ignore[union-attr]
    assert [point.x for point in chart.series[1].points] == [0, 0.1, 0.5]  # type: ignore[union-attr]


def test_the_example_grid_is_the_whole_table() -> None:
    """Six shares and three numbers of pairs, three seeds at n = 100: every frozen plan has its free attack."""
    from brittle_eval.commands.cli_run import as_options
    from brittle_eval.commands.cli_sweep import KEYS, command_line
    from brittle_eval.running.prepare import prepare
    from brittle_eval.sweeps import grid as grids
    from brittle_eval.trials.attack_alone import of_chain

    asked = grids.grid(grids.read(Path(__file__).parents[1] / "examples" / "freezing.yaml"), KEYS)
    ((chosen, plans),) = asked.groups()
    trained_by = [of_chain(chain.modifications) for chain in prepare(as_options(command_line(chosen), plans)).chains]
    assert asked.count == len(trained_by) == (1 + 5) * (1 + 1 + 3)
    free = [one["attack"] for one in trained_by if one["bare"]]
    assert len(free) == 5 and {one["attack"] for one in trained_by} == set(free)


def test_a_sweep_trains_a_rewound_model_once_and_writes_the_table(
    arguments: list[str],  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Free, frozen and rewound at two sizes; the free training serves the rewound cells."""
    at = arguments.index("--tasks")
    line = [*arguments[:at], "--tasks", "embedded_harmful", "--gen_kwargs", "max_gen_toks=4", *arguments[at + 2 :]]
    plans = [f"finetune:{TRAIN}", f"magnitude+top+finetune:q=0.2|0.4,region=freeze,{TRAIN}"]
    plans.append(f"magnitude+top+finetune+rewind:q=0.2|0.4,{TRAIN}")
    assert main(["sweep", *line, *(word for plan in plans for word in ("--modify", plan))]) == 0
    text = (tmp_path / "run" / "freezing.md").read_text(encoding="utf-8")
    assert text.count("| nothing |") == 2 and text.count("| region |") == 4 and text.count("| random-0 |") == 4
    printed, said = capsys.readouterr()
    assert BY_ITSELF in printed and said.count("trained before") == 4
