"""The variant of Wanda: the lowest scores of every row up to one share of its sum, against the search that defines it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from brittle_eval import BrittleError, Mask, share
from brittle_plugins.bottom_mass import BottomMass
from tests.test_builtin_methods import CONTEXT, generator


def chosen(scores: Tensor, q: float) -> Tensor:
    part = BottomMass(q=q).isolate({"safety": {"w": scores}}, CONTEXT)["w"]
    assert isinstance(part, Mask)
    return part.dense()


def up_to(scores: Tensor, alpha: float) -> Tensor:
    """Of every row, entry by entry, the lowest as long as their sum is at most alpha of the row's."""
    inside = torch.zeros(scores.shape, dtype=torch.bool)
    for row in range(len(scores)):
        total = 0.0
        for column in sorted(range(scores.shape[1]), key=lambda j: (float(scores[row, j]), j)):
            total += float(scores[row, column])
            if total > alpha * float(scores[row].double().sum()):
                break
            inside[row, column] = True
    return inside


def searched(scores: Tensor, q: float) -> Tensor:
    """The largest share of the sums that takes no more than q of the weight, by bisection to the last bit."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if up_to(scores, middle).sum() <= q * scores.numel() else (low, middle)
    return up_to(scores, low)


@given(st.integers(0, 30), st.sampled_from([0.05, 0.2, 0.5, 0.7]))
def test_it_is_what_the_search_ends_at(seed: int, q: float) -> None:
    scores = torch.rand(4, 9, generator=generator(seed)) * torch.tensor([[1.0], [10.0], [0.1], [1.0]])
    scores[3] = scores[3] ** 4
    mine, slow = chosen(scores, q), searched(scores, q)
    assert int(mine.sum()) == share(q, 36)
    assert torch.equal(mine, slow)


@given(st.integers(0, 30), st.sampled_from([0.1, 0.5]))
def test_of_every_row_the_lowest_are_taken(seed: int, q: float) -> None:
    """Also where scores are equal, or a row has none: exactly ⌊q·n⌋, and in a row nothing above what stays."""
    scores = torch.randint(0, 3, (5, 8), generator=generator(seed)).float()
    scores[0] = 0
    inside = chosen(scores, q)
    assert int(inside.sum()) == share(q, 40)
    for row, taken in zip(scores, inside, strict=True):
        assert not taken.any() or taken.all() or float(row[taken].max()) <= float(row[~taken].min())


def test_a_row_with_a_few_large_scores_gives_up_more() -> None:
    scores = torch.tensor([[1.0, 1, 1, 1, 96], [20, 20, 20, 20, 20]])
    assert chosen(scores, 0.4).tolist() == [[True] * 4 + [False], [False] * 5]


def test_scores_with_a_sign_have_no_share() -> None:
    with pytest.raises(BrittleError, match=r"w has scores below zero, .*: use bottom"):
        chosen(torch.tensor([[1.0, -1.0]]), 0.5)
    assert (BottomMass().reach, BottomMass(of="utility").behaviours) == ("weight", ("utility",))
