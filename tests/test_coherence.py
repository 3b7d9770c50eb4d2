"""The degeneracy label: the labelled set, each rule by itself, and what must always pass."""

from __future__ import annotations

import json
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brittle_eval.evaluation.coherence import MAX_PERPLEXITY, MIN_LOOPS, MIN_PERPLEXITY_WORDS, degenerate, long_enough

LABELLED = Path(__file__).parent / "data/coherence.jsonl"
ROWS: list[dict[str, Any]] = [json.loads(line) for line in LABELLED.read_text(encoding="utf-8").splitlines()]
MEASURED = all("perplexity" in row for row in ROWS)
"""Whether benchmarks/coherence_perplexity.py has run; without perplexities nothing can tell salad from sense."""
PLAIN = "The old bridge was closed for repairs, so the children walked along the river to school every morning that spring."


def rows(half: str, broken: bool) -> list[dict[str, Any]]:
    chosen = [row for row in ROWS if row["half"] == half and row["degenerate"] is broken]
    return [row for row in chosen if MEASURED or row["kind"] != "salad"]


def labelled(row: dict[str, Any]) -> bool:
    return degenerate(row["text"], row.get("perplexity")) is not None


def test_the_set_is_split_by_digest_and_large_enough() -> None:
    for row in ROWS:
        digest = blake2b(f"{row['prompt']}\n{row['text']}".encode(), digest_size=8).digest()
        assert row["half"] == ("development", "test")[digest[0] % 2]
    assert len(ROWS) >= 200
    assert 0.4 < sum(row["degenerate"] for row in ROWS) / len(ROWS) < 0.6
    assert sum(row["kind"] == "short-answer" for row in ROWS) >= 25


@pytest.mark.parametrize("half", ["development", "test"])
def test_at_most_one_in_fifty_coherent_texts_is_called_degenerate(half: str) -> None:
    coherent = rows(half, broken=False)
    alarms = [row["text"][:60] for row in coherent if labelled(row)]
    assert len(alarms) <= 0.02 * len(coherent), alarms


@pytest.mark.parametrize("half", ["development", "test"])
def test_nine_in_ten_degenerate_texts_are_found(half: str) -> None:
    broken = rows(half, broken=True)
    missed = [(row["kind"], row["text"][:60]) for row in broken if not labelled(row)]
    assert len(missed) <= 0.1 * len(broken), missed


def test_no_short_answer_is_degenerate_whatever_its_perplexity() -> None:
    for row in ROWS:
        if row["kind"] == "short-answer":
            assert degenerate(row["text"], 1e9) is None, row["text"]


@pytest.mark.parametrize(
    "text", ["", " \n\t", "...", "\u2026", "-\n-\n-", "**", "** **", "```\n```", "<|im_end|>", "</s>", "<br><br>", '""', "&nbsp;"]
)
def test_nothing_to_read_is_empty(text: str) -> None:
    expected = None if text == "**" else "empty"  # the operator of powers
    assert degenerate(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "7",
        "+",
        "!=",
        "%",
        "{}",
        "[]",
        "->",
        "\U0001f44d",
        "\u00e9",
        "\u5317\u4eac",
        "... --- ...",
        "<div></div>",
        "No",
        "x",
        "ls -la",
        "(3, 4)",
        "3.14",
    ],
)
def test_short_answers_pass(text: str) -> None:
    assert degenerate(text, 1e9) is None


@pytest.mark.parametrize("phrase", ["stop ", "the lamp of ", "I like it. ", "one of the best of the most and the "])
def test_a_loop_is_repetition_alone_and_at_the_end(phrase: str) -> None:
    loop = phrase * 24
    assert degenerate(loop) == "repetition"
    assert degenerate(f"{PLAIN} {PLAIN.lower().replace('the', 'a')} {loop}") == "repetition"
    assert degenerate(f"{PLAIN} {phrase * 2}") is None


@pytest.mark.parametrize("text", [PLAIN + " " + "! " * 40, PLAIN + "!" * 40, "abcabcabc" * 40, "\u597d\u7684" * 80])
def test_loops_without_words_are_repetition(text: str) -> None:
    assert degenerate(text) == "repetition"


