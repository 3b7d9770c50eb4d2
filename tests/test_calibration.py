"""Behaviours: from files to ids and masks; logits at positions; the check against evaluation prompts."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from brittle_eval.behaviour.calibration import (
    Example,
    Pair,
    collate,
    digest,
    drop_leaks,
    encode,
    input_device,
    logits_at,
    predicting,
    read_pairs,
)
from brittle_eval.errors import BrittleError
from tests.models import END, MODELS, PAD, examples, in_dtype, llama, tokenizer

CPU = torch.device("cpu")
EXAMPLES = st.lists(
    st.lists(st.integers(3, 300), min_size=1, max_size=9).flatmap(
        lambda ids: st.builds(Example, st.just(tuple(ids)), st.integers(0, len(ids)))
    ),
    min_size=1,
    max_size=5,
)
WORDS = st.lists(st.sampled_from(["how", "to", "bake", "a", "good", "cake", "with", "little"]), max_size=8)


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@given(st.lists(st.builds(Pair, st.text(), st.text()), max_size=6), st.booleans())
def test_pairs_come_back(pairs: list[Pair], plain: bool) -> None:
    kept = [pair for pair in pairs if pair.response.strip()]
    with TemporaryDirectory() as folder:
        lines = [json.dumps({"prompt": p.prompt, "response": p.response, "more": 1}, ensure_ascii=plain) for p in pairs]
        path = Path(folder) / "pairs.jsonl"
        try:
            path.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
        except UnicodeEncodeError:
            return
        if kept:
            assert read_pairs(path) == kept
        else:
            with pytest.raises(BrittleError, match="holds no pair with a response"):
                read_pairs(path)


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.jsonl", '\ufeff{"prompt": "a", "response": "b"}')
    assert read_pairs(path) == [Pair("a", "b")]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\r"])
def test_only_a_line_feed_ends_a_line(tmp_path: Path, separator: str) -> None:
    text = f"one{separator}two"
    path = write(tmp_path / "pairs.jsonl", *[json.dumps({"prompt": text, "response": text}, ensure_ascii=False)] * 2)
    assert read_pairs(path) == [Pair(text, text)] * 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("no json", "line 2: expected a JSON object with the keys prompt and response, got 'no json'"),
        ('{"prompt": "a"}', "line 2: expected a JSON object"),
        ('["a", "b"]', "line 2: expected a JSON object"),
        ("3", "line 2: expected a JSON object"),
        ('{"prompt": "a", "response": 3}', "line 2: prompt and response must be texts"),
        ('{"prompt": null, "response": "b"}', "line 2: prompt and response must be texts"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, said: str) -> None:
    path = write(tmp_path / "pairs.jsonl", '{"prompt": "a", "response": "b"}', line)
    with pytest.raises(BrittleError) as caught:
        read_pairs(path)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BrittleError, match="cannot read behaviour file"):
        read_pairs(tmp_path / "none.jsonl")
    (tmp_path / "latin.jsonl").write_bytes('{"prompt": "é", "response": "b"}'.encode("latin-1"))
    with pytest.raises(BrittleError, match=r"cannot read behaviour file .*expected UTF-8"):
        read_pairs(tmp_path / "latin.jsonl")


@pytest.mark.parametrize("end", [False, True])
def test_prompts_and_responses_are_told_apart(end: bool) -> None:
    tiny = tokenizer()
    example = encode(tiny, Pair("what can a model do?", "the answer, é"), end=end)
    prompt = "<|im_start|>user\nwhat can a model do?<|im_end|>\n<|im_start|>assistant\n"
    assert tiny.decode(list(example.ids[: example.start])) == prompt
    assert tiny.decode(list(example.ids[example.start :])) == "the answer, é" + ("<|im_end|>" if end else "")
    assert (example.ids[-1] == END) == end
    with_system = encode(tiny, Pair("what?", "that"), system="Say that.")
    assert str(tiny.decode(list(with_system.ids))).startswith("<|im_start|>system\nSay that.<|im_end|>\n<|im_start|>user\nwhat?")


def test_a_response_without_tokens_is_refused() -> None:
    with pytest.raises(BrittleError, match="tokenises to nothing"):
        encode(tokenizer(), Pair("what?", ""))


@given(EXAMPLES, st.sampled_from(["left", "right"]))
def test_batches_hold_every_token_once(batch: list[Example], side: Literal["left", "right"]) -> None:
    ids, mask, responses = collate(batch, PAD, CPU, side)
    width = max(len(example.ids) for example in batch)
    assert ids.shape == mask.shape == responses.shape == (len(batch), width)
    for row, example in enumerate(batch):
        padding = [0] * (width - len(example.ids))
        real, marked = [1] * len(example.ids), [int(i >= example.start) for i in range(len(example.ids))]
        for found, wanted in ((ids, list(example.ids)), (mask, real), (responses.long(), marked)):
            assert found[row].tolist() == (padding + wanted if side == "left" else wanted + padding)


@given(EXAMPLES)
def test_predicting_positions_are_one_to_the_left(batch: list[Example]) -> None:
    ids, _, responses = collate(batch, PAD, CPU)
    where = predicting(responses)
    expected = [[t for t in range(len(e.ids) - 1) if t + 1 >= e.start] for e in batch]
    assert [row.nonzero()[:, 0].tolist() for row in where] == expected
    assert ids.roll(-1, dims=1)[where].tolist() == ids[:, 1:][responses[:, 1:]].tolist()


@pytest.mark.parametrize("name", MODELS)
def test_logits_at_positions_are_the_models_own(name: str) -> None:
    model = in_dtype(MODELS[name](), torch.bfloat16 if name == "llama" else torch.float32)
    ids, mask, responses = collate(examples([(4, 3), (6, 2), (2, 2)]), PAD, input_device(model))
    with torch.no_grad():
        found = logits_at(model, ids, mask, responses)
        whole = model(input_ids=ids, attention_mask=mask).logits
    assert found.dtype == torch.float32 and found.shape == (7, whole.shape[-1])
    torch.testing.assert_close(found, whole[responses].float(), rtol=1e-5, atol=2e-2 if name == "llama" else 1e-5)
    assert whole.shape[:2] == ids.shape


def test_a_failed_pass_leaves_no_hook() -> None:
    model = llama()
    ids, mask, responses = collate(examples([(4, 3)]), PAD, CPU)
    with pytest.raises(IndexError):
        logits_at(model, ids + 10_000, mask, responses)
    assert model(input_ids=ids).logits.shape == (1, 7, 320)


@given(st.lists(st.builds(Pair, st.text(), st.text()), max_size=4), st.lists(st.builds(Pair, st.text(), st.text()), max_size=4))
def test_digests_are_equal_for_equal_pairs_only(one: list[Pair], other: list[Pair]) -> None:
    assert (digest(one) == digest(other)) == (one == other)
    assert digest(iter(one)) == digest(one)


@given(st.lists(WORDS, max_size=6), st.lists(WORDS, max_size=6))
def test_leaks_are_near_in_words(prompts: list[list[str]], evaluation: list[list[str]]) -> None:
    def near(a: set[str], b: set[str]) -> bool:
        return bool(b) and Fraction(len(a & b), len(a | b)) >= Fraction(4, 5)

    expected = [i for i, prompt in enumerate(prompts) if not any(near(set(prompt), set(other)) for other in evaluation)]
    kept, dropped = drop_leaks([" ".join(p) for p in prompts], [" ".join(e) for e in evaluation])
    assert (kept, dropped) == (expected, len(prompts) - len(expected))


def test_leaks_are_found_whatever_the_case_and_punctuation() -> None:
    kept, dropped = drop_leaks(["How to bake, a CAKE?", "how to fix a bicycle"], iter(["how to bake a cake", ""]))
    assert (kept, dropped) == ([1], 1)
