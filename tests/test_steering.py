"""Hooks on a live model: the prompts' own states and every way of reading a batch, against one prompt at a time by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from brittle_eval import BrittleError, CannotRun, HookModification, Region, Streams
from brittle_eval.behaviour.calibration import Example
from brittle_eval.engine.controls import matched_control
from brittle_eval.engine.steering import asking, steered
from brittle_eval.evaluation.generate import Sampling, generate
from brittle_eval.evaluation.measures import likelihoods, perplexities, token_perplexity
from brittle_eval.tuning.trained import applied
from brittle_eval.weights import Fingerprint, decoder_blocks, find_weights
from brittle_plugins.ablate import Ablate
from brittle_plugins.ablate_stream import AblateStream
from brittle_plugins.add import Add
from brittle_plugins.scale import Scale
from brittle_plugins.steer import Steer
from tests.editing import unchanged
from tests.models import MODELS, PAD, context, examples, random_region, untied

SHARED = [5, 40, 77, 12, 90, 31, 8, 64, 23, 50]
"""What all prompts of the second set open with, so that it is read once."""
PLAIN = [list(one.ids) for one in examples([(n, 0) for n in (5, 1, 12, 7, 20, 7, 3, 9, 15, 2)], seed=3)]
PROMPTS = {"plain": PLAIN, "shared": [SHARED + prompt for prompt in PLAIN] + [SHARED]}
BEHIND = (33, 71)
NEW = 8
GREEDY = Sampling(max_new_tokens=NEW)
NO_END = (10_000,)


def streams(model: PreTrainedModel, first: int = 0) -> Streams:
    """A direction behind every block from `first` on, and a reference that some prompts resemble and others do not."""
    generator, blocks = torch.Generator().manual_seed(4), len(decoder_blocks(model))
    along, reference = torch.randn(blocks + 1, 32, generator=generator), torch.randn(blocks, 32, generator=generator)
    along[: first + 1] = 0
    known = {"reference": reference, "first": torch.tensor(float(first)), "threshold": torch.tensor(0.0)}
    return Streams(along, BEHIND, known)


@contextmanager
def live(model: PreTrainedModel, *chain: HookModification, given: Streams | None = None) -> Iterator[Fingerprint]:
    fingerprint = Fingerprint(model)
    region = Region({}, given or streams(model))
    with steered(model, find_weights(model)[0], region, chain, fingerprint):
        yield fingerprint


def by_hand(model: PreTrainedModel, ids: Sequence[int], start: int, alpha: float, given: Streams) -> tuple[float, Tensor]:
    """The sign of the prompt ids[:start], and the logits at every position of a pass over all ids; two passes, no padding."""
    blocks = [block for _, block in decoder_blocks(model)]
    caught: list[Tensor] = []
    handles = [block.register_forward_hook(lambda _, args, out: caught.append(_first(out))) for block in blocks]
    with torch.no_grad():
        model(input_ids=torch.tensor([[*ids[:start], *BEHIND]]), use_cache=False)
    for handle in handles:
        handle.remove()
    cosines = []
    for block, out in enumerate(caught):
        step = out[0, start - 1] - out[0, start - 1 + len(BEHIND)]
        reference = given.known["reference"][block]
        cosines.append(float(step @ reference / (step.norm() * reference.norm())))
    sign = 1.0 if sum(cosines) / len(cosines) >= float(given.known["threshold"]) else -1.0

    def steer(block: int, out: object) -> object:
        changed = _first(out).clone()
        changed[:, start - 1 :] += sign * alpha * given.along[block + 1]
        return changed if isinstance(out, Tensor) else (changed, *out[1:])  # type: ignore[index]

    handles = [block.register_forward_hook(lambda _, args, out, b=b: steer(b, out)) for b, block in enumerate(blocks)]
    with torch.no_grad():
        logits: Tensor = model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0]
    for handle in handles:
        handle.remove()
    return sign, logits


def _first(out: object) -> Tensor:
    return out if isinstance(out, Tensor) else out[0]  # type: ignore[index,no-any-return]


def alone(model: PreTrainedModel, prompt: Sequence[int], alpha: float) -> tuple[float, list[int]]:
    """The sign, and the greedy answer, each token by a whole pass of its own."""
    ids, sign = list(prompt), 0.0
    for _ in range(NEW):
        sign, logits = by_hand(model, ids, len(prompt), alpha, streams(model))
        ids.append(int(logits[-1].argmax()))
    return sign, ids[len(prompt) :]


@pytest.mark.parametrize("which", PROMPTS)
@pytest.mark.parametrize("name", MODELS)
def test_answers_of_a_batch_are_those_of_each_prompt_by_itself(name: str, which: str) -> None:
    """Left padding, a shared start that is read once, equal prompts, a cache that cannot forget, rows that leave the batch."""
    model, prompts = MODELS[name](), PROMPTS[which]
    expected = [alone(model, prompt, 0.7) for prompt in prompts]
    assert {sign for sign, _ in expected} == {1.0, -1.0}
    ends = [expected[0][1][1], expected[2][1][5], expected[4][1][6]]
    wanted = [
        answer[: next((place for place, token in enumerate(answer) if token in ends), len(answer))] for _, answer in expected
    ]
    assert len({len(answer) for answer in wanted}) > 1
    with unchanged(model), live(model, Steer(alpha=0.7)):
        for size in (3, 32):
            given = {"batch_size": size, "end_ids": ends, "pad_id": PAD}
            twice = [*prompts, *prompts]
            assert generate(model, twice, GREEDY, samples=[0] * len(prompts) + [1] * len(prompts), **given) == [*wanted, *wanted]
    unsteered = generate(model, prompts, GREEDY, batch_size=32, end_ids=ends, pad_id=PAD)
    assert unsteered != wanted


@pytest.mark.parametrize("size", [3, 32])
@pytest.mark.parametrize("name", MODELS)
def test_likelihoods_of_a_batch_are_those_of_each_text_by_itself(name: str, size: int) -> None:
    model = MODELS[name]()
    data = [Example((*prompt, *range(30, 31 + row)), len(prompt)) for row, prompt in enumerate(PLAIN)]
    data.append(Example((*PLAIN[0], 20, 21), len(PLAIN[0])))  # a second text behind the first one's prompt
    expected, signs = [], set()
    for one in data:
        sign, logits = by_hand(model, one.ids, one.start, 0.7, streams(model))
        labels, log_p = torch.tensor(one.ids[one.start :]), logits[one.start - 1 : -1].float().log_softmax(-1)
        expected.append((float(log_p.gather(1, labels[:, None]).sum()), bool((log_p.argmax(1) == labels).all())))
        signs.add(sign)
    assert signs == {1.0, -1.0}
    with live(model, Steer(alpha=0.7)):
        found = likelihoods(model, data, PAD, size)
        assert perplexities(model, data, PAD, size) == pytest.approx(
            [2.718281828459045 ** (-total / (len(one.ids) - one.start)) for one, (total, _) in zip(data, expected, strict=True)],
            rel=1e-3,
        )
    assert [total for total, _ in found] == pytest.approx([total for total, _ in expected], abs=1e-3)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert [total for total, _ in likelihoods(model, data, PAD, size)] != pytest.approx([t for t, _ in expected], abs=1e-2)


def test_one_threshold_and_another() -> None:
    """`tau` in place of the region's: at −1 every prompt counts as harmful, at 1 none does."""
    model, both = untied(), {}
    for tau in (-1.0, 1.0):
        with live(model, Steer(alpha=0.7, tau=tau)):
            both[tau] = generate(model, PLAIN, GREEDY, batch_size=4, end_ids=NO_END, pad_id=PAD)
    mixed = [alone(model, prompt, 0.7) for prompt in PLAIN]
    assert [both[-sign][row] for row, (sign, _) in enumerate(mixed)] == [answer for _, answer in mixed]


