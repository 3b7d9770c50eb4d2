"""Addresses, coverage and fingerprints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from brittle_eval.engine.isolate import whole_region
from brittle_eval.errors import BrittleError
from brittle_eval.weights import Fingerprint, checksum, decoder_blocks, digest, find_weights
from brittle_plugins.ablate import Ablate
from tests.editing import edit
from tests.models import MODELS, VOCABULARY, gpt2, llama, save_checkpoint, untied

ALL = pytest.mark.parametrize("name", MODELS)
LINEARS = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
]


def test_the_weights_of_a_llama() -> None:
    addresses, coverage = find_weights(llama())
    assert [(a.name, a.block) for a in addresses] == [
        (f"model.layers.{b}.{linear}.weight", b) for b in range(2) for linear in LINEARS
    ]
    assert [a.module for a in addresses] == [a.name.removesuffix(".weight") for a in addresses]
    assert not any(address.transposed for address in addresses)
    assert coverage.editable == 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 48 * 32)
    assert coverage.total == coverage.editable + VOCABULARY * 32 + 5 * 32
    assert coverage.share == 1.0
    assert {(name.split(".", 3)[-1], size, reason) for name, size, reason in coverage.skipped} == {
        ("input_layernorm.weight", 32, "a vector"),
        ("post_attention_layernorm.weight", 32, "a vector"),
    }


@ALL
def test_a_view_is_what_the_module_multiplies_with(name: str) -> None:
    model = MODELS[name]()
    addresses, coverage = find_weights(model)
    linear = {
        n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D) and m is not model.get_output_embeddings()
    }
    assert {address.module for address in addresses} == linear.keys()
    for address in addresses:
        module, view = linear[address.module], address.view(model)
        inputs = torch.eye(view.shape[1])
        bias = module.bias if module.bias is not None else torch.zeros(())
        torch.testing.assert_close(module(inputs) - bias, view.T, rtol=1e-4, atol=1e-5)
        view[0, 0] = 77.0
        assert module.weight[0, 0] == 77.0
    in_blocks = sum(value.numel() for _, block in decoder_blocks(model) for value in block.parameters())
    assert coverage.editable + sum(size for _, size, _ in coverage.skipped) == in_blocks


def test_blocks_are_the_decoders_own_and_not_the_longest_list() -> None:
    model = llama()
    model.vision = nn.ModuleList([nn.Linear(4, 4) for _ in range(12)])
    model.model.extra = nn.ModuleList([nn.Linear(4, 4) for _ in range(5)])
    assert [name for name, _ in decoder_blocks(model)] == ["model.layers.0", "model.layers.1"]
    assert all(address.name.startswith("model.layers.") for address in find_weights(model)[0])


@pytest.mark.parametrize(
    "change",
    [
        lambda model: setattr(model.model, "extra", nn.ModuleList([nn.Linear(4, 4)] * 2)),
        lambda model: model.model.layers.append(nn.Linear(4, 4)),
    ],
)
def test_blocks_that_cannot_be_told_are_an_error(change: Callable[[PreTrainedModel], object]) -> None:
    model = llama()
    change(model)
    with pytest.raises(BrittleError, match="cannot tell the decoder blocks of LlamaForCausalLM: expected one list of 2 blocks"):
        find_weights(model)


class Packed(nn.Module):
    """As some quantised linears are: buffers and no parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("qweight", torch.zeros(4, 4, dtype=torch.int32))


def each_linear(model: PreTrainedModel, change: Callable[[nn.Module, str, nn.Linear], None]) -> None:
    for address in find_weights(model)[0]:
        parent, _, name = address.module.rpartition(".")
        change(model.get_submodule(parent), name, model.get_submodule(address.module))  # type: ignore[arg-type]


def set_weight(dtype: torch.dtype, device: str = "cpu") -> Callable[[nn.Module, str, nn.Linear], None]:
    def change(parent: nn.Module, name: str, linear: nn.Linear) -> None:
        linear.weight = nn.Parameter(torch.zeros(linear.weight.shape, dtype=dtype, device=device), requires_grad=False)

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (set_weight(torch.int8), r"quantised \(int8\)"),
        (set_weight(torch.uint8), r"quantised \(uint8\)"),
        (set_weight(torch.float8_e4m3fn), r"quantised \(float8_e4m3fn\)"),
        (set_weight(torch.float32, "meta"), "offloaded"),
        (lambda parent, name, linear: setattr(parent, name, Packed()), "no linear weights found"),
    ],
)
def test_a_model_whose_weights_cannot_be_edited_is_refused(
    change: Callable[[nn.Module, str, nn.Linear], None], said: str
) -> None:
    model = llama()
    each_linear(model, change)
    with pytest.raises(
        BrittleError, match=f"only 0% of the block weights of LlamaForCausalLM can be edited \\({said}\\)"
    ) as caught:
        find_weights(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("side", "refused"), [(20, False), (40, True)])
