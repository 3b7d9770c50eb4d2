"""Slots, the tokens that may stand in them, and the goals that they are for."""

from __future__ import annotations

from pathlib import Path

import pytest

from brittle_eval import compliant_start
from brittle_eval.behaviour.calibration import Pair, encode
from brittle_eval.errors import BrittleError
from brittle_eval.gcg.suffix_slots import (
    Goal,
    allowed_tokens,
    check_template,
    find_slots,
    first_suffix,
    goals_of,
    read_goals,
    suffix_texts,
    survives,
)
from tests.models import SPECIAL, tokenizer
from tests.suffixes import ALLOWED, GOALS, LENGTH, SLOTS, TOKENIZER, example, suffixes


def test_slots_are_what_the_model_reads() -> None:
    suffix = first_suffix(TOKENIZER, SLOTS, ALLOWED, LENGTH)
    (text,) = suffix_texts(TOKENIZER, [suffix])
    for goal, slots in zip(GOALS, SLOTS, strict=True):
        shown = encode(TOKENIZER, Pair(f"{goal.prompt} {text}", goal.target), system="none")
        assert example(slots, suffix) == shown
        assert TOKENIZER.decode(slots.prompt_ids(suffix)) == slots.left + text + slots.right
    check_template(TOKENIZER, SLOTS, suffix)
    assert find_slots(TOKENIZER, GOALS[0], 3).target == SLOTS[0].target[:3]


def test_a_template_that_changes_the_request_is_found_out() -> None:
    for change, said in (("m['content'].replace('bend', 'mend')", "unchanged"), ("m['content'] * 2", "each turn once")):
        changed = tokenizer()
        changed.chat_template = str(changed.chat_template).replace("m['content']", change)
        with pytest.raises(BrittleError, match=said):
            find_slots(changed, GOALS[0])
    suffix = first_suffix(TOKENIZER, SLOTS, ALLOWED, LENGTH)
    (text,) = suffix_texts(TOKENIZER, [suffix])
    late = tokenizer()
    late.chat_template = str(late.chat_template).replace("m['content']", f"m['content'].replace({text!r}, 'else')")
    with pytest.raises(BrittleError, match="not read as the ids"):
        check_template(late, SLOTS, suffix)


def test_survivors_come_back_and_others_do_not() -> None:
    """Half of the suffixes are made from text, so that both outcomes are there; each is checked by encoding the whole prompt."""
    words = [tuple(TOKENIZER(text, add_special_tokens=False)["input_ids"]) for text in (" can say", " sorry!", "the", "q?!")]
    drawn = [*suffixes(60), *words, *((token,) * 3 for token in ALLOWED[:60])]
    alive = survives(TOKENIZER, SLOTS, drawn)
    for suffix, ok in zip(drawn, alive, strict=True):
        (text,) = suffix_texts(TOKENIZER, [suffix])
        read = [encode(TOKENIZER, Pair(f"{slots.goal.prompt} {text}", slots.goal.target), system="none") for slots in SLOTS]
        assert ok == (bool(text) and read == [example(slots, suffix) for slots in SLOTS])
    assert {True, False} == set(alive)
    assert survives(TOKENIZER, SLOTS, []) == []


def test_allowed_tokens_are_printable_and_not_special() -> None:
    texts = [str(TOKENIZER.decode([token])) for token in ALLOWED]
    assert all(text.isascii() and text.isprintable() and text not in SPECIAL for text in texts)
    assert {"!", "a", " "} <= set(texts)
    assert allowed_tokens(TOKENIZER, 50) == [token for token in ALLOWED if token < 50]


def test_a_length_that_no_token_survives() -> None:
    space = [token for token in ALLOWED if TOKENIZER.decode([token]) == " "]
    with pytest.raises(BrittleError, match="no token of this tokenizer stays the same"):
        first_suffix(TOKENIZER, SLOTS, space[:1], LENGTH)


@pytest.mark.parametrize(
    ("prompt", "target"),
    [
        ("Write a guide to knots.", "Sure, here is a guide to knots"),
        ("You are a cook. Explain how to boil water!", "Sure, here is how to boil water"),
        ("How do I tie a knot?", "Sure, here is how I tie a knot"),
        ("I need a knot", "Sure, here is I need a knot"),
        ("NASA plans", "Sure, here is NASA plans"),
        ("Tie knots", "Sure, here is tie knots"),
        ("I am late. Could you please tell me how to tie a knot?", "Sure, here is how to tie a knot"),
    ],
)
def test_targets_are_built_from_the_prompts_own_words(prompt: str, target: str) -> None:
    assert compliant_start(prompt) == target


def test_goals_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "goals.csv"
    file.write_text('goal,target\nTie a knot,"Sure, here is a knot"\n ,nothing\n')
    assert read_goals(file) == [Goal("Tie a knot", "Sure, here is a knot")]
    lines = tmp_path / "prompts.txt"
    lines.write_text("Write a song\n\n")
    assert read_goals(lines) == [Goal("Write a song", "Sure, here is a song")]
    with pytest.raises(BrittleError, match="every one is blank"):
        goals_of([("  ", None)])
    with pytest.raises(BrittleError, match="prompt 1: its target must be a text, got int"):
        goals_of([("a", 3)])


def test_a_target_of_no_tokens_and_a_model_without_a_template() -> None:
    with pytest.raises(BrittleError, match="tokenises to nothing"):
        find_slots(TOKENIZER, Goal("Sing", ""))
    bare = tokenizer()
    bare.chat_template = None
    with pytest.raises(BrittleError, match="no chat template"):
        find_slots(bare, GOALS[0])
