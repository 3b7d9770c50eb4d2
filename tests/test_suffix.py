"""A suffix's losses and gradients against their definitions, and a search that can be stopped at any step."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor
from transformers import PreTrainedModel

from brittle_eval.errors import BrittleError, UnknownName
from brittle_eval.evaluation.generate import Sampling, generate
from brittle_eval.gcg.suffix import PRESETS, Search, Settings, State, preset
from brittle_eval.gcg.suffix_scores import Scorer
from brittle_eval.gcg.suffix_slots import Slots, survives
from brittle_eval.tuning.train import response_loss
from brittle_eval.weights import Fingerprint
from tests.models import END, MODELS, PAD, VOCABULARY, untied
from tests.suffixes import ALLOWED, LENGTH, SLOTS, TOKENIZER, example, suffixes


def one_hot_gradient(model: PreTrainedModel, slots: Slots, suffix: Sequence[int]) -> Tensor:
    """The loss as a function of a one-hot matrix (length, vocabulary), differentiated."""
    whole, embed = example(slots, suffix), model.get_input_embeddings()
    ids, start = torch.tensor([whole.ids]), len(slots.before)
    one_hot = torch.nn.functional.one_hot(torch.tensor(suffix), VOCABULARY).float().requires_grad_()
    inputs = embed(ids).detach().clone()
    table = embed(torch.arange(VOCABULARY)).detach()
    inputs = torch.cat([inputs[:, :start], (one_hot @ table)[None], inputs[:, start + len(suffix) :]], dim=1)
    labels = torch.where(torch.arange(ids.shape[1]) < whole.start, -100, ids)
    (gradient,) = torch.autograd.grad(model(inputs_embeds=inputs, labels=labels).loss, one_hot)
    return gradient[:, ALLOWED]


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_losses_and_gradients_are_the_definitions(name: str, cached: bool) -> None:
    model = MODELS[name]()
    before = str(Fingerprint(model))
    scorer = Scorer(model, ALLOWED, rows=4, cached=cached)
    assert scorer.cached is cached
    for slots in SLOTS[:2]:
        tried = suffixes(6)
        expected = [float(response_loss(model, [example(slots, suffix)], PAD).detach()) for suffix in tried]
        torch.testing.assert_close(scorer.losses(slots, tried), torch.tensor(expected), rtol=1e-4, atol=1e-5)
        gradient, definition = scorer.gradient(slots, tried[0]), one_hot_gradient(model, slots, tried[0])
        assert float((gradient - definition).norm() / definition.norm()) < 1e-4
        torch.testing.assert_close(scorer.losses(slots, tried, tried[0]), torch.tensor(expected), rtol=1e-4, atol=1e-5)
    assert scorer.check_cache(SLOTS[0], suffixes(1)[0]) is cached
    assert str(Fingerprint(model)) == before
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("near", ["the gradient's", "another", "none"])
def test_candidates_are_read_from_where_they_leave_the_suffix(near: str) -> None:
    """Changes at places 5, 4, …: in parts of two, and each begins where the first of its candidates changes."""
    model, suffix, slots = untied(), tuple(suffixes(1)[0]), SLOTS[0]
    tried = [(*suffix[:place], suffix[place] + 1, *suffix[place + 1 :]) for place in reversed(range(LENGTH))]
    scorer, shapes = Scorer(model, ALLOWED, rows=8), list[tuple[int, int]]()
    scorer.gradient(slots, suffix)
    model.register_forward_pre_hook(lambda _, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True)
    found = scorer.losses(slots, tried, {"the gradient's": suffix, "another": tried[0], "none": ()}[near])
    rest = len(slots.after) + len(slots.target) - 1
    parts = [tried[start : start + 8] for start in range(0, LENGTH, 8)]
    if near == "the gradient's":
        size = -(-LENGTH // 3)
        assert shapes == [(min(size, LENGTH - start), LENGTH - start + rest) for start in range(0, LENGTH, size)]
    else:
        assert shapes == [(len(part), LENGTH + rest) for part in parts]
    expected = [float(response_loss(model, [example(slots, one)], PAD).detach()) for one in tried]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_a_cache_that_changes_the_losses_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = Scorer(untied(), ALLOWED, rows=4)
    right = float(Scorer(scorer.model, ALLOWED, 4, cached=False).losses(SLOTS[0], suffixes(1)))
    whole = scorer._losses
    monkeypatch.setattr(scorer, "_losses", lambda *given: whole(*given) + (0.1 if scorer.cached else 0.0))
    assert not scorer.check_cache(SLOTS[0], suffixes(1)[0])
    assert float(scorer.losses(SLOTS[0], suffixes(1))) == pytest.approx(right)


def test_a_suffix_succeeds_where_the_greedy_answer_begins_with_the_target() -> None:
    model, suffix = untied(), suffixes(1)[0]
    asked = SLOTS[0].prompt_ids(suffix)
    (answer,) = generate(model, [asked], Sampling(5), end_ids=[END], pad_id=PAD)
    assert len(answer) == 5
    scorer = Scorer(model, ALLOWED, 4)
    assert scorer.succeeds(replace(SLOTS[0], target=tuple(answer)), suffix)
    for place in range(5):
        other = (*answer[:place], (answer[place] + 1) % VOCABULARY, *answer[place + 1 :])
        assert not scorer.succeeds(replace(SLOTS[0], target=other), suffix)


def search(model: PreTrainedModel, settings: Settings, goals: Sequence[Slots] = SLOTS) -> Search:
    return Search(TOKENIZER, Scorer(model, ALLOWED, rows=8), goals, ALLOWED, settings)


SMALL = Settings(steps=20, candidates=16, top_k=32, length=LENGTH)


@pytest.mark.parametrize("descend", [True, False])
def test_the_loss_falls(descend: bool) -> None:
    model = untied()
    found = search(model, replace(SMALL, descend=descend))
    states: list[State] = []
    state = found.run(found.start(0), states.append)
    assert state.steps == len(states) == 20
    assert state.best_loss == min(state.losses) < state.losses[0] - 0.2
    assert (state.losses == tuple(sorted(state.losses, reverse=True))) is descend
    for ids, loss in ((state.suffix, state.loss), (state.best, state.best_loss)):
        expected = sum(float(response_loss(model, [example(slots, ids)], PAD).detach()) for slots in SLOTS) / len(SLOTS)
        assert loss == pytest.approx(expected, rel=1e-4)
        assert survives(TOKENIZER, SLOTS, [ids]) == [True]


def test_a_search_goes_on_as_if_it_had_not_been_stopped() -> None:
    """Every state goes through JSON into a new search, with caches of its own."""
    model, settings = untied(), replace(SMALL, steps=6, descend=False)
    whole = search(model, settings)
    expected = whole.run(whole.start(3), lambda state: None)
    state = search(model, settings).start(3)
    for _ in range(6):
        state = search(model, settings).step(TypeAdapter(State).validate_json(json.dumps(asdict(state))))
    assert state == expected
    assert search(model, settings).start(4).random != search(model, settings).start(3).random


def test_steepest_is_by_the_normalised_gradients_of_the_active_goals() -> None:
    model, suffix = untied(), suffixes(1)[0]
    for active in (1, 3):
        gradients = [one_hot_gradient(model, slots, suffix) for slots in SLOTS[:active]]
        total = sum((gradient / gradient.norm() for gradient in gradients), torch.zeros(()))
        top = search(model, replace(SMALL, top_k=4)).steepest(suffix, active)
        for place in range(LENGTH):
            order = sorted(range(len(ALLOWED)), key=lambda index: float(total[place, index]))
            assert set(top[place].tolist()) == {ALLOWED[index] for index in order[:4]}
    assert search(model, replace(SMALL, top_k=10_000)).steepest(suffix, 1).shape == (LENGTH, len(ALLOWED))


def test_candidates_differ_in_one_token_of_the_steepest_and_survive() -> None:
    found = search(untied(), SMALL)
    state = found.start(0)
    top = found.steepest(state.suffix, 1)
    drawn = found.draw(state.suffix, top, torch.Generator().manual_seed(0))
    assert 0 < len(drawn) == len(set(drawn)) <= SMALL.candidates
    for candidate in drawn:
        (place,) = (place for place in range(LENGTH) if candidate[place] != state.suffix[place])
        assert candidate[place] in top[place]
    assert all(survives(TOKENIZER, SLOTS, drawn))


def test_a_step_without_a_candidate_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    found = search(untied(), SMALL)
    state = found.start(0)
    monkeypatch.setattr(found, "draw", lambda *given: [])
    after = found.step(state)
    assert (after.suffix, after.loss, after.steps) == (state.suffix, state.loss, 1)


def test_progressive_adds_a_goal_where_all_before_it_are_won(monkeypatch: pytest.MonkeyPatch) -> None:
    found = search(untied(), replace(SMALL, steps=5, progressive=True))
    won = iter([False, True, True, False, False, False])
    monkeypatch.setattr(found.scorer, "succeeds", lambda slots, suffix: next(won))
    states = [found.start(0)]
    state = found.run(states[0], states.append)
    assert state.counts == (1, 1, 1, 2, 2, 2)
    grown = states[2]
    assert grown.active == 2
    assert grown.best == grown.suffix
    assert grown.loss == grown.best_loss == float(found.losses([grown.suffix], 2)[0])
    assert state.best_loss == min(grown.loss, *state.losses[3:])


def test_a_loss_that_is_no_number_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    found = search(untied(), replace(SMALL, descend=False))
    state = found.start(0)
    monkeypatch.setattr(found.scorer, "losses", lambda slots, tried, near=(): torch.full((len(tried),), float("nan")))
    with pytest.raises(BrittleError, match="target loss is nan at step 1"):
        found.step(state)


def test_a_random_suffix_survives_and_is_the_seeds() -> None:
    found = search(untied(), SMALL)
    one = found.random_suffix(0)
    assert len(one) == LENGTH
    assert len(set(one)) > 2
    assert one == found.random_suffix(0) != found.random_suffix(1)
    assert survives(TOKENIZER, SLOTS, [one]) == [True]


def test_presets() -> None:
    paper = PRESETS["paper"]
    assert (paper.steps, paper.candidates, paper.top_k, paper.length) == (500, 512, 256, 20)
    assert preset("paper", steps=3, top_k=None) == replace(paper, steps=3)
    with pytest.raises(UnknownName, match="unknown preset 'papper': did you mean paper"):
        preset("papper")
    with pytest.raises(BrittleError, match="--top-k 0: expected a number of at least 1"):
        preset("cpu", top_k=0)
    with pytest.raises(BrittleError, match="--target-tokens -1"):
        preset("cpu", target_tokens=-1)
