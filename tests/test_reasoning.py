"""The reasoning-direction probe against plain passes, what it counts, and as a measure of a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from brittle_eval.cli import main
from brittle_eval.evaluation.reasoning import direction, distances
from brittle_eval.weights import decoder_blocks
from tests.models import MODELS, PAD, examples
from tests.test_run import arguments, checkpoint, rows, task

__all__ = ["arguments", "checkpoint"]  # fixtures

PROMPTS = [list(example.ids) for example in examples([(4, 3), (9, 1), (2, 2), (6, 6)], 3)]
OPENING = [7, 9, 11]


def behind(model: PreTrainedModel, ids: list[int]) -> list[Tensor]:
    """The last token's state behind every block."""
    caught: list[Tensor] = []
    handles = [
        block.register_forward_hook(lambda _, args, out: caught.append(out if isinstance(out, Tensor) else out[0]))
        for _, block in decoder_blocks(model)
    ]
    with torch.no_grad():
        model(input_ids=torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    return [stream.reshape(-1, 32)[-1].double() for stream in caught]


@pytest.mark.parametrize("name", MODELS)
def test_distances_are_those_of_plain_passes(name: str) -> None:
    model = MODELS[name]()
    found = distances(model, PROMPTS, OPENING, PAD, 3)
    for number, prompt in enumerate(PROMPTS):
        for block, (one, two) in enumerate(zip(behind(model, prompt), behind(model, prompt + OPENING), strict=True)):
            expected = 1 - float(one @ two / (one.norm() * two.norm()))
            assert float(found[block, number]) == pytest.approx(expected, abs=1e-4)


def test_the_share_of_blocks_that_are_nearer_to_a_refusal() -> None:
    refusal = torch.tensor([[0.1, 0.2, 0.3], [0.5, 0.1, 0.1]])
    compliance = torch.tensor([[0.2, 0.2, 0.1], [0.6, 0.3, 0.0]])
    items, values = direction(refusal, compliance)
    assert items == [1.0, 0.5, 0.0] and values["value"] == pytest.approx(0.5), "the same distance is not nearer"
    assert values["refusal"] == pytest.approx([0.2, 0.7 / 3]) and values["compliance"] == pytest.approx([0.5 / 3, 0.3])


def test_a_measure_of_every_row(arguments: list[str], tmp_path: Path) -> None:
    arguments[arguments.index("--tasks") + 1] = "embedded_reasoning"
    assert main([*arguments, "--controls", "none", "--modify", "random+top+ablate:q=0.5"]) == 0
    before, after = (task(row, "embedded_reasoning") for row in rows(tmp_path / "run").values())
    for found in (before, after):
        assert found["role"] == "measure" and found["n"] == 3 == len(found["items"])
        assert found["values"]["value"] == pytest.approx(sum(found["items"]) / 3)
        nearer = [one < two for one, two in zip(found["values"]["refusal"], found["values"]["compliance"], strict=True)]
        assert len(nearer) == 2
    assert before["values"]["refusal"] != after["values"]["refusal"]
