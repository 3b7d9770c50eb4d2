"""Plans that stand for several: options with several values, and the seeds of a plan that trains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from brittle_eval.errors import BrittleError
from brittle_eval.methods import Modification
from brittle_eval.options import options_of
from brittle_eval.recipe import Names, Plan, RecipeLike, parse
from brittle_eval.scope import Scope
from brittle_eval.sweeps.grid import plans

SEEDS = 3
"""Of a plan that trains, where nobody says how many."""
SEED = "seed"


def repeated(texts: Sequence[str], seeds: int | None, names: Names, recipes: Mapping[str, RecipeLike]) -> list[str]:
    """Every plan that the texts stand for, in order: `n=10|50` is two, and a plan that trains without a `seed` is `seeds` (3).

    With one seed the plan stays as it was typed. BrittleError for fewer than one, and for a text that is no plan.
    """
    if seeds is not None and seeds < 1:
        raise BrittleError(f"--seeds {seeds}: expected a number of trainings of each plan, at least 1")
    every = [one for text in texts for plan in plans(text) for one in _seeded(plan, seeds or SEEDS, names, recipes)]
    return list(dict.fromkeys(every))


def _seeded(text: str, seeds: int, names: Names, recipes: Mapping[str, RecipeLike]) -> Iterator[str]:
    plan = parse(text, names, recipes)
    trainers = [part for part in plan.modifications if _draws(names.get("modification", part.name))]
    if seeds == 1 or not trainers or any(SEED in part.options for part in trainers):
        yield text
        return
    before = "," if ":" in text else ":"
    for number in range(seeds):
        yield text + before + ",".join(f"{_key(part.name, plan, names)}={number}" for part in trainers)


def _draws(cls: type) -> bool:
    """Whether a method trains and has a seed."""
    return issubclass(cls, Modification) and cls.apply is not Modification.apply and SEED in options_of(cls)


def _key(trainer: str, plan: Plan, names: Names) -> str:
    """`seed`, or with the component's name where another one has such an option too."""
    owners = [part for part in plan.components if SEED in options_of(names.get(part.kind, part.name))]
    return SEED if len(owners) == 1 and SEED not in options_of(Scope) else f"{trainer}.{SEED}"
