"""The scope of a plan: which weights it names, and what is told of names that no weight has."""

from __future__ import annotations

import re

import pytest

from brittle_eval.errors import BrittleError
from brittle_eval.recipe import build, parse
from brittle_eval.scope import SCOPE, Scope
from brittle_eval.weights import find_weights
from tests.architectures import mixtral
from tests.models import gpt2, llama
from tests.test_recipe import RECIPES, Card, Known, mistake, read

LLAMA = find_weights(llama(layers=4))[0]
NAMES = [address.name for address in LLAMA]


def chosen(**options: str) -> list[str]:
    return [address.name for address in Scope(**options).of(LLAMA)]


def test_the_default_is_every_weight() -> None:
    assert Scope().of(LLAMA) == LLAMA
    assert build(read("scale").scope, Scope) == Scope()


@pytest.mark.parametrize(
    ("modules", "pattern"),
    [
        ("q_proj", r"\.q_proj\."),
        ("q_proj+o_proj", r"\.[qo]_proj\."),
        ("self_attn.*", r"\.self_attn\."),
        ("*.gate_proj + mlp.down_proj", r"\.(gate|down)_proj\."),
        ("model.layers.2.mlp.up_proj", r"^model\.layers\.2\.mlp\.up_proj\."),
        ("[kv]_proj", r"\.[kv]_proj\."),
        ("*", ""),
        ("all", ""),
    ],
)
def test_modules_by_the_end_of_their_name(modules: str, pattern: str) -> None:
    assert chosen(modules=modules) == [name for name in NAMES if re.search(pattern, name)]


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [("0", {0}), ("1-2", {1, 2}), ("0-1+3", {0, 1, 3}), ("3+0", {0, 3}), ("all", {0, 1, 2, 3}), ("0-3", {0, 1, 2, 3})],
)
def test_blocks_by_number(blocks: str, expected: set[int]) -> None:
    assert chosen(blocks=blocks) == [address.name for address in LLAMA if address.block in expected]


def test_both_together_and_in_the_models_order() -> None:
    found = chosen(modules="v_proj+q_proj", blocks="2+1")
    assert found == [f"model.layers.{block}.self_attn.{name}_proj.weight" for block in (1, 2) for name in "qv"]


def test_experts_are_named_by_their_parameter_and_conv1d_by_its_module() -> None:
    experts = Scope(modules="experts.down_proj").of(find_weights(mixtral())[0])
    assert [address.name.rpartition(".")[2] for address in experts] == [f"down_proj[{expert}]" for expert in range(4)] * 2
    assert {address.module.rpartition(".")[2] for address in Scope("attn.*").of(find_weights(gpt2())[0])} == {"c_attn", "c_proj"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"modules": "q_prj"}, "unknown module 'q_prj': did you mean q_proj"),
        ({"modules": "q_proj+roj"}, "unknown module 'roj'"),
        ({"blocks": "4"}, "blocks=4: the model has blocks 0 to 3, and not 4"),
        ({"blocks": "0-9"}, "blocks=0-9: the model has blocks 0 to 3, and not 4"),
        ({"modules": "model.layers.0.*", "blocks": "1"}, "no weight is in the scope modules=model.layers.0.*,blocks=1"),
    ],
)
def test_names_that_the_model_lacks(options: dict[str, str], said: str) -> None:
    with pytest.raises(BrittleError) as caught:
        chosen(**options)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("blocks", ["", "a", "3-1", "-1", "1-", "1+", "1..2", "²"])
def test_what_are_no_blocks(blocks: str) -> None:
    with pytest.raises(BrittleError, match=r"the options of scope do not fit: .* neither a block's number nor FIRST-LAST"):
        build(read(f"scale:blocks={blocks}").scope, Scope)


@pytest.mark.parametrize("modules", ["", "q_proj+", "+"])
def test_what_are_no_modules(modules: str) -> None:
    with pytest.raises(BrittleError, match=r"the options of scope do not fit: .* has an empty name"):
        build(read(f"scale:modules={modules}").scope, Scope)


def test_every_plan_has_one_and_says_so_in_its_text() -> None:
    plan = read("score+high+scale:q=0.1,blocks=0-9+12,scope.modules=q_proj+o_proj")
    assert plan.scope.options == {"blocks": "0-9+12", "modules": "q_proj+o_proj"}
    assert str(plan) == "score+high+scale:high.q=0.1,scope.blocks=0-9+12,scope.modules=q_proj+o_proj"
    assert read(str(plan)) == plan != read("score+high+scale:q=0.1")


def test_a_recipe_brings_its_scope_and_may_be_given_another() -> None:
    recipes = {**RECIPES, "narrow": Card("scale:blocks=1,modules=o_proj")}
    assert parse("narrow", Known(), recipes) == read("scale:blocks=1,modules=o_proj")
    assert parse("narrow:blocks=2", Known(), recipes) == read("scale:blocks=2,modules=o_proj")
    assert parse("narrow+push-on:push-on.alpha=1", Known(), recipes).scope == read("scale:blocks=1,modules=o_proj").scope


def test_the_unmodified_model_has_none() -> None:
    assert "unknown option of 'none:blocks=1' 'blocks'" in mistake("none:blocks=1")
    assert f"{SCOPE}: modules, blocks" in mistake("scale:lenght=3")
