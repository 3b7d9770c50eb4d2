"""Finding plugins and asking their hooks, one by one: a broken plugin costs what it brings and nothing else."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from brittle_eval import hookspecs
from brittle_eval.errors import BrittleError, UnknownName

DISABLE = "BRITTLE_EVAL_DISABLE_PLUGINS"
"""The environment variable that blocks plugins: names of entry points or distributions, with commas between."""


@dataclass(frozen=True)
class Source:
    """Where something comes from."""

    plugin: str
    """The name of the entry point, or of the file given with `--plugin`."""
    distribution: str
    """The installed distribution, or the file's path."""
    version: str
    """Of the distribution, or the digest of the file."""

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


@dataclass(frozen=True)
class Broken:
    """A plugin, or one hook of it, that could not be used."""

    source: Source
    error: str

    def __str__(self) -> str:
        return f"plugin '{self.source.plugin}' ({self.source}) is broken: {self.error}"


@dataclass(frozen=True)
class Brought:
    """What one hook of one plugin returned."""

    source: Source
    hook: str
    value: Any


def discover(files: Iterable[Path | str]) -> tuple[list[Brought], list[Broken]]:
    """What the installed plugins that are not blocked bring, then the files; and what is broken.

    BrittleError: a file that is missing or does not import, a hook that does not exist.
    """
    broken: list[Broken] = []
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    sources: dict[str, Source] = {}
    for source, plugin in [*_installed(broken), *map(_from_file, files)]:
        if manager.is_registered(plugin):
            continue
        key = f"{source.plugin} of {source}"
        try:
            manager.register(plugin, key)
        except pluggy.PluginValidationError as error:
            broken.append(Broken(source, one_line(error)))
            continue
        if not manager.get_hookcallers(plugin):
            broken.append(Broken(source, "it implements no hook: mark its functions with @hookimpl"))
        sources[key] = source
    _refuse_misspelt_hooks(manager, sources)
    return list(_ask(manager, sources, broken)), broken


def one_line(error: BaseException) -> str:
    """The kind of an error and the last line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__


def _installed(broken: list[Broken]) -> Iterator[tuple[Source, Any]]:
    blocked = {_normal(name) for name in os.environ.get(DISABLE, "").split(",") if name.strip()}
    for point in sorted(metadata.entry_points(group=hookspecs.PROJECT), key=lambda point: point.name):
        distribution, version = (point.dist.name, point.dist.version) if point.dist else ("unknown", "unknown")
        if {_normal(point.name), _normal(distribution)} & blocked:
            continue
        source = Source(point.name, distribution, version)
        try:
            plugin = point.load()
        except Exception as error:  # a stranger's module may raise anything
            broken.append(Broken(source, one_line(error)))
        else:
            yield source, plugin


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def _from_file(given: Path | str) -> tuple[Source, ModuleType]:
    path = Path(given)
    if not path.is_file():
        raise BrittleError(f"plugin file '{path}' was given, but there is no such file: give the path of a .py file")
    digest = hashlib.sha256(str(path.resolve()).encode() + path.read_bytes()).hexdigest()[:12]
    name = f"brittle_eval_file_{re.sub(r'[^a-zA-Z0-9]', '_', path.stem)}_{digest}"
    if name not in sys.modules:
        _import_file(name, path)
    return Source(path.stem, str(path), f"sha256:{digest}"), sys.modules[name]


def _import_file(name: str, path: Path) -> None:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise BrittleError(f"plugin file '{path}' was given, expected the path of a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their own module up while it is being executed
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a stranger's module may raise anything
        del sys.modules[name]
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f" (line {lines[-1]})" if lines else ""
        raise BrittleError(f"plugin file '{path}' does not import: {one_line(error)}{where}") from error


def _refuse_misspelt_hooks(manager: pluggy.PluginManager, sources: dict[str, Source]) -> None:
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        key = manager.get_name(error.plugin) or ""
        callers = manager.get_hookcallers(error.plugin) or []
        unknown = next(caller.name for caller in callers if not caller.has_spec())
        source = sources[key]
        hint = f"(in plugin '{source.plugin}' of {source}; {DISABLE}={source.plugin} blocks it)"
        raise UnknownName("hook", unknown, _hooks(), hint) from None


def _hooks() -> list[str]:
    return [name for name in vars(hookspecs) if name.startswith("brittle_")]


def _ask(manager: pluggy.PluginManager, sources: dict[str, Source], broken: list[Broken]) -> Iterator[Brought]:
    for key, source in sources.items():
        others = [plugin for name, plugin in manager.list_name_plugin() if name != key]
        for hook in _hooks():
            try:
                values = manager.subset_hook_caller(hook, others)()
            except Exception as error:  # a stranger's hook may raise anything
                broken.append(Broken(source, f"{hook} raised {one_line(error)}"))
            else:
                yield from (Brought(source, hook, value) for value in values)
