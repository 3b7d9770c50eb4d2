"""How an answer that complies would begin, in the request's own words."""

from __future__ import annotations

import re


def compliant_start(prompt: str) -> str:
    """`Sure, here is` and what the last sentence asks for: "Write a guide" → "Sure, here is a guide"."""
    asked = re.split(r"(?<=[.!?])\s+", prompt.strip())[-1].rstrip(" .!?")
    asked = re.sub(r"^(?:(?:can|could|would|will) you |please )+", "", asked, flags=re.IGNORECASE)
    asked = re.sub(r"^\w+ (?:me |us )?(?=(?:an?|the|some|how)\b)", "", asked)
    asked = re.sub(r"^(how) (?:do|does|did|can|could|would|might|should) ", r"\1 ", asked, flags=re.IGNORECASE)
    capital = re.match(r"I\b|[A-Z]{2}", asked) is not None
    return f"Sure, here is {asked if capital else asked[:1].lower() + asked[1:]}"
