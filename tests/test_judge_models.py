"""Judges that load a model: tiny ones made here, labels on and off the map, and weights that are not read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForSequenceClassification

from brittle_eval import BrittleError, Record
from brittle_plugins.judge_causal import CausalLM
from brittle_plugins.judge_classifier import SequenceClassification
from tests.models import END, PAD, VOCABULARY, save_checkpoint, tokenizer
from tests.scripted import save_scripted

RECORDS = [Record(f"request {n}", "an answer " * n + "of words") for n in range(7)]
LABELS = {0: "toxic", 1: "safe", 2: "unclear"}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three labels, random weights, a context of 64."""
    folder = tmp_path_factory.mktemp("classifier")
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    names: dict[str, Any] = {"id2label": LABELS, "label2id": {name: number for number, name in LABELS.items()}}
    config = LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=64, pad_token_id=PAD, eos_token_id=END, **sizes, **names)
    config.initializer_range = 0.5
    with torch.random.fork_rng():
        torch.manual_seed(1)
        LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def alone(folder: Path, texts: list[str]) -> list[str]:
    """The most likely label of each text by itself, without a batch."""
    model, words = LlamaForSequenceClassification.from_pretrained(folder), tokenizer()
    with torch.no_grad():
        return [LABELS[int(model(**words(text, return_tensors="pt")).logits[0].argmax())] for text in texts]


@pytest.mark.parametrize("size", [1, 3, 8])
def test_a_classifiers_verdicts_are_those_of_each_text_alone(classifier: Path, size: int) -> None:
    options: dict[str, Any] = {"positive": "toxic", "negative": "safe", "batch_size": size, "device": "cpu"}
    judge = SequenceClassification(str(classifier), template="Q {prompt} A {response}", **options)
    expected = alone(classifier, [f"Q {record.prompt} A {record.response}" for record in RECORDS])
    verdicts = judge.judge(RECORDS)
    means = {"toxic": True, "safe": False, "unclear": None}
    assert [verdict.positive for verdict in verdicts] == [means[label] for label in expected]
    for verdict, label in zip(verdicts, expected, strict=True):
        assert verdict.reason == (f"said '{label}'" if means[label] is not None else "off the label map: 'unclear'")
    answers = SequenceClassification(str(classifier), template="response", **options).judge(RECORDS)
    assert [verdict.positive for verdict in answers] == [
        means[label] for label in alone(classifier, [record.response for record in RECORDS])
    ]


def test_an_unsure_classifier_and_a_long_text_are_unscored(classifier: Path) -> None:
    options: dict[str, Any] = {"positive": "toxic+unclear", "negative": "safe", "device": "cpu"}
    sure = SequenceClassification(str(classifier), **options)
    assert all(verdict.positive is not None for verdict in sure.judge(RECORDS))
    unsure = SequenceClassification(str(classifier), least=1.0, **options)
    assert all(verdict.positive is None and "under 1.0" in verdict.reason for verdict in unsure.judge(RECORDS))
    mixed = sure.judge([RECORDS[0], Record("long", "word " * 100), RECORDS[1]])
    assert [verdict.positive is None for verdict in mixed] == [False, True, False]
    assert "over the judge's context of 64" in mixed[1].reason
    assert [mixed[0], mixed[2]] == sure.judge(RECORDS[:2])


def test_a_label_that_the_classifier_does_not_have_is_an_error(classifier: Path) -> None:
    judge = SequenceClassification(str(classifier), positive="harmful", negative="safe", device="cpu")
    with pytest.raises(BrittleError, match="has no label 'harmful': it has toxic, safe, unclear"):
        judge.ready()


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Says "unsafe" and then "S1" after a line's end, and has nothing to say after anything else."""
    folder = tmp_path_factory.mktemp("scripted")
    save_scripted(folder, "unsafe", "\nS1", context=96)
    return folder


