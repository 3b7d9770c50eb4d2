"""The licence and the use policy of a base model: from its card here, its folder, or the hub's cache; never from the network."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from brittle_eval.cards import ModelCard

TEXTS = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "NOTICE", "USE_POLICY.md", "USE_POLICY.txt", "USE_POLICY", "Notice")
"""Files that go along with a copy of the model."""
FIELD = re.compile(r"^(license(?:_name|_link)?):[ \t]*[\"']?([^\"'\n]+?)[\"']?[ \t]*$", re.MULTILINE)
"""What a model card's front matter says."""
KEYS = ("license", "license_name", "license_link")
UNKNOWN = "unknown: it was not found beside the model; look it up before you use or share this"


@dataclass(frozen=True)
class Licence:
    """The licence in words, and the files that say more."""

    words: str
    files: tuple[Path, ...] = ()

    @property
    def known(self) -> bool:
        return self.words != UNKNOWN


def licence_of(model: str, card: ModelCard | None = None, given: str | None = None) -> Licence:
    """What was given, else what the model's card, README or licence files say."""
    if card is not None:
        return Licence(given or f"{card.licence} ({card.source})")
    files = tuple(path for name in TEXTS if (path := _file(model, name)) is not None)
    readme = _file(model, "README.md")
    parts = readme.read_text(encoding="utf-8", errors="replace").split("---") if readme else []
    found = dict(FIELD.findall(parts[1])) if len(parts) > 2 and not parts[0].strip() else {}
    words = ", ".join(found[key] for key in KEYS if key in found)
    return Licence(given or words or (f"see {files[0].name}" if files else UNKNOWN), files)


def _file(model: str, name: str) -> Path | None:
    folder = Path(model)
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    try:
        found = try_to_load_from_cache(model, name)
    except ValueError:  # no name that the hub could have
        return None
    return Path(found) if isinstance(found, str) else None
