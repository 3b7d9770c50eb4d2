"""What the plugins bring: methods by kind and name, with their provenance; folders of tasks and of cards."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from brittle_eval import methods
from brittle_eval.discovery import DISABLE, Broken, Brought, Source, discover, one_line
from brittle_eval.errors import BrittleError, UnknownName
from brittle_eval.recipe import NAME, RESERVED

CONTRACTS: Mapping[str, type] = {
    "attribution": methods.Attribution,
    "isolation": methods.Isolation,
    "modification": methods.Modification,
    "judge": methods.Judge,
}
"""The kinds of method, and what a class of each kind derives from."""


@dataclass(frozen=True)
class Entry:
    """One registered method."""

    kind: str
    name: str
    target: type | str
    """A class, or `"module:Class"`, imported on use."""
    source: Source

    @property
    def distribution(self) -> str:
        return self.source.distribution

    @property
    def version(self) -> str:
        return self.source.version


@dataclass(frozen=True)
class Folder:
    """A folder of tasks or of cards."""

    path: Path
    source: Source


@dataclass
class Plugins:
    """Everything that the installed plugins and the files given with `--plugin` bring."""

    methods: dict[tuple[str, str], Entry] = field(default_factory=dict)
    task_folders: list[Folder] = field(default_factory=list)
    registry_folders: list[Folder] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)

    @classmethod
    def load(cls, files: Iterable[Path | str] = ()) -> Plugins:
        """All that is installed and not blocked by `BRITTLE_EVAL_DISABLE_PLUGINS`, then the files.

        What does not import, or raises, or is of the wrong type is listed in `broken`, and the rest goes on.
        BrittleError: a file that is missing or does not import, a hook that does not exist, two plugins with one name.
        """
        brought, broken = discover(files)
        plugins = cls(broken=broken)
        for item in brought:
            plugins._take(item)
        return plugins

    def _take(self, item: Brought) -> None:
        kind = item.hook.removeprefix("brittle_").removesuffix("s")
        try:
            if kind in CONTRACTS:
                for entry in list(_entries(kind, item)):
                    self._add(entry)
            else:
                folders = self.task_folders if item.hook == "brittle_task_paths" else self.registry_folders
                folders.extend(list(_folders(item)))
        except BrittleError:
            raise
        except Exception as error:  # a stranger's mapping or generator may raise anything
            self.broken.append(Broken(item.source, f"{item.hook}: {one_line(error)}"))

    def _add(self, entry: Entry) -> None:
        other = self.methods.setdefault((entry.kind, entry.name), entry)
        if other is not entry:
            raise BrittleError(
                f"two plugins bring the {entry.kind} '{entry.name}': '{other.source.plugin}' of {other.source} and "
                f"'{entry.source.plugin}' of {entry.source}; block one with {DISABLE}={entry.source.plugin}"
            )

    @property
    def hint(self) -> str:
        """A sentence on the broken plugins, which might have brought a name that is missing."""
        return f"({'; '.join(map(str, self.broken))})" if self.broken else ""

    def entries(self, kind: str) -> list[Entry]:
        """The methods of a kind, by name."""
        return sorted((entry for entry in self.methods.values() if entry.kind == kind), key=lambda entry: entry.name)

    def names(self, kind: str) -> list[str]:
        """The names registered under a kind, sorted."""
        return [entry.name for entry in self.entries(kind)]

    def kinds(self, name: str) -> frozenset[str]:
        """The kinds of method registered under a name."""
        return frozenset(kind for kind, known in self.methods if known == name)

    def entry(self, kind: str, name: str) -> Entry:
        """One method's entry; UnknownName with the nearest names."""
        if (kind, name) not in self.methods:
            raise UnknownName(kind, name, self.names(kind), self.hint)
        return self.methods[kind, name]

    def get(self, kind: str, name: str) -> type[Any]:
        """One method's class, imported on first use; BrittleError naming its plugin where that fails."""
        entry = self.entry(kind, name)
        target = entry.target
        if isinstance(target, str):
            module, _, attribute = target.partition(":")
            try:
                target = getattr(importlib.import_module(module), attribute)
            except Exception as error:  # a stranger's module may raise anything
                raise BrittleError(f"{_whose(entry)} cannot be imported from '{target}': {one_line(error)}") from error
        if not (isinstance(target, type) and issubclass(target, CONTRACTS[kind])):
            raise BrittleError(f"{_whose(entry)} is {target!r}, expected a subclass of {CONTRACTS[kind].__name__}")
        return target

    def task_paths(self) -> tuple[Path, ...]:
        """Folders with lm-eval task YAML."""
        return tuple(folder.path for folder in self.task_folders)

    def registry_paths(self) -> tuple[Path, ...]:
        """Folders with cards."""
        return tuple(folder.path for folder in self.registry_folders)


def _whose(entry: Entry) -> str:
    return f"{entry.kind} '{entry.name}' of plugin '{entry.source.plugin}' ({entry.source})"


def _entries(kind: str, item: Brought) -> Iterator[Entry]:
    if not isinstance(item.value, Mapping):
        raise TypeError(f"returned {item.value!r}, expected a mapping from names to classes or 'module:Class'")
    for name, target in item.value.items():
        if not (isinstance(name, str) and NAME.fullmatch(name)) or name in RESERVED:
            raise TypeError(f"brings the name {name!r}, expected lower-case words with hyphens, and not {' or '.join(RESERVED)}")
        if not isinstance(target, type) and not (isinstance(target, str) and target.count(":") == 1):
            raise TypeError(f"brings {target!r} as '{name}', expected a class or 'module:Class'")
        yield Entry(kind, name, target, item.source)


def _folders(item: Brought) -> Iterator[Folder]:
    if isinstance(item.value, str | Path) or not isinstance(item.value, Iterable):
        raise TypeError(f"returned {item.value!r}, expected a list of folders")
    for path in map(Path, item.value):
        if not path.is_dir():
            raise TypeError(f"brings '{path}', which is not a folder")
        yield Folder(path, item.source)
