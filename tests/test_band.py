"""Safety layers: angle gaps by loops, the band of planted curves, the search against scaled copies of the model."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from brittle_eval import BrittleError
from brittle_eval.behaviour.calibration import Example
from brittle_eval.engine.attribute import Pass
from brittle_eval.engine.whole_model import find_whole
from brittle_eval.regions import Region
from brittle_eval.scope import Scope
from brittle_eval.weights import Fingerprint, find_weights
from brittle_plugins.band import Band
from brittle_plugins.prompt_states import PromptStates
from tests.editing import unchanged
from tests.models import PAD, context, examples, untied
from tests.test_builtin_methods import generator
from tests.test_direction import DATA, log_p

DEPTH = 6


def angle(a: Tensor, b: Tensor) -> float:
    dot = sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))
    return math.degrees(math.acos(dot / math.sqrt(sum(x * x for x in a.tolist()) * sum(y * y for y in b.tolist()))))


def test_gaps_are_differences_of_angles_of_random_pairs() -> None:
    of, minus = (torch.randn(3, count, 5, generator=generator(count)) for count in (9, 11))
    found = Band(draws=40).gaps(of, minus, context())
    stream = context().generator("band")
    one = torch.randint(11, (40,), generator=stream).tolist()
    two = [(a + b) % 11 for a, b in zip(one, torch.randint(1, 11, (40,), generator=stream).tolist(), strict=True)]
    other = torch.randint(9, (40,), generator=stream).tolist()
    assert all(a != b for a, b in zip(one, two, strict=True))
    for block in range(3):
        for draw, (a, b, c) in enumerate(zip(one, two, other, strict=True)):
            expected = angle(minus[block, a], of[block, c]) - angle(minus[block, a], minus[block, b])
            assert float(found[block, draw]) == pytest.approx(expected, abs=1e-3)


def curve(*means: float) -> Tensor:
    """Gaps of 500 pairs with these means and a spread of 2 degrees: standard errors of 0.09."""
    noise = torch.randn(500, generator=generator(1))
    return torch.tensor(means)[:, None] + 2 * (noise - noise.mean()) / noise.std()


@pytest.mark.parametrize(
    ("means", "band"),
    [
        ((0.1, 0.2, 0.3, 3, 8, 14, 14.2, 14.1, 15), (3, 5)),
        ((0.1, 0.9, 1.1, 6, 12, 11, 30), (2, 4)),
        ((5, 10, 15, 20), (0, 3)),
        ((0, 0, 0, 4), (3, 3)),
        ((0, 0, 0, 4, 4, 4), (3, 3)),
    ],
)
def test_the_band_begins_with_the_gap_and_ends_with_its_rise(means: Sequence[float], band: tuple[int, int]) -> None:
    assert Band().initial(curve(*means)) == band


def test_a_gap_within_its_noise_is_none() -> None:
    """A mean of 2 degrees over 500 pairs that spread by 20 degrees, and by 2."""
    wide = torch.tensor([0.0, 2.0])[:, None] + 20 * (curve(0.0)) / 2
    assert Band().initial(curve(0.0, 2.0)) == (1, 1)
    with pytest.raises(
        BrittleError, match=r"no block has an angle gap between 'safety' and 'utility' above least=1 degrees \(the lar"
    ):
        Band().initial(wide)


def test_a_planted_band_is_found() -> None:
    """States that turn by 6 degrees a block within blocks 2 to 4 of eight."""

    def states(turned: Sequence[float], seed: int) -> Tensor:
        common = torch.zeros(64)
        common[0], rows = 10.0, []
        for degrees in turned:
            base = common.clone()
            base[:2] = 10 * torch.tensor([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))])
            rows.append(base + 0.3 * torch.randn(40, 64, generator=generator(seed)))
        return torch.stack(rows)

    turned = [0, 0, 8, 16, 24, 24, 24, 24]
    method = Band()
    first, last = method.initial(method.gaps(states(turned, 1), states([0] * 8, 2), context()))
    found, planted = set(range(first, last + 1)), {2, 3, 4}
    assert len(found & planted) / len(found | planted) >= 0.5


OVER = examples([(n % 4 + 3, 1) for n in range(12)], 6)
BEHAVIOURS = {**DATA, "over-safety": OVER}


def found_by(
    model: PreTrainedModel, method: Band, data: Mapping[str, Sequence[Example]] = BEHAVIOURS, scope: Scope | None = None
) -> tuple[Region, list[str]]:
    addresses, notes = find_weights(model)[0], list[str]()
    inside, noted = (scope or Scope()).of(addresses), replace(context(), note=notes.append)
    given = (PromptStates(positions=1), method, data, inside, addresses, noted, Fingerprint(model), Pass(PAD, 4))
    return find_whole(model, *given), notes


def blocks(region: Region) -> list[int]:
    return sorted({int(name.split(".")[2]) for name in region})


def refused(model: PreTrainedModel, first: int, last: int, by: float) -> float:
    """Of a scaled copy: the share of prompts whose most likely next token is one that safe answers begin with."""
    scaled = copy.deepcopy(model)
    with torch.no_grad():
        for address in find_weights(scaled)[0]:
            if first <= address.block <= last:
                address.view(scaled).mul_(by)
    tokens = {one.ids[one.start] for one in DATA["safety"]}
    return sum(token in tokens for token in log_p(scaled, OVER).argmax(1).tolist()) / len(OVER)


class Started(Band):
    """A random model has no gap to begin with."""

    def initial(self, gaps: Tensor) -> tuple[int, int]:
        return 2, 3


@pytest.mark.parametrize("by", [4.0, 0.2])
def test_the_search_moves_the_end_and_then_the_beginning(by: float) -> None:
    model = untied(layers=DEPTH)
    method = Started(by=by, search=2, begins=1.0)
    with unchanged(model):
        region, notes = found_by(model, method)
    assert notes[1] == "the gap rises in blocks 2 to 3"
    first, last = 2, 3
    sign = 1 if by > 1 else -1

    def best(bands: list[tuple[int, int]], now: tuple[int, int]) -> set[tuple[int, int]]:
        """All that are as good as any; the present one alone, if it is among them."""
        values = {band: sign * refused(model, *band, by) for band in bands}
        top = {band for band, value in values.items() if value == max(values.values())}
        return {now} if now in top else top

    ends = best([(first, end) for end in range(max(first, last - 2), min(DEPTH - 1, last + 2) + 1)], (first, last))
    chosen = set()
    for _, end in ends:
        chosen |= best([(start, end) for start in range(max(0, first - 2), min(end, first + 2) + 1)], (first, end))
    found = (blocks(region)[0], blocks(region)[-1])
    assert found in chosen and blocks(region) == list(range(found[0], found[1] + 1))
    assert notes[2].endswith(f"taken {found[0]}-{found[1]}")
    assert len({refused(model, 0, end, by) for end in range(DEPTH)}) > 1, "or the search had nothing to find"


def test_a_given_band_is_all_weights_of_its_blocks_in_the_scope() -> None:
    model = untied(layers=DEPTH)
    region, notes = found_by(model, Band(first=1, last=3), DATA)
    assert blocks(region) == [1, 2, 3] and len(region) == 3 * 7 and not notes
    assert region.count == sum(address.view(model).numel() for address in find_weights(model)[0] if 1 <= address.block <= 3)
    scoped, _ = found_by(model, Band(first=1, last=3), DATA, Scope(modules="mlp.*"))
    assert len(scoped) == 3 * 3


@pytest.mark.parametrize(
    ("method", "data", "said"),
    [
        (Band(first=2, last=6), DATA, r"first=2,last=6, expected blocks up to 5"),
        (
            Band(search=0),
            {name: known[:7] for name, known in DATA.items()},
            "band needs 8 prompts of 'safety' or more: give more pairs",
        ),
        (Band(search=0), {"safety": DATA["safety"], "utility": DATA["safety"]}, "no band proposed; give first and last"),
        (Band(), DATA, "PromptStates needs examples of 'over-safety', but there are none: give pairs of it"),
    ],
)
def test_what_no_band_can_be_found_from(method: Band, data: Mapping[str, Sequence[Example]], said: str) -> None:
    with pytest.raises(BrittleError, match=said):
        found_by(untied(layers=DEPTH), method, data)


@pytest.mark.parametrize("given", [{"first": 2}, {"last": 2}, {"first": 4, "last": 3}])
def test_both_ends_are_given(given: Mapping[str, int]) -> None:
    with pytest.raises(ValueError, match="first and last are given together, the lower one first"):
        Band(**given)  # type: ignore[arg-type]