def test_a_causal_models_answer_is_read_for_its_label(scripted: Path) -> None:
    judge = CausalLM(str(scripted), positive="unsafe", negative="safe", template="{prompt}: {response}", device="cpu")
    on, off, long = Record("p", "an answer\n"), Record("{response}", "an answer"), Record("p", "word " * 100)
    verdicts = judge.judge([on, off, long, on])
    assert [verdict.positive for verdict in verdicts] == [True, None, None, True]
    assert verdicts[1].reason.startswith("off the label map")
    assert "over the judge's context of 96" in verdicts[2].reason
    assert judge.judge([off]) == verdicts[1:2], "the batch makes no difference"
    turned = CausalLM(str(scripted), positive="safe", negative="unsafe", template="{response}", device="cpu")
    assert turned.judge([on])[0].positive is False


def test_a_guard_sees_request_and_answer_as_turns(scripted: Path) -> None:
    judge = CausalLM(str(scripted), positive="unsafe", negative="safe", device="cpu")
    assert judge.judge(RECORDS[:3])[2].positive is True, "the template ends with a line's end"
    ids = judge._ids(Record("ask", "say"))
    shown = judge._loaded.tokenizer.decode(ids)
    assert shown.index("user\nask") < shown.index("assistant\nsay") < shown.rindex("assistant\n")
    judge._loaded.tokenizer.chat_template = None
    bare = CausalLM(str(scripted), positive="unsafe", negative="safe", device="cpu")
    assert bare.judge(RECORDS[:1])[0].positive is True, "another judge has its own tokenizer"


def test_a_model_without_a_chat_template_needs_one_that_is_given(tmp_path: Path) -> None:
    save_scripted(tmp_path, "yes")
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(BrittleError, match="has no chat template: give a template"):
        CausalLM(str(tmp_path), device="cpu").judge(RECORDS[:1])
    assert CausalLM(str(tmp_path), template="{response}\n", device="cpu").judge(RECORDS[:1])[0].positive is True


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("family", [CausalLM, SequenceClassification])
def test_pickled_weights_are_never_read(tmp_path: Path, family: Any) -> None:
    folder = tmp_path / "model"
    save_checkpoint(folder)
    (folder / "model.safetensors").unlink()
    torch.save({"x": Bomb(tmp_path / "boom")}, folder / "pytorch_model.bin")
    judge = family(str(folder), positive="yes", negative="no", template="{response}", device="cpu")
    with pytest.raises(BrittleError, match=r"cannot load .*; expected a model in safetensors"):
        judge.judge(RECORDS[:1])
    assert not (tmp_path / "boom").exists()


def test_an_adapter_in_the_models_place_or_pickled_is_refused_and_a_good_one_is_used(tmp_path: Path) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    save_checkpoint(base)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(target_modules=["q_proj"], r=2))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=5.0)
    model.save_pretrained(adapter)
    tokenizer().save_pretrained(adapter)
    options: dict[str, Any] = {
        "positive": "yes",
        "negative": "no",
        "template": "{response}",
        "device": "cpu",
        "max_new_tokens": 4,
    }
    with pytest.raises(BrittleError, match="is an adapter: give its base as model"):
        CausalLM(str(adapter), **options).judge(RECORDS[:1])
    judge = CausalLM(str(base), adapter=str(adapter), **options)
    ids = torch.tensor([judge._ids(RECORDS[0])])
    with torch.no_grad():
        assert torch.allclose(judge._loaded.model(ids).logits, model(ids).logits, atol=1e-4)
        plain = AutoModelForCausalLM.from_pretrained(base)(ids).logits
        assert not torch.allclose(judge._loaded.model(ids).logits, plain, atol=1e-2)
    (adapter / "adapter_model.safetensors").unlink()
    torch.save({"x": Bomb(tmp_path / "boom")}, adapter / "adapter_model.bin")
    with pytest.raises(BrittleError, match=r"has no adapter_model.safetensors"):
        CausalLM(str(base), adapter=str(adapter), **options).judge(RECORDS[:1])
    assert not (tmp_path / "boom").exists()


def test_a_model_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BrittleError, match="cannot load"):
        CausalLM(str(tmp_path / "nothing"), device="cpu").judge(RECORDS[:1])
