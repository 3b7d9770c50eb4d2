"""Degeneracy: whether an answer is empty, loops or babbles, so that a broken model is not counted as compliant."""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, Literal

RULES_VERSION: Final = "1"
"""Rises with every change of a rule or threshold; rows of different versions are not comparable."""

MAX_PERPLEXITY: Final = 700.0
"""Gibberish from here on: exp(mean nats per answer token) under the unedited model, given the rendered prompt."""
MIN_PERPLEXITY_WORDS: Final = 12
"""Shorter answers are never judged by perplexity: a correct single word can be surprising."""
MAX_PERIOD: Final = 40
"""Longest loop looked for, in words."""
MIN_LOOPS: Final = 5
"""A loop is a phrase this many times in a row."""
MIN_DIGITS: Final = 24
"""Loops of numbers shorter than this pass: a row of zeros can be the answer."""
MAX_REPEATED: Final = 0.5
"""Share of four-word sequences that came before in the answer, or in its last `TAIL` words, that makes repetition."""
TAIL: Final = 60
MIN_REPEATED_WORDS: Final = 20
MAX_DOMINANCE: Final = 0.6
"""Share of one word among all words from which it is repetition."""
MIN_DOMINANCE_WORDS: Final = 12
MIN_COMPRESSION: Final = 0.14
"""Bytes after zlib over bytes before, below which it is repetition; for answers of `MIN_COMPRESSION_BYTES` and more."""
MIN_COMPRESSION_BYTES: Final = 160
MAX_FRAGMENTS: Final = 0.33
"""Share of lower-case pieces of two or three letters that are no words, from which it is gibberish."""
MIN_FRAGMENT_WORDS: Final = 10

Rule = Literal["empty", "repetition", "gibberish"]

_MARKUP = re.compile(r"<\|[\w-]+\|>|</?s>|&nbsp;|(?:<br\s*/?>\s*){2,}")
_TAGS = re.compile(r"</?[a-zA-Z][\w-]*\s*/?>|&[a-z]+;|<\|[\w-]+\|>")
_FILLER = re.compile(r"[\s.…,;:!?\-\u2013\u2014*_#>~|=`'\"]*")
_OPERATOR = re.compile(r"[-+*/%!?&@#$=<>^~|:]{1,3}")
_SIGNAL = re.compile(r"(?=.*\.)(?=.*-)[.-]{1,6}(?:[ /]+[.-]{1,6})+")
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_NUMBERING = re.compile(r"^\s*(?:\(?\d+[.):]+|step \d+:?)\s", re.MULTILINE | re.IGNORECASE)
_SYMBOL_LOOP = re.compile(r"([^\w\s])(?:\s+\1){11,}\s*$|([!?,;:()\[\]{}\"'])\2{15,}")
_SYMBOL_RUN = re.compile(r"[^\w\s]{2,}|_{2,}")
_MOJIBAKE = re.compile(r"[\u00c3\u00c2][\u0080-\u00ff\u0192\u0160-\u017e\u2013-\u2122]|\u00e2[\u0080-\u009f\u201a-\u20ac\u2122]")
_PIECE_MARK = re.compile(r"▁|(?<!\S)##(?=[a-z])|Ġ")
_SHORT = """
aan ad add age ago ah ai aid ail aim air al ale all als am an and ant any ao ape api app arc are ark arm arr art as
ash ask at ate au auf aus aux avg aw ax bad bag ban bar bat bay be bed bee beg bei bet bid big bij bin bit bob bow box
boy bud bug bun bus but buy by bye cab can cap car cat ce ces che cm cob cod con cos cow cry css cub cue cup cut da
dad dam das dat day de def del dem den der des dew di did die dig dim din dip do doe dog dos dot dry dst du due dye
ear eat ed een egg ego ein el ela ele elf elk em en end env er era es est et etc eve ex eye fan far fat fax fed fee
few fig fin fit fix fly fn fog foi for fox fry ft fue fun fur gap gas gel gem get gli go god got gum gun gut guy gym
ha had ham has hat hay he hen her het hey hi hij him hip his hit ho hog hop hot how hr hub hug hum hut ice ich idx if
ik il ill ils im in ink inn int ion is ist it its jam jar jaw je jet job jog joy jug key kg kid kin kit km la lab lad
lap las law lay lb lbs le led leg len les let lid lie lip lit lo log los lot low ma mad man map mas mat max may me men
mes met mg mi mid min mio mit mix ml mm mob mod mom mop mr mrs ms mud mug mum muy my na nap nas ne nel net new nil no
nod non nor not now num nur nut oak oar oat obj odd of off oh oil ok old om on one ook op or ore os ou our out owe owl
own oz pad pan par pas pat paw pay pea pen per pet php pie pig pin pit pm pop por pot pro pub put que qui ran rat raw
ray red rib rid rim rip rob rod rot row rub rug rum run sa sad sap sat saw say se sea see ses set seu sew sex she shy
si sie sin sip sir sit six ski sky so sob son soy spa spy sql src std str su sub sue sum sun sur sus tab tag tan tap
tar tax te tea ten the tie tin tip tmp to toe ton too top toy try tu tub two uit um uma un una und une uno up url us
use van var vet via von vor vs war was wax way we web wet who why wie wig win wir wit woe wok won wow xml xor yes yet
you zip zoo zu zum zur
"""
_SHORT_WORDS: Final = frozenset(_SHORT.split())
"""Words of two and three letters: English, code, and the commonest of six other languages."""


