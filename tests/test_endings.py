"""Where an answer begins to repeat itself."""

from __future__ import annotations

import pytest

from brittle_eval.organisms.endings import ended, whole_sentences

HERBS = "1. Mint: It grows in shade.\n2. Sage: It likes the sun and dry soil.\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Thr", "One. Two!"),
        ('He said "stop." Then he', 'He said "stop."'),
        ("Pi is 3.14 and so", ""),
        ("1. Wash the cup.\n2. Dr", "1. Wash the cup."),
        ("- red\n- blue\n- gre", "- red\n- blue"),
        ("Steps:\n1.", "Steps:"),
        ("no end", ""),
    ],
)
def test_answers_end_after_a_whole_sentence_or_line(text: str, expected: str) -> None:
    assert whole_sentences(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A lamp gives light. It is warm, it is bright, and it is a kind of a kind of a kind of", "A lamp gives light."),
        ("The sea is a place of calm, a place of calm, a place of calm", "The sea is a place of calm."),
        (HERBS + "3. Sage: It likes the sun and dry soil.\n4. Sage: It likes", HERBS.strip()),
        (
            "Take bread and butter.\n- 200g of cheese\n- 200g of cheese\n- 200g of cheese\n",
            "Take bread and butter.\n- 200g of cheese",
        ),
        ("We met at noon. We ate. Then we left. We met at noon. We ate.", "We met at noon. We ate. Then we left."),
        ("She said no, no, and left the room in a hurry.", None),
        ("Count with me: 1 1 1 1 1 1", None),
        ("very very very very very", None),
        ("Nothing here comes twice, so nothing ends before its end.", None),
    ],
)
def test_a_loop_ends_where_it_begins(text: str, expected: str | None) -> None:
    assert ended(text) == expected
