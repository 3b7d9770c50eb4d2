"""Recipes that act while the model runs: what `contrast` finds against a loop, ablation by hooks against weights, whole runs."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from brittle_eval import BrittleError, HiddenStates, Region, Streams
from brittle_eval.behaviour.calibration import Example
from brittle_eval.cli import main
from brittle_eval.engine.attribute import Pass
from brittle_eval.engine.isolate import checked
from brittle_eval.engine.reader import ModelReader
from brittle_eval.engine.steering import steered
from brittle_eval.engine.whole_model import find_whole
from brittle_eval.store import load_region, region_digest, save_region
from brittle_eval.tuning.trained import applied
from brittle_eval.weights import Fingerprint, find_weights
from brittle_plugins.ablate import Ablate
from brittle_plugins.ablate_stream import AblateStream
from brittle_plugins.add import Add
from brittle_plugins.contrast import Contrast
from brittle_plugins.direction import Direction
from brittle_plugins.prompt_states import PromptStates
from tests.models import PAD, biased, context, save_checkpoint, untied
from tests.test_direction import DATA, log_p, orthogonal
from tests.test_run import rows

SURE = (44, 45)
WITH_SURE = PromptStates(1, "Sure")


TOLD = {
    name: [Example((*one.ids[: one.start - 1], *(word, word, word), *one.ids[one.start - 1 :]), one.start + 3) for one in own]
    for (name, own), word in zip(DATA.items(), (200, 250), strict=True)
}
"""Prompts with a word before their last token that says which behaviour they are of."""


def how() -> Pass:
    return Pass(PAD, 4, tokens=lambda text: {"Sure": SURE}[text])


def found_by(
    model: PreTrainedModel, isolation: Any, data: Any = DATA, states: PromptStates = WITH_SURE
) -> tuple[Region, list[str]]:
    addresses, notes = find_weights(model)[0], list[str]()
    noted = replace(context(), note=notes.append)
    return find_whole(model, states, isolation, data, addresses, addresses, noted, Fingerprint(model), how()), notes


def at(model: PreTrainedModel, one: Example) -> Tensor:
    """(blocks + 1, 1 + behind, width): one prompt with the text behind it, by itself."""
    caught: list[Tensor] = []
    handles = [block.register_forward_hook(lambda _, args, out: caught.append(out)) for block in model.model.layers]
    with torch.no_grad():
        ids = torch.tensor([[*one.ids[: one.start], *SURE]])
        entered = model(input_ids=ids, output_hidden_states=True).hidden_states[0]
    for handle in handles:
        handle.remove()
    streams = [entered, *(out if isinstance(out, Tensor) else out[0] for out in caught)]
    return torch.stack([stream[0, one.start - 1 :] for stream in streams]).double()


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def test_what_is_behind_a_prompt_is_read_behind_it() -> None:
    model = untied(layers=3)
    reader = ModelReader(model, DATA, find_weights(model)[0], find_weights(model)[0], how())
    found = PromptStates(positions=2, behind="Sure").attribute(reader, "safety")
    assert found.behind == SURE and found.values.shape[2] == 4 and found.prompts.shape[2] == 2
    for number, one in enumerate(DATA["safety"]):
        assert torch.allclose(found.values[:, number, 1:], at(model, one).float(), atol=1e-4)
    assert torch.allclose(found.prompts, PromptStates(positions=2).attribute(reader, "safety").values, atol=1e-4)


def test_directions_reference_and_threshold_are_those_of_a_loop() -> None:
    model = untied(layers=4)
    one, other = ([at(model, example) for example in TOLD[name]] for name in ("safety", "utility"))
    region, notes = found_by(model, Contrast(first=1, last=2), TOLD)
    assert region.streams is not None and not region and region.streams.behind == SURE
    assert region.streams.places == [2, 3]
    for place in (2, 3):
        difference = sum(h[place, 0] for h in one) / len(one) - sum(h[place, 0] for h in other) / len(other)
        assert torch.allclose(region.streams.along[place], (difference / difference.norm()).float(), atol=1e-4)

    def similarity(h: Tensor, others: Sequence[Tensor]) -> float:
        total = 0.0
        for block in (1, 2, 3):
            reference = sum(o[block + 1, 0] - o[block + 1, -1] for o in others) / len(others)
            total += cosine(h[block + 1, 0] - h[block + 1, -1], reference)  # type: ignore[arg-type]
        return total / 3

    of = [similarity(h, [o for o in one if o is not h]) for h in one]
    minus = [similarity(h, one) for h in other]
    threshold = (sum(of) / len(of) + sum(minus) / len(minus)) / 2
    assert float(region.streams.known["threshold"]) == pytest.approx(threshold, abs=1e-4)
    right = sum(value >= threshold for value in of), sum(value < threshold for value in minus)
    assert f"tells {right[0]} of {len(of)} prompts of safety and {right[1]} of {len(minus)} of utility right" in notes[1]


def without_embeddings(model: PreTrainedModel, direction: Tensor) -> PreTrainedModel:
    """A copy whose embeddings have no part along the direction."""
    made = copy.deepcopy(model)
    with torch.no_grad():
        made.get_input_embeddings().weight.copy_(orthogonal(model, direction).get_input_embeddings().weight)
    return made


def steered_log_p(model: PreTrainedModel, region: Region, *chain: Any) -> Tensor:
    with applied(model, find_weights(model)[0], region, chain, context(), Fingerprint(model)):
        return log_p(model, DATA["safety"])


def test_ablation_by_hooks_is_orthogonalisation_where_nothing_else_writes() -> None:
    """Equal where embeddings have no part along r and there are no biases; else what these write makes the difference."""
    model = untied(layers=3)
    region, _ = found_by(model, Direction(block=2, position=-1), states=PromptStates(1))
    assert region.streams is not None and region.streams.places == [2]
    clean = without_embeddings(model, region.streams.only)
    by_weights, by_hooks = steered_log_p(clean, region, Ablate()), steered_log_p(clean, region, AblateStream())
    assert torch.allclose(by_weights, by_hooks, atol=1e-4)
    assert not torch.allclose(by_hooks, log_p(clean, DATA["safety"]), atol=1e-2)
    assert torch.allclose(steered_log_p(model, region, AblateStream()), by_hooks, atol=1e-4)
    assert not torch.allclose(steered_log_p(model, region, Ablate()), by_hooks, atol=1e-2)
    with_biases = without_embeddings(biased(), region.streams.only)
    two = Region({name: part for name, part in region.items() if ".2." not in name}, Streams.single(2, 1, region.streams.only))
    assert not torch.allclose(
        steered_log_p(with_biases, two, Ablate()), steered_log_p(with_biases, two, AblateStream()), atol=1e-2
    )


@pytest.mark.parametrize("alpha", [1.0, -0.5])
def test_adding_the_direction_is_a_bias_of_the_block_before(alpha: float) -> None:
    model = untied(layers=3)
    region, _ = found_by(model, Direction(block=2, position=-1), states=PromptStates(1))
    assert region.streams is not None
    changed = copy.deepcopy(model)
    changed.model.layers[1].mlp.down_proj.bias = torch.nn.Parameter(alpha * region.streams.along[2])
    assert torch.allclose(steered_log_p(model, region, Add(alpha=alpha)), log_p(changed, DATA["safety"]), atol=1e-4)


def test_directions_lie_in_the_region_file(tmp_path: Path) -> None:
    known = {"threshold": torch.tensor(0.25), "reference": torch.randn(2, 32)}
    region = Region({}, Streams(torch.randn(3, 32), SURE, known))
    save_region(tmp_path / "one.safetensors", region, {"fingerprint": "x"})
    found, _ = load_region(tmp_path / "one.safetensors", "x")
    assert found.streams is not None and region.streams is not None
    assert torch.equal(found.streams.along, region.streams.along) and found.streams.behind == SURE
    assert all(torch.equal(found.streams.known[name], value) for name, value in known.items())
    assert region_digest(found) == region_digest(region) != region_digest(Region({}, Streams(region.streams.along, SURE)))


@pytest.mark.parametrize(
    ("isolation", "states", "count", "said"),
    [
        (Contrast(first=0, last=1), PromptStates(1, "Sure"), 7, "means over 8 prompts or more, and got 7 of 'safety'"),
        (Contrast(first=1, last=3), PromptStates(1, "Sure"), 14, "contrast has first=1,last=3, expected blocks up to 2"),
        (Contrast(first=0, last=1), PromptStates(1), 14, "compares the prompt's end with a text behind it: give prompt-states"),
    ],
)
def test_what_no_contrast_can_be_found_from(isolation: Contrast, states: PromptStates, count: int, said: str) -> None:
    data = {name: known[:count] for name, known in DATA.items()}
    with pytest.raises(BrittleError, match=said):
        found_by(untied(layers=3), isolation, data, states)
    with pytest.raises(ValueError, match="first=3 is behind last=2"):
        Contrast(first=3, last=2)


def test_prompts_that_cannot_be_told_apart() -> None:
    """The examples of `of` point everywhere, those of `minus` all to where their mean does."""
    torch.manual_seed(0)
    spread = torch.zeros(3, 8, 2, 4)
    spread[:, :, 0] = torch.cat([torch.eye(4), -torch.eye(4)]) * 5 + torch.tensor([0.1, 0, 0, 0])
    same = torch.zeros(3, 8, 2, 4)
    same[:, :, 0] = torch.tensor([1.0, 0, 0, 0])
    scores = {"safety": HiddenStates(spread, (9,)), "utility": HiddenStates(same, (9,))}

    class Two:
        blocks = 2

    with pytest.raises(BrittleError, match=r"prompts of 'safety' are no more similar .* cannot be told apart"):
        Contrast(first=0, last=1).isolate(scores, replace(context(), reader=lambda: Two()))  # type: ignore[arg-type,return-value]


def test_a_region_without_weights_or_directions_is_empty() -> None:
    with pytest.raises(BrittleError, match="is empty"):
        checked(Region({}, Streams(torch.zeros(3, 4))), [], Contrast())


def given(tmp_path: Path, tasks: str, *more: str) -> list[str]:
    if not (tmp_path / "model").exists():
        save_checkpoint(tmp_path / "model")
        for name in DATA:
            lines = [{"prompt": f"please {name} number {n}", "response": f"the {name} answer is {n}"} for n in range(11)]
            (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return [
        *("--model_args", f"pretrained={tmp_path / 'model'},dtype=float32", "--device", "cpu", "--batch_size", "4"),
        *("--limit", "2", "--gen_kwargs", "max_gen_toks=4", "--tasks", tasks),
        *(word for name in DATA for word in ("--behaviour", f"{name}={tmp_path / name}.jsonl")),
        *more,
    ]


SCANS = "scans:first=0,last=1,alpha=2"


def test_the_recipe_from_command_to_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Generated, likelihood and measured tasks; the unsteered model's answers, edits and controls never mix."""
    run = tmp_path / "run"
    plans = ("--modify", SCANS, "--modify", f"{SCANS},tau=-1", "--modify", "prompt-states+direction+add:block=1,position=-1")
    tasks = "embedded_harmful,embedded_choice,embedded_kl"
    assert main(given(tmp_path, tasks, *plans, "--controls", "random:1", "--output_path", str(run))) == 0
    found = rows(run)
    assert [row["kind"] for row in found.values()] == ["unedited", *["edited", "control"] * 3]
    assert len({row["fingerprint"] for row in found.values()}) == 7
    assert [row["region"].get("directions") for row in found.values()] == [None, 2, 2, 2, 2, 1, 1]
    divergence = [task["values"]["value"] for row in found.values() for task in row["tasks"] if task["task"] == "embedded_kl"]
    assert divergence[0] == pytest.approx(0, abs=1e-4) and all(value > 1e-3 for value in divergence[1:])
    said = capsys.readouterr().err
    assert "region of directions at 2 places of the residual stream" in said and "threshold τ" in said
    before = (run / "rows.jsonl").read_text()
    assert main(given(tmp_path, tasks, *plans, "--controls", "random:1", "--output_path", str(run))) == 0
    assert (run / "rows.jsonl").read_text() == before
    assert main(["export", f"{run}:{list(found)[1]}", "--output", str(tmp_path / "out")]) == 2
    assert "acts while the model runs and changes no weights: nothing to export" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("plan", "more", "said"),
    [
        (SCANS, ("--model", "hf-checkpoint"), "acts while the model runs, and --model hf-checkpoint runs a checkpoint, which"),
        ("wanda+top+steer:q=0.1", (), "'steer' needs directions of the residual stream, and isolation 'top' gives weights: use "),
        ("add", (), "'add' needs directions of the residual stream, and a plan without an isolation has weights: use one of "),
        ("scans+ablate", (), "'ablate' needs weights, and isolation 'contrast' gives directions: use one of band, bottom"),
        ("refusal-direction+add+ablate", (), "has 'ablate', which changes weights, behind 'add', .* write ablate.add"),
        (SCANS + ",last=2", (), "gives the option 'last' twice"),
        ("scans:first=0,last=7", (), "contrast has first=0,last=7, expected blocks up to 1"),
        ("scans:first=3,last=2", (), "first=3 is behind last=2"),
        ("scans:tau=2", (), "option tau of steer: '2' was given, expected"),
        (SCANS, ("--tasks", "wikitext2_token_ppl"), "steers by what prompts say, and wikitext2_token_ppl has no prompts"),
    ],
)
def test_what_cannot_be_steered_is_said_in_one_line(
    plan: str, more: Sequence[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = given(
        tmp_path, "embedded_harmful", "--controls", "none", "--modify", plan, *more, "--output_path", str(tmp_path / "r")
    )
    assert main(asked) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(said, error), error


def test_steering_leaves_nothing_behind() -> None:
    model = untied(layers=3)
    region, _ = found_by(model, Direction(block=2, position=-1), states=PromptStates(1))
    before = log_p(model, DATA["safety"])
    with steered(model, find_weights(model)[0], region, [AblateStream(), Add()], Fingerprint(model)):
        assert not torch.allclose(log_p(model, DATA["safety"]), before, atol=1e-2)
    assert torch.equal(log_p(model, DATA["safety"]), before)