def test_a_text_without_a_prompt_cannot_be_steered_by_it() -> None:
    model = untied()
    with live(model, Steer()), pytest.raises(CannotRun, match="steered by what its prompts say, and this text has no prompt"):
        token_perplexity(model, [PLAIN[2]], PAD, 4)
    with live(model, Add(alpha=0.5)):
        assert token_perplexity(model, [PLAIN[2]], PAD, 4)[0] != token_perplexity(untied(seed=0), [PLAIN[2]], PAD, 4)[0]


def test_a_pass_that_does_not_say_its_rows_is_a_bug() -> None:
    model = untied()
    with live(model, Steer()), pytest.raises(RuntimeError, match="did not say which rows it has: this is a bug"):
        model(input_ids=torch.tensor([PLAIN[2]]))
    assert asking(model) is None


def test_the_fingerprint_knows_hooks_options_and_every_vector() -> None:
    model = untied()
    plain, given = str(Fingerprint(model)), streams(model)
    other = Streams(given.along, BEHIND, {**given.known, "threshold": torch.tensor(0.5)})
    longer = Streams(given.along, (*BEHIND, 4), given.known)
    turned = Streams(-given.along, BEHIND, given.known)
    found = []
    chains: list[tuple[list[HookModification], Streams]] = [
        ([Steer()], given),
        ([Steer(alpha=3.4)], given),
        ([Steer()], other),
        ([Steer()], longer),
        ([Steer()], turned),
        ([Add()], given),
        ([Add(), Steer()], given),
    ]
    for chain, own in chains:
        with live(model, *chain, given=own) as fingerprint:
            found.append(str(fingerprint))
        assert str(fingerprint) == plain
    assert len({plain, *found}) == len(found) + 1
    with live(model, Steer()) as again:
        assert str(again) == found[0]


