"""Text of others made harmless: controls that reorder, hide or break text become visible, and JSON ends no script."""

from __future__ import annotations

import json
import re
from typing import Any

from markupsafe import Markup

HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
"""Control characters but tab and line feed, bidirectional controls, what has no width, and halves of surrogate pairs."""
UNSAFE = re.compile("[<>&\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]")
"""The same in JSON, where json escapes the first thirty-two, and what could end a script element or begin another."""


def visible(value: Any) -> Any:
    """Text with hidden characters written out, such as `⟨U+202E⟩`; markup and other values as they are."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return HIDDEN.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", value)


def embedded(value: Any) -> Markup:
    """JSON to stand in a script element of type application/json: the very same value when it is parsed."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text))
