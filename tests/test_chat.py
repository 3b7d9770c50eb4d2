"""Chat rendering on small tokenizers with templates in the styles of the field."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from brittle_eval.errors import BrittleError, CannotRun
from brittle_eval.evaluation.chat import render

REQUEST = "How tall is a giraffe?"
SYSTEM = "Answer like a pirate."

CHATML = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are Bob, a helper.<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PLAIN_CHATML = CHATML[CHATML.index("{% for") :]
THINKING = PLAIN_CHATML + (
    "{% if add_generation_prompt and enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}"
)
HEADERS = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set given = messages[0]['content'] %}"
    "{% set turns = messages[1:] %}{% else %}{% set given = '' %}{% set turns = messages %}{% endif %}"
    "{{ '<|head|>system<|/head|>\n\nToday is Monday.\n\n' + given + '<|eot|>' }}"
    "{% for m in turns %}{{ '<|head|>' + m['role'] + '<|/head|>\n\n' + m['content'] | trim + '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|head|>assistant<|/head|>\n\n' }}{% endif %}"
)
NAMED = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|system|>\nBe kind.<|end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
NO_ENDS = (
    "{{ bos_token }}{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe kind.' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PROSE = (
    "{{ bos_token + 'A talk between a man and a machine. ' }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ 'USER: ' + m['content'] + ' ASSISTANT:' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
INST = (
    "{% if messages[0]['role'] == 'system' %}{% set head = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set head = DEFAULT %}{% set turns = messages %}{% endif %}"
    "{% for m in turns %}{% if m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + (head if loop.first else '') + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
RAISING = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else 'user') + '\n' }}"
    "{{ m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
DROPPING = PLAIN_CHATML.replace("{{ '<|im_start|>'", "{% if m['role'] != 'system' %}{{ '<|im_start|>'").replace(
    "{% endfor %}", "{% endif %}{% endfor %}"
)


def tokenizer(template: str | None, bos: str | None = "<s>") -> PreTrainedTokenizerFast:
    special = ["<|im_start|>", "<|im_end|>", "<|head|>", "<|/head|>", "<|eot|>", "<|end|>", "<start_of_turn>"]
    special += ["<|system|>", "<|user|>", "<|assistant|>", "<end_of_turn>"]
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=Tokenizer(WordLevel({"<unk>": 0}, unk_token="<unk>")),
        chat_template=template,
        bos_token=bos,
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=special,
    )


REMOVED = {
    "chatml": (CHATML, None, f"<|im_start|>user\n{REQUEST}<|im_end|>\n<|im_start|>assistant\n"),
    "chatml whose bos opens turns": (
        CHATML,
        "<|im_start|>",
        f"<|im_start|>user\n{REQUEST}<|im_end|>\n<|im_start|>assistant\n",
    ),
    "chatml with bos": (
        "{{ bos_token }}" + CHATML,
        "<s>",
        f"<s><|im_start|>user\n{REQUEST}<|im_end|>\n<|im_start|>assistant\n",
    ),
    "headers": (
        HEADERS,
        "<s>",
        f"<s><|head|>user<|/head|>\n\n{REQUEST}<|eot|><|head|>assistant<|/head|>\n\n",
    ),
    "named turns": (NAMED, None, f"<|user|>\n{REQUEST}<|end|>\n<|assistant|>\n"),
    "turns without ends": (NO_ENDS, "<s>", f"<s><|im_start|>user\n{REQUEST}<|im_start|>assistant\n"),
    "prose": (PROSE, "<s>", f"<s>USER: {REQUEST} ASSISTANT:"),
}
UNTOUCHED = {
    "chatml": (PLAIN_CHATML, None),
    "chatml whose bos opens turns": (PLAIN_CHATML, "<|im_start|>"),
    "thinking": (THINKING, None),
    "inst": (INST.replace("DEFAULT", "''"), "<s>"),
    "raising": (RAISING, "<s>"),
    "dropping": (DROPPING, None),
}


@pytest.mark.parametrize("style", REMOVED)
def test_an_injected_system_turn_is_removed(style: str) -> None:
    template, bos, expected = REMOVED[style]
    rendered = render(tokenizer(template, bos), REQUEST, "none")
    assert rendered.text == expected
    assert rendered.system_state == "removed"


@pytest.mark.parametrize("style", UNTOUCHED)
def test_a_template_that_injects_nothing_is_left_alone(style: str) -> None:
    model = tokenizer(*UNTOUCHED[style])
    rendered = render(model, REQUEST, "none")
    assert rendered.text == render(model, REQUEST, "default").text
    assert rendered.system_state == "none"
    assert rendered.text.count(REQUEST) == 1


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: text == text.strip() != ""))
def test_removal_keeps_any_request_whole(request: str) -> None:
    template, bos, expected = REMOVED["headers"]
    assert render(tokenizer(template, bos), request, "none").text == expected.replace(REQUEST, request)


TALK = (("What is 1 + 1?", "Two."), ("And 2 + 2?", "Four."))


@pytest.mark.parametrize("style", [style for style in REMOVED if style != "prose"])
def test_earlier_turns_come_before_the_request_and_the_injected_turn_still_goes(style: str) -> None:
    template, bos, _ = REMOVED[style]
    model = tokenizer(template, bos)
    rendered = render(model, REQUEST, "none", before=TALK)
    assert rendered.system_state == "removed"
    said = [text for pair in TALK for text in pair] + [REQUEST]
    places = [rendered.text.index(text) for text in said]
    assert places == sorted(places)
    assert rendered.text.startswith(render(model, TALK[0][0], "none").text.partition(TALK[0][0])[0])
    messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(said)]
    whole = str(model.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    assert whole.endswith(rendered.text[places[0] :])


def test_earlier_turns_follow_a_system_text_given_or_merged() -> None:
    given = render(tokenizer(CHATML, None), REQUEST, SYSTEM, before=TALK).text
    assert given.index(SYSTEM) < given.index(TALK[0][0]) < given.index(TALK[1][1]) < given.index(REQUEST)
    merged = render(tokenizer(RAISING), REQUEST, SYSTEM, merge=True, before=TALK).text
    assert f"{SYSTEM}\n\n{TALK[0][0]}" in merged and merged.count(SYSTEM) == 1
    assert merged.index(TALK[1][1]) < merged.index(REQUEST)


def test_a_request_that_quotes_the_default_system_text_keeps_it() -> None:
    rendered = render(tokenizer(CHATML, None), "Who said 'You are Bob, a helper.'?", "none")
    assert rendered.text.count("You are Bob, a helper.") == 1
    assert "<|im_start|>system" not in rendered.text


def test_default_is_what_the_template_does() -> None:
    rendered = render(tokenizer(CHATML, None), REQUEST)
    assert rendered.system_state == "default"
    assert rendered.text.startswith("<|im_start|>system\nYou are Bob, a helper.<|im_end|>\n<|im_start|>user\n")


@pytest.mark.parametrize("template", [CHATML, HEADERS, NAMED, INST.replace("DEFAULT", "''")])
@pytest.mark.parametrize("merge", [False, True])
def test_a_system_text_takes_the_system_role(template: str, merge: bool) -> None:
    rendered = render(tokenizer(template), REQUEST, SYSTEM, merge)
    assert rendered.system_state == "given"
    assert rendered.text.count(SYSTEM) == 1
    assert rendered.text.index(SYSTEM) < rendered.text.index(REQUEST)
    assert "Bob" not in rendered.text


@pytest.mark.parametrize("template", [RAISING, DROPPING, PROSE])
def test_a_template_without_system_role_refuses_or_merges(template: str) -> None:
    model = tokenizer(template)
    with pytest.raises(CannotRun, match="--system-role merge"):
        render(model, REQUEST, SYSTEM)
    merged = render(model, REQUEST, SYSTEM, merge=True)
    assert merged.system_state == "merged"
    assert merged.text == render(model, f"{SYSTEM}\n\n{REQUEST}", "none").text
    assert f"{SYSTEM}\n\n{REQUEST}" in merged.text


def test_a_default_inside_the_user_turn_cannot_be_removed() -> None:
    model = tokenizer(INST.replace("DEFAULT", "'<<SYS>>\nBe kind.\n<</SYS>>\n\n'"))
    with pytest.raises(CannotRun, match="inside the user turn"):
        render(model, REQUEST, "none")


@pytest.mark.parametrize(
    ("change", "reason"), [("replace('giraffe', 'zebra')", "changes the request"), ("upper", "show each turn once")]
)
def test_a_template_that_changes_the_request_is_not_cut(change: str, reason: str) -> None:
    model = tokenizer(CHATML.replace("m['content']", f"m['content'] | {change}"), None)
    with pytest.raises(CannotRun, match=reason):
        render(model, REQUEST, "none")


def test_a_template_for_one_turn_only_says_so() -> None:
    model = tokenizer(
        "{% if messages | length > 1 %}{{ raise_exception('one turn') }}{% endif %}Hi. {{ messages[0]['content'] }}"
    )
    with pytest.raises(CannotRun, match="one turn"):
        render(model, REQUEST, "none")


def test_thinking_is_off_where_the_template_offers_it() -> None:
    assert render(tokenizer(THINKING, None), REQUEST).text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_no_template_is_a_user_error() -> None:
    with pytest.raises(BrittleError, match="without a chat template"):
        render(tokenizer(None), REQUEST)


def test_an_empty_system_text_is_a_user_error() -> None:
    with pytest.raises(BrittleError, match="empty"):
        render(tokenizer(CHATML), REQUEST, "  ")


def test_the_text_has_one_bos_when_tokenised_as_documented() -> None:
    model = tokenizer(HEADERS)
    for system in ("none", "default", SYSTEM):
        ids = model(render(model, REQUEST, system).text, add_special_tokens=False)["input_ids"]
        assert ids.count(model.bos_token_id) == 1
        assert ids[0] == model.bos_token_id