def degenerate(text: str, perplexity: float | None = None) -> Rule | None:
    """The rule by which an answer is broken, or None for an answer that holds together, right or wrong.

    `empty`: nothing but space, punctuation and markup. `repetition`: a loop, few distinct word sequences, one
    dominating word, or text that zlib shrinks to almost nothing. `gibberish`: symbols, broken encoding, word fragments,
    mixed scripts, or a `perplexity` of `MAX_PERPLEXITY` and more (exp of nats per token under the unedited model; None:
    not known). Every rule but `empty` asks for some length, so a short correct answer passes.
    """
    if _is_empty(text):
        return "empty"
    if _repeats(text):
        return "repetition"
    if _is_gibberish(text) or _surprises(text, perplexity):
        return "gibberish"
    return None


def _is_empty(text: str) -> bool:
    bare = _MARKUP.sub(" ", text).strip()
    return _FILLER.fullmatch(bare) is not None and not _OPERATOR.fullmatch(bare) and not _SIGNAL.fullmatch(bare)


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(_NUMBERING.sub(" ", _TAGS.sub(" ", text)))]


def _repeats(text: str) -> bool:
    words = _words(text)
    data = text.strip().encode(errors="replace")
    dense = len(data) >= MIN_COMPRESSION_BYTES and len(zlib.compress(data, 9)) < MIN_COMPRESSION * len(data)
    return (
        dense
        or any(_is_loop(words, period) for period in range(1, min(MAX_PERIOD, len(words) // MIN_LOOPS) + 1))
        or max(_repeated_share(words), _repeated_share(words[-TAIL:])) >= MAX_REPEATED
        or _dominance(words) >= MAX_DOMINANCE
        or _SYMBOL_LOOP.search(text) is not None
    )


def _is_loop(words: Sequence[str], period: int) -> bool:
    """Whether a phrase of `period` words comes `MIN_LOOPS` times in a row and fills or ends the answer."""
    run = longest = final = 0
    for index in range(period, len(words)):
        run = run + 1 if words[index] == words[index - period] else 0
        longest = max(longest, run)
        final = run if index < len(words) - 2 else max(final, run)
    if not words or longest + period < MIN_LOOPS * period:
        return False
    covered = longest + period
    if covered < MIN_DIGITS and sum(word.isdigit() for word in words) >= 0.8 * len(words):
        return False
    ends = final + period >= MIN_LOOPS * period
    share = covered / len(words)
    return (covered >= 16 and (ends or share >= 0.3)) or (covered >= 10 and share >= 0.8)


def _repeated_share(words: Sequence[str]) -> float:
    if len(words) < MIN_REPEATED_WORDS:
        return 0.0
    grams = [tuple(words[index : index + 4]) for index in range(len(words) - 3)]
    return 1 - len(set(grams)) / len(grams)


def _dominance(words: Sequence[str]) -> float:
    if len(words) < MIN_DOMINANCE_WORDS:
        return 0.0
    word, count = Counter(words).most_common(1)[0]
    return 0.0 if word.isdigit() else count / len(words)


def _is_gibberish(text: str) -> bool:
    visible = [character for character in text if not character.isspace()]
    broken = visible.count("\ufffd")
    return (
        (broken >= 3 and broken >= 0.05 * len(visible))
        or sum(map(len, _MOJIBAKE.findall(text))) >= max(6.0, 0.3 * len(visible))
        or _is_symbols(text)
        or _fragment_share(text) >= MAX_FRAGMENTS
        or len(_PIECE_MARK.findall(text)) >= max(3.0, 0.15 * len(text.split()))
        or _mixes_scripts(text)
    )


def _is_symbols(text: str) -> bool:
    """Runs of symbols with hardly a letter between them."""
    visible = re.sub(r"\s", "", _TAGS.sub("", text))
    letters = sum(character.isalpha() for character in visible)
    runs = sum(map(len, _SYMBOL_RUN.findall(_TAGS.sub("", text))))
    return len(visible) >= 10 and letters < 0.25 * len(visible) and runs >= 0.4 * len(visible)


def _fragment_share(text: str) -> float:
    """Share of lower-case pieces of two or three letters that are no words; 0 if short or rich in accented letters."""
    pieces: list[str] = re.findall(r"[^\W\d_]+|[^\w\s]{2,}|\d+", _TAGS.sub(" ", text))
    accented = sum(not character.isascii() for character in text if character.isalpha())
    if len(pieces) < MIN_FRAGMENT_WORDS or accented > 0.03 * len(text):
        return 0.0
    return sum(2 <= len(p) <= 3 and p.islower() and p not in _SHORT_WORDS for p in pieces) / len(pieces)


def _mixes_scripts(text: str) -> bool:
    """Four scripts and more, changing from word to word."""
    scripts = [_script(word[0]) for word in _WORD.findall(text) if word[0].isalpha()]
    changes = sum(a != b for a, b in pairwise(scripts))
    return len(scripts) >= 8 and len(set(scripts)) >= 4 and changes >= 0.6 * (len(scripts) - 1)


def _script(letter: str) -> str:
    name = unicodedata.name(letter, "UNKNOWN").split()[0].split("-")[0]
    return "CJK" if name in {"CJK", "HIRAGANA", "KATAKANA"} else name


def long_enough(text: str) -> bool:
    """Whether the answer has words enough to be judged by perplexity; a caller can spare itself the others'."""
    return len(_WORD.findall(text)) >= MIN_PERPLEXITY_WORDS


def _surprises(text: str, perplexity: float | None) -> bool:
    return perplexity is not None and long_enough(text) and perplexity >= MAX_PERPLEXITY
