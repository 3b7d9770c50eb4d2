"""The contract of modifications that act while the model runs: hooks on the residual stream, in place of other weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from brittle_eval.methods import Modification

if TYPE_CHECKING:
    from torch import Tensor

    from brittle_eval.streams import Streams


class HookModification(Modification):
    """What is done to the residual stream while the model runs: `steer`, a pure function. The weights stay as they are.

    The driver puts the hooks in and takes them out, says which rows and positions a pass has, keeps each row's state with its
    cache, and makes options and directions a part of the model's fingerprint. It stands behind modifications of weights.

    One that defines `prepare` looks at each prompt first, and steers from the prompt's last token on. One that does not steers
    every position, and its `state` is None.
    """

    changes = "activations"
    everywhere: ClassVar[bool] = False
    """Whether it steers wherever the stream is written, by the region's one direction: what enters each block, what each known
    writer gives, and what leaves the last block. If not, at the places where the region has a direction.
    """

    @property
    def asks(self) -> bool:
        """Whether it looks at each prompt first."""
        return type(self).prepare is not HookModification.prepare

    def prepare(self, states: Tensor, streams: Streams) -> Tensor:
        """What it must know of each prompt, (rows, …), from the stream of a pass in which no such modification steers.

        `states` (blocks + 1, rows, 1 + tokens behind, width), float32, are what enters each block and leaves the last, at the
        prompt's last token and at the tokens `streams.behind` behind it. Rows are prompts, each by itself.
        """
        raise TypeError(f"{type(self).__name__} defines no prepare(states, streams)")

    def steer(self, stream: Tensor, direction: Tensor, state: Tensor | None) -> Tensor:
        """What takes the place of `stream` (rows, tokens, width), in the model's dtype; read it only.

        `direction` (width,), float32, is that of the place, and `state` (rows, …) what `prepare` gave of these rows. The driver
        casts, and leaves positions alone that are not steered.
        """
        raise TypeError(f"{type(self).__name__} defines no steer(stream, direction, state)")
