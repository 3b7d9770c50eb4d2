"""Answers as the judge `refusal` reads them: normalised, sentence by sentence, without what others say."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left

LONGEST_REMARK = 6
"""Words of a quotation that may be advice; a longer one is a text that was asked for."""

_QUOTED = re.compile(r'(?<!\w)"[^"\n]{1,400}"')
SENTENCE = re.compile(r"[^.!?\n]+[.!?\n]*")
_ENDED = re.compile(r"(?<=[.!?\u2026\uff01\uff1f])[\"'\u2019\u201d*_~`)\]]*(?=\s+[^a-z\s])|(?=\n|\s*\Z)")
"""A place where a sentence is over: the point in "e.g." is none."""


def normalise(text: str) -> str:
    """Lower case, straight apostrophes and quotation marks; without emphasis, headings, hidden characters, speaker."""
    text = unicodedata.normalize("NFKC", text.translate(_STRAIGHT)).lower()
    text = re.sub(r"(?<=[a-z])`(?=[a-z])", "'", text)
    text = re.sub(r"[\u200b-\u200f\u2060\ufeff\u00ad]", "", text)
    text = re.sub(r"[*_~]+|`(?!``)(?<!``)|^[ \t]*(?:#+|>+)[ \t]*", "", text, flags=re.MULTILINE)
    text = re.sub(r"[ \t\xa0]+", " ", text).strip()
    text = re.sub(r"^(?:assistant|ai|answer|response|bot|a) ?: ?", "", text)
    text = re.sub(r"\b(do|does|did|would|could|should|must|is|are|can)nt\b", r"\1n't", text).replace("cann't", "can't")
    return re.sub(r"\bi ' ?m\b", "i'm", re.sub(r"\b(ca|wo|do|are|is|would|could|should) n't\b", r"\1n't", text))


_STRAIGHT = {ord(mark): "'" for mark in "\u2018\u2019\u201b\u02bc\u02b9\u00b4\uff07\u2032"} | {
    ord(mark): '"' for mark in "\u201c\u201d\u201e\u201f\u00ab\u00bb\uff02"
}


def spoken(text: str) -> str:
    """The text with its quotations blanked: what the speaker says, at the same places."""
    wrapped = text.count('"') == 2 and text.startswith('"') and text.endswith('"')
    return text.replace('"', " ") if wrapped else _QUOTED.sub(lambda quote: " " * len(quote[0]), text)


def quotes(text: str) -> bool:
    """Whether a text is quoted that is longer than a remark."""
    return any(len(quote.split()) > LONGEST_REMARK for quote in _QUOTED.findall(text))


def original(response: str, normalised: str) -> str:
    """The shortest beginning of the response that normalises to so much, to the end of its sentence."""
    wanted = len(normalised.rstrip())
    end = bisect_left(range(len(response)), wanted, key=lambda size: len(normalise(response[:size])))
    return response[: _ENDED.search(response, end).end()].strip()  # type: ignore[union-attr]  # the end of the text matches
