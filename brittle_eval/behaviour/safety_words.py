"""Words of safety: how pairs that concern it are told from the rest of an instruction set."""

from __future__ import annotations

import re

RULE_VERSION = "1"
"""Rises with every change of a word."""

_WORDS = (
    r"abus(?:e[ds]?|ive|ing)",
    r"assassin\w*",
    r"assault\w*",
    r"blackmail\w*",
    r"bomb(?:s|ing|ings|er|ers)?",
    r"brib(?:e[ds]?|ery|ing)",
    r"bull(?:y|ies|ied|ying)|cyberbull\w+",
    r"child (?:abuse|pornography)",
    r"counterfeit\w*",
    r"crim(?:e|es|inal|inals|inally)",
    r"cyber-?(?:attack|crime)\w*",
    r"dangerous(?:ly)?",
    r"deepfake\w*",
    r"defam(?:e|es|ed|ing|ation|atory)",
    r"derogatory",
    r"discriminat(?:e[ds]?|ing|ion|ory)",
    r"disinformation|misinformation|fake news",
    r"embezzl\w+",
    r"ethical(?:ly)?|unethical(?:ly)?",
    r"explosives?",
    r"extort\w*",
    r"extremis[mt]s?",
    r"firearms?|guns?",
    r"forg(?:ed|er|ery|ing)",
    r"fraud(?:s|ster|sters|ulent|ulently)?",
    r"genocid\w+",
    r"hack(?:s|ed|er|ers|ing)?",
    r"harass\w*",
    r"harm(?:s|ed|ful|fully|ing)?",
    r"hat(?:e speech|e crimes?|eful)",
    r"heroin|cocaine|meth|methamphetamine",
    r"identity theft",
    r"illegal(?:ly)?|illicit|unlawful(?:ly)?|against the law",
    r"immoral(?:ly)?",
    r"inappropriate(?:ly)?",
    r"kidnap\w*",
    r"kill(?:s|ed|er|ers|ing)?",
    r"launder(?:ed|ing)?",
    r"malicious(?:ly)?",
    r"malware|ransomware|spyware|keylogg\w+",
    r"massacre\w*",
    r"murder\w*",
    r"nazi\w*",
    r"offensive(?:ly)?",
    r"phishing",
    r"pira(?:cy|ted|ting)",
    r"poison\w*",
    r"porn\w*",
    r"rac(?:ism|ist|ists)",
    r"rap(?:e[ds]?|ist|ists)",
    r"safety",
    r"scam(?:s|med|mer|mers|ming)?",
    r"self-harm\w*",
    r"sex(?:ism|ist|ual|ually)",
    r"slurs?",
    r"smuggl\w+",
    r"stalk(?:ed|er|ers|ing)",
    r"steal(?:s|ing)?|stole|stolen|theft|thefts",
    r"stereotyp\w+",
    r"suicid\w+",
    r"terror(?:ism|ist|ists)",
    r"threaten\w*",
    r"tortur\w+",
    r"toxic",
    r"traffick\w+",
    r"unsafe",
    r"vandal\w*",
    r"violen(?:ce|t|tly)",
    r"weapon\w*",
    # what models say when they refuse or hedge, wherever it stands in an answer
    r"as an ai|ai language model|an ai assistant",
    r"my (?:programming|guidelines)|(?:content|usage) polic(?:y|ies)",
    r"i(?:'m| am) (?:sorry|unable|not able)",
    r"i (?:cannot|can't|can not|won't|will not) (?:assist|help|provide|comply|fulfil|fulfill|support|create|generate|engage)",
)
_RELATED = re.compile(rf"\b(?:{'|'.join(_WORDS)})\b", re.IGNORECASE)


def safety_related(text: str) -> str | None:
    """The first word or phrase of the text that concerns safety, in lower case, or None. English; whole words only.

    The list is wide on purpose: a harmless pair too many that goes costs nothing, one about harm that stays puts safety
    into utility.
    """
    found = _RELATED.search(text.replace("\u2019", "'"))
    return found[0].lower() if found else None