def test_an_error_inside_takes_the_hooks_out() -> None:
    model = untied()
    before = model(input_ids=torch.tensor([PLAIN[2]])).logits
    with pytest.raises(KeyboardInterrupt), live(model, Add(alpha=2.0), Steer()):
        raise KeyboardInterrupt
    assert torch.equal(model(input_ids=torch.tensor([PLAIN[2]])).logits, before) and asking(model) is None


def test_hooks_and_edits_in_one_chain() -> None:
    """The weights are edited, then the hooks are put in; both are undone, and the fingerprint knows of each."""
    model, given = untied(), streams(untied())
    parts, prints = random_region(model, 0.3), set()
    region, data = Region(dict(parts), given), [Example(tuple(PLAIN[4]), 5)]
    addresses, fingerprint = find_weights(model)[0], Fingerprint(model)
    edited = untied()
    with applied(edited, addresses, region, [Scale(alpha=0.5)], context(), Fingerprint(edited)), live(edited, Add(alpha=0.5)):
        expected = likelihoods(edited, data, PAD, 1)
    for chain in ([Scale(alpha=0.5)], [Add(alpha=0.5)], [Scale(alpha=0.5), Add(alpha=0.5)]):
        with unchanged(model), applied(model, addresses, region, chain, context(), fingerprint):
            prints.add(str(fingerprint))
            found = likelihoods(model, data, PAD, 1)
    assert found == expected and len(prints | {str(fingerprint)}) == 4


@dataclass(frozen=True)
class Mean(HookModification):
    """Adds the mean of what it saw of the prompt: chained behind another, it sees what that one made."""

    def prepare(self, states: Tensor, streams: Streams) -> Tensor:
        return states[-1, :, 0]

    def steer(self, stream: Tensor, direction: Tensor, state: Tensor | None) -> Tensor:
        assert state is not None
        return stream + state[:, None]


def test_a_look_sees_what_steers_all_positions_and_nothing_that_asks() -> None:
    """`Add` alone changes what `Mean` looks at; `Steer` beside it does not."""
    model, prompt = untied(), [PLAIN[2]]
    with live(model, Add(alpha=0.3)):
        caught: list[Tensor] = []
        handle = decoder_blocks(model)[-1][1].register_forward_hook(lambda _, args, out: caught.append(_first(out)))
        model(input_ids=torch.tensor(prompt))
        handle.remove()
    for chain in ([Add(alpha=0.3), Mean()], [Add(alpha=0.3), Steer(), Mean()]):
        with live(model, *chain):
            now = asking(model)
            assert now is not None
            assert torch.allclose(now.states(prompt, PAD)[-1], caught[0][:, -1], atol=1e-4)


def test_a_control_is_as_long_in_another_direction_with_the_same_signs() -> None:
    model, given = untied(), streams(untied(), first=1)
    drawn = [
        matched_control("random", Region({}, given), model, find_weights(model)[0], torch.Generator().manual_seed(seed)).streams
        for seed in (0, 0, 1)
    ]
    one, same, two = (own for own in drawn if own is not None)
    assert one.places == given.places == [2] and one.known is given.known and one.behind == BEHIND
    assert torch.allclose(one.along.norm(dim=1), given.along.norm(dim=1), rtol=1e-5)
    assert torch.equal(one.along, same.along) and not torch.allclose(one.along, two.along)
    assert abs(float(torch.cosine_similarity(one.along[2], given.along[2], dim=0))) < 0.6


@pytest.mark.parametrize(
    ("chain", "given", "said"),
    [
        ([AblateStream()], "own", "one direction of the residual stream was expected, and the region has 2"),
        ([Steer()], "bare", "steer needs what the isolation 'contrast' keeps of prompts, and this region has nothing of it"),
        ([Add()], "other", r"of shape \(3, 32\) were expected, and the region has \(4, 32\): find the region on this model"),
        ([Add()], None, r"of shape \(3, 32\) were expected, and the region has none"),
    ],
)
def test_what_cannot_steer(chain: list[HookModification], given: str | None, said: str) -> None:
    model = untied()
    made = {"own": streams(model), "bare": Streams(streams(model).along), "other": Streams(torch.ones(4, 32)), None: None}[given]
    with (
        pytest.raises(BrittleError, match=said),
        steered(model, find_weights(model)[0], Region({}, made), chain, Fingerprint(model)),
    ):
        generate(model, PLAIN, GREEDY, batch_size=4, end_ids=NO_END, pad_id=PAD)
    assert asking(model) is None and Ablate.changes == "weights"
