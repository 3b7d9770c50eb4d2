"""Fine-tuning, in full or by LoRA, around a region, inside it, or freely."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Interval

from brittle_eval import BrittleError, Checkpoint, Hold, Modification, Share, Training, fine_tune
from brittle_plugins.few_tokens_deep import few_tokens_deep

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from brittle_eval import Context, Region, Tuning

Count = Annotated[int, Interval(ge=1)]
Rank = Annotated[int, Interval(ge=0)]
Positive = Annotated[float, Interval(gt=0)]
NotNegative = Annotated[float, Interval(ge=0)]


@dataclass(frozen=True)
class Finetune(Modification):
    """`W + ΔW` by AdamW on `n` pairs of the behaviour `on`; `region`: `ΔW ← ΔW − P(ΔW)` (freeze), `P(ΔW)` (train-only), or none.

    P is the orthogonal projector onto what the region acts on, a mask itself; it is applied after every step of the optimiser,
    weight decay included. `lora-rank` 0 trains in full: all parameters, or with `weights=blocks` the linear weights of the
    blocks. Above 0 it is the rank of LoRA pairs B A on these linear weights (scale `lora-alpha` / rank); their effective update
    is `BA − P(BA)` in every forward pass of the training and where they are merged. `opening` weights a response's first four
    tokens; `loss=few-tokens-deep` holds its first five near the model before the training instead. `warmup` is a share of the
    steps. `stop` ends after so many steps of the same course, 0 at its end. `seed`, added to the run's, draws pairs, their
    order, and LoRA's start.

    BrittleError where nothing is left to train, for fewer pairs than `n`, a `stop` behind the end, and a loss that is no number.
    """

    on: str = "harmful"
    n: Count = 100
    epochs: Count = 5
    lr: Positive = 1e-4
    batch: Count = 10
    lora_rank: Rank = 0
    lora_alpha: Positive = 16.0
    region: Literal["freeze", "train-only", "none"] = "none"
    weights: Literal["all", "blocks"] = "all"
    weight_decay: NotNegative = 0.0
    warmup: Share = 0.05
    opening: Positive = 1.0
    loss: Literal["mean", "few-tokens-deep"] = "mean"
    stop: Rank = 0
    seed: Rank = 0

    def __post_init__(self) -> None:
        if self.stop > self.steps:
            raise ValueError(f"stop={self.stop}, and n={self.n}, batch={self.batch}, epochs={self.epochs} are {self.steps} steps")
        if self.loss != "mean" and self.opening != 1:
            raise ValueError(f"opening={self.opening:g} weights the tokens of loss=mean; give one of the two")

    @property
    def steps(self) -> int:
        """Of its whole course."""
        return self.epochs * -(-self.n // self.batch)

    @property
    def asks_region(self) -> bool:
        return self.region != "none"

    @property
    def attack(self) -> Finetune:
        return replace(self, region="none", loss="mean")

    @property
    def course(self) -> Finetune:
        return replace(self, stop=0)

    def apply(self, model: PreTrainedModel, region: Region, context: Context) -> Mapping[str, Any]:
        tuning = context.tuning
        assert tuning is not None
        if self.lora_rank or self.weights == "blocks":
            model.requires_grad_(False)
            for name in tuning.start:
                model.get_parameter(name.partition("[")[0]).requires_grad_(True)
        hold = Hold(model, region, self.region, tuning.start)
        if not any(value.requires_grad for value in model.parameters()):
            raise BrittleError(f"no weight is left to train: the region holds all of them; lower q, or give region=none ({self})")
        examples = tuning.examples(self.on, self.n, tuning.seed + self.seed)
        if self.lora_rank:
            with adapted(model, self, hold, tuning) as merge:
                losses = self._train(model, examples, tuning, None)
                merge()
        else:
            losses = self._train(model, examples, tuning, hold)
        return {"losses": [losses[0], losses[-1]], "steps": len(losses)}

    def _train(self, model: PreTrainedModel, examples: Sequence[Any], tuning: Tuning, hold: Hold | None) -> list[float]:
        settings = Training(
            epochs=self.epochs,
            batch_size=self.batch,
            learning_rate=self.lr,
            warmup=self.warmup,
            weight_decay=self.weight_decay,
            opening=self.opening,
            seed=tuning.seed + self.seed,
        )
        loss_of = few_tokens_deep(model, examples, tuning.pad_id) if self.loss == "few-tokens-deep" else None
        kept = Checkpoint(tuning.folder)
        with tuning.progress(f"fine-tuning on {self.on}", self.stop or self.steps) as advance:

            def step(*_: object) -> None:
                advance(1)

            return fine_tune(model, examples, settings, tuning.pad_id, step, hold, kept, loss_of, self.stop or None)


@contextmanager
def adapted(model: PreTrainedModel, settings: Finetune, hold: Hold, tuning: Tuning) -> Iterator[Any]:
    """The model with LoRA pairs on the linear weights that still train, and nothing else training; gives what merges them.

    A forward hook takes from a layer's output what the rule takes of its update, `x P(BA)ᵀ`; forming BA costs a product of the
    weight's size. Fused experts are no linear modules and stay as they are.
    """
    import torch
    from peft import get_peft_model

    names = [name for name in tuning.start if not name.endswith("]") and model.get_parameter(name).requires_grad]
    modules = [name.removesuffix(".weight") for name in names]
    if not modules:
        raise BrittleError("no weight is left to train: no linear weight is outside the region; lower q, or give lora-rank=0")
    with torch.random.fork_rng():
        torch.manual_seed(tuning.seed + settings.seed)
        pairs = get_peft_model(model, _config(model, modules, settings))
    layers = {name: model.get_submodule(module) for name, module in zip(names, modules, strict=True)}
    handles = [layer.register_forward_hook(partial(_held, hold, name)) for name, layer in layers.items()]

    def merge() -> None:
        changes = {name: _change(layer).detach() for name, layer in layers.items()}
        pairs.unload()
        for name, change in changes.items():
            hold.put(name, change)

    try:
        yield merge
    finally:
        for handle in handles:
            handle.remove()
        pairs.unload()


def _config(model: PreTrainedModel, modules: Sequence[str], settings: Finetune) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,  # type: ignore[arg-type]  # peft divides it by the rank
        target_modules=list(modules),
        fan_in_fan_out=any(type(model.get_submodule(module)).__name__ == "Conv1D" for module in modules),
    )


def _change(layer: Any) -> Tensor:
    """`α/r · B A`, (out, in)."""
    change: Tensor = layer.lora_B["default"].weight @ layer.lora_A["default"].weight * layer.scaling["default"]
    return change


def _held(hold: Hold, name: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    lost = hold.lost(name, _change(layer))
    return output if lost is None else output - inputs[0] @ lost.T.to(output.dtype)