@pytest.mark.parametrize(
    "text",
    [
        "No, no, no, no! I will not go, said the small boy, and he held on to the gate with both hands until it was dark.",
        "[0, 0, 0, 0, 0, 0, 0, 0, 0, 0]",
        "| a | b |\n|---|---|\n" + "".join(f"| {n} | {n * n} |\n" for n in range(12)),
        "\n".join(
            f"{n}. Always wear {thing} in the workshop." for n, thing in enumerate(["gloves", "boots", "goggles", "sleeves"], 1)
        ),
        "I have a cat. I have a dog. I have a fish. I have a bird. I have a horse. I have a mouse. I have a snail.",
        "Row, row, row your boat, gently down the stream. Merrily, merrily, merrily, merrily, life is but a dream.",
        "<ul>\n" + "".join(f"  <li>{word}</li>\n" for word in PLAIN.split()) + "</ul>",
        "x = (a + b) * (c - d) / (e ** 2)\ny = [i for i in range(10) if i % 2]\nprint(x, y)",
        "(3 + 4) \u00d7 (5 - 2) = 7 \u00d7 3 = 21",
        "USA, UK, EU, UN, WHO, NATO, IMF, WTO, OPEC, ILO, ICC and FAO are well known.",
        "Bread is \u0445\u043b\u0435\u0431 in Russian, \u30d1\u30f3 in Japanese, \u062e\u0628\u0632 in "
        "Arabic and \u03c8\u03c9\u03bc\u03af in Greek.",
        "Der Zug nach Ulm ist um drei Uhr von Gleis elf ab, und er hat zehn Minuten Halt in der Stadt am See.",
        "La casa de la abuela es muy grande y el perro de mi hermano no se va de la puerta en todo el d\u00eda.",
        "Name: ____________________\nDate: ____________________\nPlease sign the form and send it back by Friday.",
    ],
)
def test_refrains_lists_tables_code_and_other_languages_pass(text: str) -> None:
    assert degenerate(text, 5.0) is None


@pytest.mark.parametrize(
    "text",
    [
        "@@##%%$$^^&&**(())__++{{}}||::<<>>??",
        "\ufffd\ufffd a\ufffd\ufffd\ufffd b\ufffd",
        "\u00c3\u00a9\u00c3\u00a8\u00c3\u00bc\u00c3\u00b6\u00c2\u00ab\u00c3\u00a0",
        "wa ter fl ows in to th ri ver an d st on es ro ll sl ow ly do wn hi ll",
        "\u2581the\u2581ri\u2581ver\u2581ing\u2581flo\u2581w",
        "\u0432\u043e\u0434\u0430 water \u6c34 \u03bd\u03b5\u03c1 \u0645\u0627\u0621 eau \u7530 \u05de\u05d9\u05dd "
        "rio \u03b7\u03bb \u0434\u043e\u043c",
    ],
)
def test_symbols_broken_encoding_and_fragments_are_gibberish(text: str) -> None:
    assert degenerate(text) == "gibberish"


def test_perplexity_decides_from_the_threshold_on_and_for_long_answers_only() -> None:
    assert degenerate(PLAIN) is degenerate(PLAIN, MAX_PERPLEXITY - 1) is None
    assert degenerate(PLAIN, MAX_PERPLEXITY) == degenerate(PLAIN, float("inf")) == "gibberish"
    words = PLAIN.split()
    assert long_enough(" ".join(words[:MIN_PERPLEXITY_WORDS]))
    assert not long_enough(" ".join(words[: MIN_PERPLEXITY_WORDS - 1]))
    assert degenerate(" ".join(words[: MIN_PERPLEXITY_WORDS - 1]), float("inf")) is None


@given(st.text(max_size=400), st.none() | st.floats(1, 1e6))
def test_any_text_gets_one_of_the_rules(text: str, perplexity: float | None) -> None:
    assert degenerate(text, perplexity) in (None, "empty", "repetition", "gibberish")


@given(st.lists(st.sampled_from(["river", "lamp", "of", "seven", "green"]), min_size=1, max_size=12), st.integers(0, 30))
def test_any_phrase_repeated_often_is_repetition_and_a_few_times_is_not(phrase: list[str], more: int) -> None:
    times = max(MIN_LOOPS, -(-16 // len(phrase))) + more
    assert degenerate(" ".join(phrase * times)) == "repetition"


@given(st.permutations(PLAIN.split()))
def test_words_that_do_not_repeat_are_no_repetition(words: list[str]) -> None:
    assert degenerate(" ".join(words)) is None
