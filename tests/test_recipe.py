"""The grammar of plans: what is read, how options find their component, what is refused and what the refusal says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import pytest
from annotated_types import Interval
from hypothesis import given
from hypothesis import strategies as st

from brittle_eval import Attribution, BrittleError, Isolation, Modification, Share
from brittle_eval.options import options_of
from brittle_eval.recipe import Component, Plan, build, check, parse
from brittle_eval.scope import SCOPE, Scope


@dataclass(frozen=True)
class Scorer(Attribution):
    n_samples: int = 8


class Ranker(Attribution):
    gives: ClassVar[str] = "block-scores"


@dataclass(frozen=True)
class Highest(Isolation):
    q: Share = 0.05
    compare: Literal["row", "weight"] = "row"
    alpha: float = 1.0


class Bands(Isolation):
    takes = frozenset({"block-scores"})


@dataclass(frozen=True)
class Scale(Modification):
    alpha: float = 0.0
    label: str = "none"


@dataclass(frozen=True)
class Push(Modification):
    alpha: Annotated[float, Interval(gt=0)]
    often: bool = False
    limit: int | None = None


METHODS: dict[str, dict[str, type]] = {
    "attribution": {"score": Scorer, "rank": Ranker},
    "isolation": {"high": Highest, "bands": Bands},
    "modification": {"scale": Scale, "push-on": Push},
}


class Known:
    """The methods above, as the grammar asks for them."""

    hint = "(plugin 'odd' is broken: it rains)"

    def kinds(self, name: str) -> frozenset[str]:
        return frozenset(kind for kind, known in METHODS.items() if name in known)

    def names(self, kind: str) -> Sequence[str]:
        return list(METHODS[kind])

    def get(self, kind: str, name: str) -> type:
        return METHODS[kind][name]


@dataclass(frozen=True)
class Card:
    plan: str


RECIPES: Mapping[str, Card] = {
    "diff": Card("score+high+scale:q=0.1,scale.alpha=0.5"),
    "diff-wide": Card("diff:q=0.3"),
    "walk": Card("score+high+scale:q=0.1,order=sequential"),
    "loop": Card("pool"),
    "pool": Card("loop:q=0.1"),
}


def read(text: str) -> Plan:
    return parse(text, Known(), RECIPES)


def mistake(text: str) -> str:
    """The one line that a user gets."""
    with pytest.raises(BrittleError) as caught:
        read(text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_whole_chain() -> None:
    plan = read("score+high+scale+push-on:q=0.1,n-samples=3,scale.alpha=2,often=true")
    assert plan.attribution == Component("attribution", "score", {"n_samples": "3"})
    assert plan.isolation == Component("isolation", "high", {"q": "0.1"})
    assert plan.modifications == (
        Component("modification", "scale", {"alpha": "2"}),
        Component("modification", "push-on", {"often": "true"}),
    )
    assert (plan.recipe, plan.text) == (None, "score+high+scale+push-on:q=0.1,n-samples=3,scale.alpha=2,often=true")


def test_modifications_alone_take_the_whole_model() -> None:
    assert read("scale") == Plan(modifications=(Component("modification", "scale"),))


def test_keys_with_hyphens_or_underscores_and_spaces_around() -> None:
    assert read(" score + high+scale : n_samples = 3 ") == read("score+high+scale:n-samples=3")


def test_values_may_hold_colons_dots_and_equals_signs() -> None:
    assert read("scale:label=a:b.c=d").modifications[0].options == {"label": "a:b.c=d"}


def test_none_modifies_nothing_and_can_be_added_to() -> None:
    assert read("none") == Plan()
    assert (str(Plan()), read("none").recipe) == ("none", "none")
    assert read("none+scale:alpha=2") == read("scale:alpha=2")


def test_a_recipe_is_its_plan_and_its_options_can_be_overridden() -> None:
    assert read("diff") == read("score+high+scale:q=0.1,scale.alpha=0.5")
    assert read("diff:q=0.02,compare=weight") == read("score+high+scale:q=0.02,scale.alpha=0.5,compare=weight")
    assert read("diff-wide") == read("score+high+scale:q=0.3,scale.alpha=0.5")
    assert read("diff-wide").recipe == "diff-wide"


def test_modifications_after_a_recipe_replace_its_own() -> None:
    assert read("diff+push-on:push-on.alpha=3") == read("score+high+push-on:q=0.1,push-on.alpha=3")
    assert read("diff+scale") == read("score+high+scale:q=0.1")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "an empty plan was given"),
        ("  ", "an empty plan was given"),
        (":q=1", "an empty plan was given"),
        ("score++scale", "no name beside a '+'"),
        ("scale+", "no name beside a '+'"),
        ("score", "no isolation after the attribution 'score'"),
        ("score+scale", "write score+ISOLATION+MODIFICATION with one of high, bands"),
        ("score+high", "write score+high+MODIFICATION with one of scale, push-on"),
        ("high+scale", "begins with the isolation 'high', which needs scores: write ATTRIBUTION+high+scale"),
        ("scale+high", "the isolation 'high' where a modification was expected"),
        ("scale+score+high", "the attribution 'score' where a modification was expected"),
        ("score+high+diff", "the recipe 'diff' where a modification was expected"),
        ("scale+none", "the recipe 'none' where a modification was expected"),
        ("scale+scale", "names 'scale' twice"),
        ("loop", "recipe 'loop' is made of itself (loop > pool > loop)"),
        ("scale:", "has the option '', expected key=value"),
        ("scale:alpha", "has the option 'alpha', expected key=value"),
        ("scale:=3", "has the option '=3', expected key=value"),
        ("scale:alpha=1,alpha=2", "gives the option 'alpha' twice"),
        ("scale:alpha=1,scale.alpha=2", "gives the option 'scale.alpha' twice"),
        ("score+high+scale:order=parallel,order=parallel", "gives the option 'order' twice"),
        ("score+high+scale:ordr=parallel", "did you mean order"),
        ("none:order=parallel", "unknown option of 'none:order=parallel' 'order'"),
        ("scale+push-on:alpha=1", "belongs to scale and push-on: write scale.alpha=... or push-on.alpha=..."),
        ("none:q=1", "unknown option of 'none:q=1' 'q': known: none"),
    ],
)
def test_what_is_no_plan(text: str, said: str) -> None:
    assert said in mistake(text)


def test_unknown_names_come_with_suggestions_over_everything_and_with_broken_plugins() -> None:
    assert "unknown recipe or method 'dif': did you mean diff" in mistake("dif")
    assert "did you mean push-on" in mistake("diff+pushon")
    assert "it rains" in mistake("scroe+high+scale")


def test_unknown_options_name_the_options_of_each_component() -> None:
    said = mistake("score+high+push-on:offten=true")
    assert "unknown option of 'score+high+push-on:offten=true' 'offten': did you mean often" in said
    assert "score: n-samples; high: q, compare, alpha; push-on: alpha, often, limit" in said
    assert "unknown component" in mistake("scale:high.q=0.1")
    assert "'scale.q'" in mistake("score+high+scale:scale.q=0.1")


def order(text: str) -> str:
    return build(read(text).scope, Scope).order


def test_the_order_is_of_the_scope() -> None:
    assert order("score+high+scale") == order("score+high+scale:order=parallel") == "parallel"
    plan = read("score+high+scale:q=0.1,order=sequential")
    assert (order(str(plan)), str(plan)) == ("sequential", "score+high+scale:high.q=0.1,scope.order=sequential")
    assert plan != read("score+high+scale:q=0.1")
    with pytest.raises(BrittleError, match=r"parallel \| sequential"):
        order("score+high+scale:order=serial")


def test_the_order_of_a_recipe_stays_with_other_modifications_and_can_be_overridden() -> None:
    assert [order(text) for text in ("walk", "walk+push-on:push-on.alpha=3", "walk:q=0.2", "walk:order=parallel")] == [
        "sequential",
        "sequential",
        "sequential",
        "parallel",
    ]


WORDS = st.text("abc0123456789.=:- ", min_size=1).map(str.strip).filter(bool)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    def component(kind: str, names: Sequence[str]) -> Component:
        name = draw(st.sampled_from(names))
        keys = list(options_of(METHODS[kind][name]))
        chosen = draw(st.lists(st.sampled_from(keys), unique=True)) if keys else []
        return Component(kind, name, {key: draw(WORDS) for key in chosen})  # type: ignore[arg-type]  # a drawn kind

    known = {kind: list(names) for kind, names in METHODS.items()}
    names = draw(st.permutations(known["modification"]))[: draw(st.integers(1, 2))]
    modifications = tuple(component("modification", [name]) for name in names)
    if draw(st.booleans()):
        return Plan(modifications=modifications)
    first, second = component("attribution", known["attribution"]), component("isolation", known["isolation"])
    chosen = draw(st.lists(st.sampled_from(list(options_of(Scope))), unique=True))
    return Plan(first, second, modifications, Component("scope", SCOPE, {key: draw(WORDS) for key in chosen}))


@given(plans())
def test_the_canonical_text_is_the_same_plan(plan: Plan) -> None:
    assert read(str(plan)) == plan
    assert str(read(str(plan))) == str(plan)


def test_check_names_the_isolations_that_fit() -> None:
    check(read("score+high+scale"), Known())
    check(read("rank+bands+scale"), Known())
    check(read("none"), Known())
    with pytest.raises(BrittleError, match="takes weight-scores, but attribution 'rank' gives block-scores: use one of bands"):
        check(read("rank+high+scale"), Known())
