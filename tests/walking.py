"""Models that cannot be walked from block to block, and how often blocks run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from brittle_eval.weights import decoder_blocks


@contextmanager
def counted_calls(model: PreTrainedModel) -> Iterator[list[int]]:
    """How often each block's forward ran."""
    blocks = [block for _, block in decoder_blocks(model)]
    calls = [0] * len(blocks)

    def count(number: int) -> Any:
        def hook(module: nn.Module, args: Any) -> None:
            calls[number] += "forward" not in module.__dict__  # a stub is no call

        return hook

    handles = [block.register_forward_pre_hook(count(number)) for number, block in enumerate(blocks)]
    yield calls
    for handle in handles:
        handle.remove()


def leaning(model: PreTrainedModel) -> None:
    """The second block adds what the decoder computed at the start of the pass, and cannot be called outside one."""
    block, decoder = model.model.layers[1], model.get_decoder()
    plain, lent = block.forward, list[Tensor]()

    def forward(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        return plain(hidden + lent[0], *args, **kwargs)

    block.forward = forward
    decoder.register_forward_pre_hook(
        lambda module, args, kwargs: lent.append(kwargs["input_ids"].float().mean()), with_kwargs=True
    )
    decoder.register_forward_hook(lambda module, args, output: lent.clear())
