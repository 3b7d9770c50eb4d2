"""Data sets by name: the user's file, a folder of local copies, or a download; what was read is known by its digest."""

from __future__ import annotations

import hashlib
import os
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path

from brittle_eval.cards import DatasetCard, datasets
from brittle_eval.errors import BrittleError, CannotRun, UnknownName
from brittle_eval.plugins import Plugins
from brittle_eval.tables import Row, parse, read, text_of

FOLDER_VARIABLE = "BRITTLE_EVAL_DATA"
SECONDS = 20
"""How long a download may keep silent."""
USER_FILES = {
    "suffixes": "a UTF-8 text file with one adversarial suffix a line",
    "templates": "a UTF-8 file with one jailbreak template a line, or jsonl rows with a key template; each holds {prompt} once",
    "demonstrations": "a csv, json or jsonl file of pairs with the columns prompt and response",
    "translations": "a csv, json or jsonl file with the columns row, translation and, for several languages, language",
}
"""Names of `--data` that no card describes, because the project ships no such data."""


@dataclass(frozen=True)
class Sources:
    """Where data sets are read from: `overrides` by name first, then `folder`, then the card's address."""

    cards: Mapping[str, DatasetCard]
    overrides: Mapping[str, Path] = field(default_factory=dict)
    """Files given by name; they may differ from the card's file."""
    folder: Path | None = None
    """Holds the cards' files under their relative names; here the digest must agree with the card."""
    _digests: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, path in self.overrides.items():
            if name not in self.cards and name not in USER_FILES:
                raise UnknownName("data set", name, [*self.cards, *USER_FILES])
            if not path.is_file():
                raise BrittleError(
                    f"--data {name}={path}: no such file; give the path of {USER_FILES.get(name, 'a csv, json or jsonl file')}"
                )
        if self.folder is not None and not self.folder.is_dir():
            raise BrittleError(
                f"{FOLDER_VARIABLE}={self.folder} is no folder: set it to the folder with the data sets, or unset it"
            )

    def rows(self, name: str, needed_by: str = "this run") -> list[Row]:
        """The rows of a data set. A JSON list of texts gives rows with the key `prompt`; the values of a csv file are texts."""
        if name not in self.cards:
            raise UnknownName("data set", name, self.cards)
        path, content = self._find(self.cards[name], needed_by)
        rows = parse(content, path)
        if not rows:
            raise BrittleError(f"{path} has no rows: '{name}' needs at least one; give another file with --data {name}=PATH")
        return rows

    def lines(self, name: str, needed_by: str = "this run") -> list[str]:
        """The lines of a user's text file, blank ones left out. Raises `CannotRun` if none was given."""
        if name not in self.overrides:
            raise CannotRun(f"{needed_by} needs {USER_FILES[name]}: give it with --data {name}=FILE")
        path = self.overrides[name]
        text = text_of(self._note(name, read(path)), path)
        lines = [stripped for line in text.split("\n") if (stripped := line.strip(" \t\r"))]
        if not lines:
            raise BrittleError(f"{path} is empty: --data {name}=FILE expects {USER_FILES[name]}")
        return lines

    def user_rows(self, name: str, columns: Sequence[str], needed_by: str = "this run") -> list[Row]:
        """The rows of a user's file, which must have the columns. Raises `CannotRun` if none was given."""
        if name not in self.overrides:
            raise CannotRun(f"{needed_by} needs {USER_FILES[name]}: give it with --data {name}=FILE")
        path = self.overrides[name]
        rows = parse(self._note(name, read(path)), path)
        if not rows:
            raise BrittleError(f"{path} is empty: --data {name}=FILE expects {USER_FILES[name]}")
        for number, row in enumerate(rows, 1):
            if missing := [column for column in columns if not str("" if row.get(column) is None else row[column]).strip()]:
                raise BrittleError(f"{path}, row {number}: has no {missing[0]}; --data {name}=FILE expects {USER_FILES[name]}")
        return rows

    def at_hand(self, name: str) -> bool:
        """Whether `rows` needs no network."""
        return self.here(name) is not None

    def here(self, name: str) -> Path | None:
        """The file that a data set would be read from without a network, unchecked; None where there is none."""
        if name in self.overrides or name not in self.cards:
            return self.overrides.get(name)
        card = self.cards[name]
        places = [*([self.folder / card.file] if self.folder is not None else []), _downloaded(card)]
        return next((path for path in places if path.is_file()), None)

    def digests(self) -> dict[str, str]:
        """sha256 of every data set read so far, by name."""
        return dict(self._digests)

    def _find(self, card: DatasetCard, needed_by: str) -> tuple[Path, bytes]:
        if (given := self.overrides.get(card.name)) is not None:
            return given, self._note(card.name, read(given))
        path = self.folder / card.file if self.folder is not None else None
        if path is None or not path.is_file():
            path = _fetched(card, needed_by)
        return path, self._note(card.name, _checked(card, read(path), str(path)))

    def _note(self, name: str, content: bytes) -> bytes:
        self._digests[name] = hashlib.sha256(content).hexdigest()
        return content


