"""Trainings that were interrupted: they end with the very bytes of one that was not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from brittle_eval.errors import BrittleError
from brittle_eval.tuning.checkpoint import Checkpoint
from brittle_eval.tuning.hold import Hold
from brittle_eval.tuning.train import Training, fine_tune
from brittle_eval.weights import Fingerprint, find_weights
from tests.models import PAD, examples, gpt2, llama, random_region

DATA = examples([(4, 6), (7, 3), (2, 9), (5, 5), (3, 3), (6, 4)], seed=6)
SETTINGS = Training(epochs=4, batch_size=2, learning_rate=1e-2, weight_decay=0.01)


class HaltError(Exception):
    """Raised in the middle."""


@pytest.fixture(params=[llama, gpt2])
def make(request: pytest.FixtureRequest) -> Callable[[], PreTrainedModel]:
    """One without and one with dropout."""
    return request.param  # type: ignore[no-any-return]


def train(make: Callable[[], PreTrainedModel], model: PreTrainedModel, folder: Path | None, halt: int = 0) -> list[float]:
    def on_step(step: int, steps: int, loss: float) -> None:
        if step == halt:
            raise HaltError

    hold = Hold(model, random_region(model, 0.3), "freeze", {a.name: a.view(make()) for a in find_weights(model)[0]})
    checkpoint = Checkpoint(folder, seconds=0) if folder else None
    return fine_tune(model, DATA, SETTINGS, PAD, on_step, hold, checkpoint)


def test_an_interrupted_training_ends_with_the_same_bytes(tmp_path: Path, make: Callable[[], PreTrainedModel]) -> None:
    whole, interrupted = make(), make()
    losses = train(make, whole, None)
    with pytest.raises(HaltError):
        train(make, interrupted, tmp_path, halt=5)
    torch.rand(3)
    again = make()
    assert train(make, again, tmp_path) == losses
    assert str(Fingerprint(again)) == str(Fingerprint(whole)) != str(Fingerprint(make()))
    assert (tmp_path / "checkpoint.safetensors").stat().st_mode & 0o077 == 0


def test_a_checkpoint_is_written_when_it_is_due(tmp_path: Path) -> None:
    fine_tune(llama(), DATA, SETTINGS, PAD, checkpoint=Checkpoint(tmp_path, seconds=1e6))
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HaltError):
        train(llama, llama(), tmp_path, halt=3)
    other = llama().requires_grad_(False)
    other.get_parameter("model.norm.weight").requires_grad_(True)
    with pytest.raises(BrittleError, match=r"of shape .* where .* trains; remove it"):
        fine_tune(other, DATA, SETTINGS, PAD, checkpoint=Checkpoint(tmp_path))


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.safetensors").write_bytes(b"12345678")
    with pytest.raises(BrittleError, match="cannot go on from"):
        fine_tune(llama(), DATA, SETTINGS, PAD, checkpoint=Checkpoint(tmp_path))


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: not enough memory")]
)
def test_out_of_memory_says_what_to_lower(error: Exception) -> None:
    def loss_of(model: PreTrainedModel, batch: object) -> torch.Tensor:
        raise error

    with pytest.raises(BrittleError, match="out of memory at step 1 of 12 of the training: lower the batch size"):
        fine_tune(llama(), DATA, SETTINGS, PAD, loss_of=loss_of)


def test_another_error_is_a_bug_and_keeps_its_traceback() -> None:
    def loss_of(model: PreTrainedModel, batch: object) -> torch.Tensor:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        fine_tune(llama(), DATA, SETTINGS, PAD, loss_of=loss_of)
