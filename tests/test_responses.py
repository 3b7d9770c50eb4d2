"""Answers on disk: read as they were written, by the model that gave them, or not at all."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel

from brittle_eval.errors import BrittleError
from brittle_eval.evaluation.generate import Sampling, generate
from brittle_eval.evaluation.responses import Answer, Responses
from brittle_eval.weights import Fingerprint
from tests.models import PAD, examples, untied

PROMPTS = [list(example.ids) for example in examples([(n, 0) for n in (5, 1, 12, 7, 20, 7, 3)], seed=3)]
SAMPLED = Sampling(6, temperature=1.0, seed=2)


def opened(path: Path, fingerprint: str = "a", said: list[str] | None = None) -> Responses:
    return Responses(path, fingerprint, (said if said is not None else []).append)


def made(*tokens: int, cut: bool = False) -> Answer:
    answer = Answer(tokens)
    answer.cut = cut
    return answer


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Three answers, the last one cut."""
    path = tmp_path / "row" / "responses.jsonl"
    kept = opened(path)
    kept.add(["one", "two"], [made(1, 2), made()])
    kept.add(["three"], [made(3, cut=True)])
    return path


def test_answers_come_back_and_are_private(file: Path) -> None:
    found = opened(file).find(["three", "one", "two"])
    assert found == [[3], [1, 2], []] and [answer.cut for answer in found] == [True, False, False]
    assert opened(file).find(["one", "four"]) is None
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_last_line_at_any_length_is_dropped_and_said(file: Path) -> None:
    whole = file.read_bytes()
    start = whole[:-1].rfind(b"\n") + 1
    for length in range(start + 1, len(whole)):
        file.write_bytes(whole[:length])
        said: list[str] = []
        kept = opened(file, said=said)
        assert kept.find(["one", "two"]) == [[1, 2], []] and kept.find(["three"]) is None
        assert said == [f"{file}: dropped its last line, which was not written to the end"]
        assert file.read_bytes() == whole[:start]
    kept.add(["three"], [made(3, cut=True)])
    assert file.read_bytes() == whole and opened(file).find(["three"]) == [[3]]


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"[1, 2]", b"[1, 7]"), (b'"one"', b'"won"'), (b"{", b"\x00"), (b'"cut": false', b'"cut": true'), (b"[1", b"1")],
)
def test_any_other_damage_is_an_error_of_one_line(file: Path, old: bytes, new: bytes) -> None:
    file.write_bytes(file.read_bytes().replace(old, new, 1))
    with pytest.raises(BrittleError, match=r"line 1 is damaged: remove the file, and the run generates its answers again$"):
        opened(file)


def test_a_line_that_is_not_json_is_damage(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\xff\n")
    with pytest.raises(BrittleError, match="line 4 is damaged"):
        opened(file)


@given(st.lists(st.integers(0, 2**17), max_size=6), st.integers(0, 9), st.integers(0, 9))
def test_keys_tell_apart_whatever_an_answer_depends_on(prompt: list[int], sample: int, seed: int) -> None:
    kept, given_arguments = Responses(Path("nowhere"), "a", print), {"seed": seed, "stop": ""}
    own = kept.key(prompt, sample, given_arguments)
    others = [
        Responses(Path("nowhere"), "b", print).key(prompt, sample, given_arguments),
        kept.key([*prompt, 0], sample, given_arguments),
        kept.key(prompt, sample + 1, given_arguments),
        kept.key(prompt, sample, given_arguments | {"seed": seed + 1}),
        kept.key(prompt, sample, given_arguments | {"stop": "wei2024"}),
    ]
    assert own not in others and own == kept.key(tuple(prompt), sample, dict(reversed(given_arguments.items())))


def answered(
    model: PreTrainedModel, kept: Responses, sampling: Sampling = SAMPLED, ends: Sequence[int] = (10_000,)
) -> list[Answer]:
    numbers = [n for _ in PROMPTS for n in range(3)]
    prompts = [prompt for prompt in PROMPTS for _ in range(3)]
    return generate(model, prompts, sampling, samples=numbers, batch_size=4, end_ids=ends, pad_id=PAD, kept=kept)


def counted(model: PreTrainedModel) -> list[int]:
    """Grows by one with every pass of the model."""
    passes: list[int] = []
    model.register_forward_pre_hook(lambda _, args: passes.append(1))
    return passes


def test_what_is_kept_is_not_generated_again_and_what_is_missing_is(tmp_path: Path) -> None:
    model, file = untied(), tmp_path / "responses.jsonl"
    expected, passes = answered(model, opened(file)), counted(model)
    assert answered(model, opened(file)) == expected and not passes
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:10]))
    assert answered(model, opened(file)) == expected
    assert len(passes) == 4 * SAMPLED.max_new_tokens, "of six batches, two are whole"


def test_a_finished_answer_is_reported_when_it_is_read(tmp_path: Path) -> None:
    model, done = untied(), list[int]()
    for _ in range(2):
        kept = opened(tmp_path / "responses.jsonl")
        generate(model, PROMPTS, SAMPLED, end_ids=[], pad_id=PAD, kept=kept, on_finished=lambda: done.append(1))
    assert len(done) == 2 * len(PROMPTS)


@pytest.mark.parametrize("change", ["model", "seed", "length", "temperature", "ends"])
def test_nothing_is_read_that_another_model_or_request_wrote(tmp_path: Path, change: str) -> None:
    """The file is the same one, and the answers are those of a run that never saw it."""
    model, file = untied(), tmp_path / "responses.jsonl"
    sampling, ends = SAMPLED, [10_000]
    fingerprint = Fingerprint(model)
    answered(model, opened(file, str(fingerprint)))
    if change == "model":
        name = "model.layers.0.mlp.up_proj.weight"
        model.get_parameter(name).data[0, 0] += 1e-3
        fingerprint.refresh([name])
    sampling = {
        "seed": Sampling(6, 1.0, seed=3),
        "length": Sampling(5, 1.0, seed=2),
        "temperature": Sampling(6, 0.5, seed=2),
    }.get(change, SAMPLED)
    ends = [17] if change == "ends" else ends
    passes = counted(model)
    found = answered(model, opened(file, str(fingerprint)), sampling, ends)
    assert passes and found == answered(model, opened(tmp_path / "fresh.jsonl", str(fingerprint)), sampling, ends)