_current: Sources | None = None


def set_sources(sources: Sources | None) -> None:
    """Make these the process's sources; None goes back to the environment's."""
    global _current
    _current = sources


def sources() -> Sources:
    """The process's sources; if none were set: the registered cards and the folder of `BRITTLE_EVAL_DATA`."""
    if _current is None:
        set_sources(from_options(datasets(Plugins.load()), (), os.environ))
    assert _current is not None
    return _current


def from_options(cards: Mapping[str, DatasetCard], options: Sequence[str], environment: Mapping[str, str]) -> Sources:
    """Sources from the `--data NAME=PATH` options and the environment."""
    overrides: dict[str, Path] = {}
    for option in options:
        name, equals, path = option.partition("=")
        if not (name and equals and path):
            raise BrittleError(f"--data {option}: expected NAME=PATH, such as advbench=harmful_behaviors.csv")
        if name in overrides:
            raise BrittleError(f"--data {name} is given twice: {overrides[name]} and {path}; give it once")
        overrides[name] = Path(path).expanduser()
    folder = environment.get(FOLDER_VARIABLE)
    return Sources(cards, overrides, Path(folder).expanduser() if folder else None)


def download_folder() -> Path:
    """Where downloaded data sets are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "brittle-eval" / "data"


def _downloaded(card: DatasetCard) -> Path:
    return download_folder() / (card.sha256[:16] if card.sha256 else f"unverified-{card.name}") / Path(card.file).name


def _fetched(card: DatasetCard, needed_by: str) -> Path:
    """The card's file from an earlier download or a new one; written whole or not at all."""
    path = _downloaded(card)
    if path.is_file():
        return path
    reason = "it has no public address"
    try:
        if card.url:
            with urllib.request.urlopen(card.url, timeout=SECONDS) as answer:
                content = _checked(card, answer.read(), card.url)
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(path.name + ".part")
            part.write_bytes(content)
            return part.replace(path)
        if card.hub:
            from huggingface_hub import hf_hub_download

            return Path(hf_hub_download(card.hub, card.file, repo_type="dataset"))
    except (OSError, ValueError, HTTPException) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        reason = f"no network to {card.url or card.hub} ({first[:120]})"
    raise CannotRun(
        f"{needed_by} needs the data set '{card.name}' ({card.source}), which is not on this machine, and {reason}: "
        f"set {FOLDER_VARIABLE} to a folder that holds {card.file}, or give --data {card.name}=PATH"
    )


def _checked(card: DatasetCard, content: bytes, where: str) -> bytes:
    found = hashlib.sha256(content).hexdigest()
    if card.sha256 and found != card.sha256:
        raise BrittleError(
            f"{where} is not the file that the card '{card.name}' describes: its sha256 is {found}, expected {card.sha256}; "
            f"get a right copy ({card.source}), or use another file on purpose with --data {card.name}=PATH"
        )
    return content
