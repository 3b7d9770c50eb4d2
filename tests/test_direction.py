"""The refusal direction: the reader against plain passes and edited copies, the choice against a loop over all candidates."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from brittle_eval import BrittleError, HiddenStates, Isolation, ModelAttribution, Projector, Reader, Steering
from brittle_eval.behaviour.calibration import Example
from brittle_eval.cli import main
from brittle_eval.engine.attribute import Pass
from brittle_eval.engine.controls import matched_control
from brittle_eval.engine.reader import ModelReader
from brittle_eval.engine.whole_model import find_whole
from brittle_eval.regions import Region
from brittle_eval.scope import Scope
from brittle_eval.weights import Fingerprint, decoder_blocks, find_weights
from brittle_plugins.ablate import Ablate
from brittle_plugins.direction import Direction
from brittle_plugins.prompt_states import PromptStates
from tests.architectures import mixtral
from tests.editing import edit
from tests.models import MODELS, PAD, biased, context, examples, gemma2, gpt2, llama, save_checkpoint, untied
from tests.test_attribute import distance
from tests.test_run import TASKS, rows

END = (7, 9, 11)
"""What a template puts after every request."""
EVERYWHERE = Scope()


def ending(data: Sequence[Example]) -> list[Example]:
    return [Example((*one.ids[: one.start], *END, *one.ids[one.start :]), one.start + len(END)) for one in data]


DATA = {
    "safety": ending(examples([(n % 7 + 2, 3) for n in range(14)], 1)),
    "utility": ending(examples([(n % 5 + 3, 2) for n in range(13)], 2)),
}


def reader(model: PreTrainedModel, scope: Scope = EVERYWHERE, size: int = 4) -> ModelReader:
    addresses = find_weights(model)[0]
    return ModelReader(model, DATA, scope.of(addresses), addresses, Pass(PAD, size))


def prompt(example: Example) -> Tensor:
    return torch.tensor([example.ids[: example.start]])


@pytest.mark.parametrize("name", MODELS)
def test_states_are_what_enters_each_block_and_leaves_the_last(name: str) -> None:
    model, found = MODELS[name](), reader(MODELS[name]()).states("safety", 2)
    assert found.shape == (3, 14, 2, 32)
    for number, example in enumerate(DATA["safety"]):
        caught: list[Tensor] = []
        last = decoder_blocks(model)[-1][1]
        handle = last.register_forward_hook(lambda _, args, out, to=caught: to.append(out if isinstance(out, Tensor) else out[0]))
        with torch.no_grad():
            entered = model(input_ids=prompt(example), output_hidden_states=True).hidden_states[:2]
        handle.remove()
        expected = torch.stack([stream.reshape(-1, 32)[-2:] for stream in (*entered, caught[0])])
        assert distance(found[:, number], expected) < 1e-5


def log_p(model: PreTrainedModel, data: Sequence[Example]) -> Tensor:
    with torch.no_grad():
        logits: Tensor = torch.stack([model(input_ids=prompt(one)).logits[0, -1].float() for one in data])
    return logits.log_softmax(-1)


@pytest.mark.parametrize("name", MODELS)
def test_next_tokens_of_the_model_as_it_is(name: str) -> None:
    model, chosen = MODELS[name](), [5, 0, 9]
    expected = log_p(model, [DATA["utility"][index] for index in chosen])
    assert torch.allclose(reader(model).next_tokens("utility", chosen), expected, atol=1e-4)


def orthogonal(model: PreTrainedModel, direction: Tensor) -> PreTrainedModel:
    """A copy in which neither the embeddings nor any output projection or down projection can write the direction."""
    made = copy.deepcopy(model)
    with torch.no_grad():
        embeddings = made.get_input_embeddings().get_parameter("weight")
        embeddings.sub_(torch.outer(embeddings @ direction, direction))
        for block in made.model.layers:
            for weight in (block.self_attn.o_proj.weight, block.mlp.down_proj.weight):
                weight.sub_(torch.outer(direction, direction @ weight))
    return made


def random_unit(seed: int = 0) -> Tensor:
    drawn = torch.randn(32, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(drawn, dim=0)


def test_ablating_a_direction_in_a_pass_is_orthogonalising_all_that_writes_it() -> None:
    model, direction = untied(layers=3), random_unit()
    expected = log_p(orthogonal(model, direction), DATA["safety"])
    found = reader(model).next_tokens("safety", range(14), Steering(ablate=direction))
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(found, log_p(model, DATA["safety"]), atol=1e-1)
    assert torch.equal(reader(model).next_tokens("safety", range(14)), reader(model).next_tokens("safety", range(14)))


@pytest.mark.parametrize("block", [0, 1])
def test_adding_a_vector_before_a_block(block: int) -> None:
    """Into the embeddings, or into the bias of what the block before it adds."""
    model, vector = biased(), 3 * random_unit()
    changed = copy.deepcopy(model)
    with torch.no_grad():
        target = changed.model.layers[0].mlp.down_proj.bias if block else changed.get_input_embeddings().get_parameter("weight")
        target.add_(vector)
    found = reader(model).next_tokens("utility", range(13), Steering(add=vector, block=block))
    assert torch.allclose(found, log_p(changed, DATA["utility"]), atol=1e-4)


def test_writers_and_what_else_writes() -> None:
    names = [f"model.layers.{block}.{part}.weight" for block in (0, 1) for part in ("self_attn.o_proj", "mlp.down_proj")]
    assert list(reader(llama()).writers) == names and reader(llama()).left_out == ["the embeddings"]
    scoped = reader(llama(), Scope(blocks="1", modules="self_attn.*"))
    assert scoped.writers == {names[2]: (32, 32)} and scoped.left_out == ["the embeddings", "3 weights outside the plan's scope"]
    assert reader(gpt2()).left_out == ["the embeddings", "the biases of 4 weights"]
    assert [name.rpartition("h.")[2] for name in reader(gpt2()).writers][:2] == ["0.attn.c_proj.weight", "0.mlp.c_proj.weight"]
    assert "what the known writers of blocks 0, 1 give is not just what these blocks add" in reader(gemma2()).left_out[1]
    experts = reader(mixtral())
    assert len(experts.writers) == 2 * (1 + 4) and "blocks 0, 1" in experts.left_out[1]


def test_the_tokens_that_all_prompts_end_with() -> None:
    model = untied()
    assert reader(model).ending == 3
    assert PromptStates().attribute(reader(model), "utility").values.shape[2] == 3
    assert PromptStates(positions=1).attribute(reader(model), "utility").values.shape[2] == 1
    bare = ModelReader(model, {"safety": examples([(3, 1), (4, 1)])}, [], [], Pass(PAD))
    with pytest.raises(BrittleError, match="end with no common token, as without a chat template: give positions=1"):
        PromptStates().attribute(bare, "safety")
    with pytest.raises(BrittleError, match="4 positions at prompt ends were asked for, but a prompt has 3 tokens"):
        bare.states("safety", 4)


def found_by(
    model: PreTrainedModel, isolation: Isolation, data: Mapping[str, Sequence[Example]] = DATA
) -> tuple[Region, list[str]]:
    addresses, notes = find_weights(model)[0], list[str]()
    noted = replace(context(), note=notes.append)
    return find_whole(
        model, PromptStates(), isolation, data, addresses, addresses, noted, Fingerprint(model), Pass(PAD, 4)
    ), notes


def halves(name: str) -> tuple[list[Example], list[Example]]:
    order = torch.randperm(len(DATA[name]), generator=context().generator(f"direction {name}")).tolist()
    return [DATA[name][index] for index in order[2:]], [DATA[name][index] for index in order[:2]]


def at(model: PreTrainedModel, example: Example, block: int, position: int) -> Tensor:
    with torch.no_grad():
        stream: Tensor = model(input_ids=prompt(example), output_hidden_states=True).hidden_states[block]
    return stream[0, position].double()


def candidates(model: PreTrainedModel) -> dict[tuple[int, int], dict[str, float]]:
    """Of each block and position: log-odds when ablated, divergence, log-odds when added; from edited copies, one by one."""
    (of, of_held), (minus, minus_held) = halves("safety"), halves("utility")
    first = [one.ids[one.start] for one in DATA["safety"]]
    refusing = sorted(set(first), key=lambda token: (-first.count(token), first.index(token)))
    kept, covered = [], 0
    for token in refusing:
        if covered < 0.5 * len(first):
            kept.append(token)
        covered += first.count(token)

    def odds(after: Tensor) -> float:
        p = after.double().exp()[:, kept].sum(1)
        return float((p / (1 - p)).log().mean())

    found = {}
    for block in (1, 2):
        for position in (-3, -2, -1):
            means = [torch.stack([at(model, one, block, position) for one in part]).mean(0) for part in (of, minus)]
            difference = (means[0] - means[1]).float()
            without, added = orthogonal(model, difference / difference.norm()), copy.deepcopy(model)
            with torch.no_grad():
                added.model.layers[block - 1].mlp.down_proj.bias = torch.nn.Parameter(difference)
            before, after = log_p(model, minus_held), log_p(without, minus_held)
            found[block, position] = {
                "odds": odds(log_p(without, of_held)),
                "kl": float((before.exp() * (before - after)).sum(1).mean()),
                "induced": odds(log_p(added, minus_held)),
            }
    return found


def test_the_direction_is_the_best_of_all_that_pass() -> None:
    """Blocks 1 and 2 of three: before block 0 all prompts have the same tokens there. Limits then rule the best ones out."""
    model = untied(layers=3)
    known = candidates(model)
    for kl, induced in [
        (1e9, -1e9),
        *((one["kl"], -1e9) for one in known.values()),
        *((1e9, one["induced"]) for one in known.values()),
    ]:
        passing = [place for place, one in known.items() if one["kl"] < kl * (1 - 1e-4) and one["induced"] > induced + 1e-4]
        isolation = Direction(depth=1.0, begins=0.5, kl=kl * (1 - 1e-4), induced=induced + 1e-4)
        if not passing:
            with pytest.raises(BrittleError, match="none of 6 directions changes the next token after 'utility' by less than"):
                found_by(model, isolation)
            continue
        block, position = min(passing, key=lambda place: known[place]["odds"])
        _, notes = found_by(model, isolation)
        assert notes[0] == "6 directions tried on 2 prompts of safety, 2 prompts of utility"
        assert notes[1].startswith(f"direction of block {block} at position {position}, ")
        assert float(notes[1].rpartition(" ")[2]) == pytest.approx(known[block, position]["odds"], abs=0.006)


def test_the_region_takes_the_direction_out_of_all_writers() -> None:
    model = untied(layers=3)
    region, notes = found_by(model, Direction(block=2, position=-1))
    means = [torch.stack([at(model, one, 2, -1) for one in DATA[name]]).mean(0) for name in DATA]
    direction = ((means[0] - means[1]) / (means[0] - means[1]).norm()).float()
    assert notes == ["direction of block 2 at position -1", "left out, where the direction is still written: the embeddings"]
    assert list(region) == list(reader(model).writers) and region.ranks == 6
    before = {address.name: address.view(model).clone() for address in find_weights(model)[0]}
    with edit(model, region, Ablate()):
        for address in find_weights(model)[0]:
            wanted = before[address.name]
            if address.name in region:
                wanted = wanted - torch.outer(direction, direction @ wanted)
            assert torch.allclose(address.view(model), wanted, atol=1e-5)


def test_its_control_is_one_random_direction() -> None:
    model = untied(layers=3)
    region, _ = found_by(model, Direction(block=2, position=-1))
    controls = [
        matched_control("random", region, model, find_weights(model)[0], torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    ]
    bases = [[part.basis() for part in control.values() if isinstance(part, Projector)] for control in controls]
    assert list(controls[0]) == list(region) and controls[0].ranks == region.ranks
    assert all(torch.equal(basis, bases[0][0]) for basis in bases[0]) and bases[0][0].shape == (32, 1)
    assert torch.equal(bases[0][0], bases[1][0]) and not torch.allclose(bases[0][0], bases[2][0])


class Wrong(ModelAttribution):
    def __init__(self, given: object) -> None:
        self.given = given

    def attribute(self, reader: Reader, behaviour: str) -> HiddenStates:
        return self.given  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("isolation", "data", "said"),
    [
        (Direction(), {name: known[:9] for name, known in DATA.items()}, None),
        (
            Direction(),
            {name: known[:8] for name, known in DATA.items()},
            "got 8 of 'safety', 1 of them for validation: give more",
        ),
        (Direction(block=3, position=-1), DATA, "block=3,position=-1, expected a block up to 2 and a position from -3"),
        (Direction(block=0, position=-4), DATA, "block=0,position=-4, expected a block up to 2"),
        (Direction(), {"safety": DATA["safety"]}, "PromptStates needs examples of 'utility', but there are none"),
    ],
)
def test_what_a_direction_cannot_be_found_from(
    isolation: Direction, data: Mapping[str, Sequence[Example]], said: str | None
) -> None:
    if said is None:
        assert found_by(untied(layers=3), replace(isolation, kl=1e9, induced=-1e9), data)[0].ranks == 6
        return
    with pytest.raises(BrittleError, match=said):
        found_by(untied(layers=3), isolation, data)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (torch.zeros(3), "Wrong says that it gives hidden-states, but gave Tensor"),
        (HiddenStates(torch.full((1,), torch.nan)), "NaN"),
    ],
)
def test_states_that_are_none_are_refused(given: object, said: str) -> None:
    model = untied()
    addresses = find_weights(model)[0]
    with pytest.raises(BrittleError, match=said):
        find_whole(model, Wrong(given), Direction(), DATA, addresses, addresses, context(), Fingerprint(model), Pass(PAD))


def test_block_and_position_go_together() -> None:
    with pytest.raises(ValueError, match="block and position are given together"):
        Direction(block=3)


def test_the_recipe_from_command_to_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_checkpoint(tmp_path / "model")
    for name in DATA:
        lines = [{"prompt": f"please {name} number {n}", "response": f"the {name} answer is {n}"} for n in range(11)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    line = [
        *("--model_args", f"pretrained={tmp_path / 'model'},dtype=float32", "--device", "cpu", "--batch_size", "4"),
        *("--limit", "2", "--gen_kwargs", "max_gen_toks=2", "--tasks", TASKS, "--controls", "random:1,magnitude:1"),
        *(word for name in DATA for word in ("--behaviour", f"{name}={tmp_path / name}.jsonl")),
        *("--output_path", str(tmp_path / "run"), "--modify", "refusal-direction:kl=100,induced=-100,depth=1"),
    ]
    assert main(line) == 0
    found = rows(tmp_path / "run")
    assert [row["kind"] for row in found.values()] == ["unedited", "edited", "control"]
    assert [row["region"].get("ranks") for row in found.values()] == [None, 4, 4]
    assert len({row["fingerprint"] for row in found.values()}) == 3
    (plan,) = json.loads((tmp_path / "run" / "coverage.json").read_text())["plans"].values()
    said = capsys.readouterr().err
    assert len(plan["notes"]) == 3 and all(note in said for note in plan["notes"])
