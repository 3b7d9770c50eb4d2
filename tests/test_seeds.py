"""Three seeds of every training, a row each, and what they say together."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats

from brittle_eval.cards import recipes
from brittle_eval.cli import main
from brittle_eval.errors import BrittleError
from brittle_eval.plugins import Plugins
from brittle_eval.reporting.report import Asked, report
from brittle_eval.running.repeats import repeated
from brittle_eval.stats import t_interval
from brittle_eval.trials.seeds import show_seeds, summaries, without
from tests.report_sources import unedited, write_run
from tests.test_finetune_run import TRAIN, arguments, checkpoint  # noqa: F401  # fixtures
from tests.test_run import rows
from tests.trained_rows import FREE, FROZEN, trained

PLUGINS = Plugins.load()


def plans(*texts: str, seeds: int | None = None) -> list[str]:
    return repeated(texts, seeds, PLUGINS, recipes(PLUGINS))


def test_a_plan_that_trains_has_three_seeds_unless_it_names_one() -> None:
    assert plans("finetune") == [f"finetune:seed={n}" for n in range(3)]
    assert plans("finetune:n=10", seeds=2) == ["finetune:n=10,seed=0", "finetune:n=10,seed=1"]
    assert plans("finetune:n=10", seeds=1) == ["finetune:n=10"]
    assert plans("finetune:finetune.seed=4,n=10") == ["finetune:finetune.seed=4,n=10"]
    assert plans("snip+top+finetune+rewind:q=0.1", "wanda-diff", "none", seeds=2) == [
        "snip+top+finetune+rewind:q=0.1,seed=0",
        "snip+top+finetune+rewind:q=0.1,seed=1",
        "wanda-diff",
        "none",
    ]
    assert plans("lox", seeds=2) == ["lox:seed=0", "lox:seed=1"]
    assert plans("magnitude+top+adapter:path=somewhere") == ["magnitude+top+adapter:path=somewhere"]


def test_several_values_of_an_option_are_several_plans() -> None:
    assert plans("finetune:n=10|50,seed=1", "wanda-diff:q=0.1..0.3/3") == [
        "finetune:n=10,seed=1",
        "finetune:n=50,seed=1",
        *(f"wanda-diff:q=0.{n}" for n in (1, 2, 3)),
    ]
    assert plans("finetune", "finetune:seed=1") == ["finetune:seed=0", "finetune:seed=1", "finetune:seed=2"]


@pytest.mark.parametrize(("texts", "seeds", "said"), [(("finetune",), 0, "--seeds 0"), (("finetun",), None, "finetun")])
def test_what_is_no_number_of_seeds_and_no_plan(texts: tuple[str, ...], seeds: int | None, said: str) -> None:
    with pytest.raises(BrittleError, match=said):
        plans(*texts, seeds=seeds)


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        ("snip+top+finetune:top.q=0.1,finetune.n=9,finetune.seed=1", "snip+top+finetune:top.q=0.1,finetune.n=9"),
        ("finetune:finetune.seed=1,finetune.n=9", "finetune:finetune.n=9"),
        ("finetune:seed=12", "finetune"),
        ("perturb:seedling=1", "perturb:seedling=1"),
        ("finetune:finetune.seed=1,finetune.n=9,finetune.lr=1e-4", "finetune:finetune.n=9,finetune.lr=1e-4"),
    ],
)
def test_a_plan_without_its_seed(plan: str, expected: str) -> None:
    assert without(plan, "seed") == expected


@given(st.lists(st.floats(-5, 5, allow_nan=False), min_size=2, max_size=6))
def test_the_t_interval_is_its_definition(values: list[float]) -> None:
    mean = sum(values) / len(values)
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    half = stats.t.ppf(0.975, len(values) - 1) * spread / math.sqrt(len(values))
    assert t_interval(values) == pytest.approx((mean - half, mean + half), abs=1e-9)


def test_one_value_has_no_interval() -> None:
    assert t_interval([]) is None and t_interval([0.5]) is None
    with pytest.raises(ValueError, match="level"):
        t_interval([0.1, 0.2], 1.5)


def test_the_t_interval_covers_the_mean_as_often_as_it_says() -> None:
    generator, covered = random.Random(0), 0
    for _ in range(1000):
        interval = t_interval([generator.gauss(0, 1) for _ in range(3)])
        covered += interval is not None and interval[0] <= 0 <= interval[1]
    assert 0.93 <= covered / 1000 <= 0.97


def test_rows_of_a_plan_are_summed_up_over_their_seeds_and_controls_for_themselves() -> None:
    answered = [40, 50, 54]
    found = [trained(f"free:seed={n}", k, seed=n) for n, k in enumerate(answered)]
    frozen = [trained(f"frozen:seed={n}", 10, FROZEN, seed=n) for n in (0, 1)]
    controls = [
        trained(f"frozen_seed={n}.random-0", 20 + n, FROZEN, seed=n, kind="control", recipe=f"frozen:seed={n}") for n in (0, 1)
    ]
    alone = trained("other", 30, replace(FREE, n=10))
    made = summaries([unedited(), *found, *frozen, *controls, alone])
    attacks = {one.plan: one for one in made if one.task == "harm"}
    assert list(attacks) == ["free", "frozen", "frozen (random-0)"]
    one = attacks["free"]
    assert one.values == tuple(k / 64 for k in answered) and one.seeds == (0, 1, 2) and one.number == "not_refused_coherent"
    low, high = t_interval(one.values) or (0.0, 0.0)
    assert one.mean == pytest.approx(sum(answered) / 3 / 64) and (one.low, one.high) == (low, min(1.0, high))
    assert one.prompts_low is not None and one.prompts_high is not None and one.prompts_low < one.mean < one.prompts_high
    assert {one.task for one in made if one.plan == "free"} == {"harm", "fine", "choice", "embedded_perplexity", "embedded_kl"}
    (kl,) = (one for one in made if one.plan == "free" and one.task == "embedded_kl")
    assert kl.prompts_low is None and kl.mean == 0.5


def test_the_table_and_the_report_have_the_summary(tmp_path: Path) -> None:
    found = [unedited(), *(trained(f"free:seed={n}", 40 + n, seed=n) for n in range(3))]
    file = tmp_path / "table.txt"
    with file.open("w", encoding="utf-8") as raw:
        show_seeds(found, Console(file=raw, width=120))
    shown = file.read_text(encoding="utf-8")
    assert "0.62 0.64 0.66" in shown and "between seeds" in shown
    (page,) = report(Asked(write_run(tmp_path / "run", found)))
    text = page.read_text(encoding="utf-8")
    assert "Seeds taken together" in text and "0.62 0.64 0.66" in text
    (other,) = report(Asked(write_run(tmp_path / "other")))
    assert "Seeds taken together" not in other.read_text(encoding="utf-8")


def test_a_run_has_a_row_for_every_seed(
    arguments: list[str],  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = [*arguments, "--seeds", "2", "--controls", "none", "--modify", f"finetune:{TRAIN}"]
    assert main(line) == 0
    found = rows(tmp_path / "run")
    assert [row["recipe"] for row in found.values()] == ["none", *(f"finetune:{TRAIN},seed={n}" for n in (0, 1))]
    assert len({row["fingerprint"] for row in found.values()}) == 3
    assert "--seeds 2" in found["unedited"]["command"]
    (one,) = json.loads((tmp_path / "run" / "results.json").read_text())["seeds"]
    assert one["plan"] == f"finetune:{TRAIN}" and one["seeds"] == [0, 1] and one["task"] == "embedded_choice"
    assert "between seeds" in capsys.readouterr().out