def test_a_little_that_cannot_be_edited_is_reported(side: int, refused: bool) -> None:
    """The blocks have 15 360 editable entries: 800 others are 5 %, 3 200 are 17 %."""
    model = llama()
    for block in model.model.layers:
        block.experts = nn.Parameter(torch.zeros(1, side, side))
    if refused:
        with pytest.raises(BrittleError, match=r"only 83% .*\(not a linear weight \(3-D\)\)"):
            find_weights(model)
    else:
        addresses, coverage = find_weights(model)
        assert len(addresses) == 14 and coverage.share == pytest.approx(15360 / 16160)
        assert ("model.layers.1.experts", 400, "not a linear weight (3-D)") in coverage.skipped


def test_a_weight_that_blocks_share_is_edited_once() -> None:
    model = llama()
    first, second = (block.mlp for block in model.model.layers)
    second.up_proj.weight = first.up_proj.weight
    second.down_proj = first.down_proj
    addresses, coverage = find_weights(model)
    assert len(addresses) == 12 == len({id(address.parameter(model)) for address in addresses})
    assert coverage.editable == 15360 - 2 * 48 * 32
    assert Fingerprint(model).part(addresses[-1].name)


@pytest.mark.parametrize("make", [llama, gpt2])
def test_a_tied_head_lies_outside_and_keeps_its_bytes(make: Callable[[], PreTrainedModel]) -> None:
    model = make()
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    assert isinstance(head, nn.Linear) and head.weight is embeddings.weight
    addresses, coverage = find_weights(model)
    assert id(head.weight) not in {id(address.parameter(model)) for address in addresses}
    name = next(name for name, value in model.named_parameters() if value is head.weight)
    assert (name, head.weight.numel()) in coverage.outside
    kept = head.weight.detach().clone()
    with edit(model, whole_region(model, addresses), Ablate()):
        assert torch.equal(head.weight, kept) and head.weight is embeddings.weight
        assert not any(bool(address.view(model).any()) for address in addresses)


@pytest.mark.parametrize("of", [digest, checksum])
@given(st.sampled_from([torch.float32, torch.bfloat16, torch.int8, torch.bool]), st.integers(0, 3), st.integers(0, 3))
def test_digests_tell_content_dtype_and_shape(of: Callable[[Tensor], str], dtype: torch.dtype, rows: int, columns: int) -> None:
    value = torch.ones(rows, columns).to(dtype)
    assert of(value) == of(value.clone()) == of(value.T.contiguous().T)
    others: list[Tensor] = [value.to(torch.float64), value[None]]
    if value.numel():
        changed = value.clone()
        changed[-1, -1] = 0
        others.append(changed)
    assert of(value) not in [of(other) for other in others]
    assert of(torch.tensor(-0.0)) != of(torch.tensor(0.0))


@ALL
def test_a_fingerprint_changes_with_a_weight_and_comes_back(name: str) -> None:
    model = MODELS[name]()
    fingerprint = Fingerprint(model)
    known = str(fingerprint)
    assert known == str(Fingerprint(MODELS[name]()))
    address = find_weights(model)[0][3]
    part = fingerprint.part(address.name)
    address.view(model)[1, 2] += 1
    assert str(fingerprint) == known
    fingerprint.refresh([address.name])
    assert str(fingerprint) == str(Fingerprint(model)) != known
    assert fingerprint.part(address.name) != part
    address.view(model).copy_(address.view(MODELS[name]()))
    fingerprint.refresh([address.name])
    assert str(fingerprint) == known


@pytest.mark.parametrize(
    "change", [lambda m: m.bfloat16(), lambda m: m.model.norm.weight.data.mul_(2), lambda m: m.model.rotary_emb.inv_freq.mul_(2)]
)
def test_a_fingerprint_sees_dtype_norms_and_buffers(change: Callable[[PreTrainedModel], object]) -> None:
    model = llama()
    known = str(Fingerprint(model))
    change(model)
    assert str(Fingerprint(model)) != known


def test_a_saved_checkpoint_loads_with_the_same_fingerprint(tmp_path: Path) -> None:
    save_checkpoint(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert str(Fingerprint(loaded)) == str(Fingerprint(untied()))


def test_conv1d_is_seen_transposed() -> None:
    model = gpt2()
    shapes = {address.name.split(".", 3)[-1]: tuple(address.view(model).shape) for address in find_weights(model)[0]}
    assert all(address.transposed for address in find_weights(model)[0])
    assert shapes == {
        "attn.c_attn.weight": (96, 32),
        "attn.c_proj.weight": (32, 32),
        "mlp.c_fc.weight": (128, 32),
        "mlp.c_proj.weight": (32, 128),
    }
