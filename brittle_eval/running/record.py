"""What a run leaves on disk: configuration, one finished file a task and row, samples (mode 0600), rows and results."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TextIO

import jsonlines
from filelock import FileLock, Timeout

from brittle_eval.errors import BrittleError
from brittle_eval.judgement.agreement import Agreement, pooled

SCHEMA = 1
PACKAGES = ("brittle-eval", "torch", "transformers", "lm-eval", "peft")
Role = Literal["attack", "harmless", "utility", "measure", "other"]


@dataclass
class TaskResult:
    """One task on one model. `values` are the numbers of the table; `items` pair this model's items with another's."""

    task: str
    role: Role
    status: Literal["done", "not run"] = "done"
    reason: str = ""
    group: str | None = None
    n: int = 0
    values: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    items: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class Row:
    """One model of a run with everything it takes to reproduce and compare it; never generated text."""

    name: str
    kind: Literal["unedited", "edited", "control"]
    recipe: str
    """The plan as the user named it, or `none`."""
    plan: str
    model: str
    fingerprint: str
    unverified: list[str] = field(default_factory=list)
    """Options of the plan whose defaults nobody has verified, with their values."""
    region: dict[str, float] = field(default_factory=dict)
    tasks: list[TaskResult] = field(default_factory=list)
    data: dict[str, str] = field(default_factory=dict)
    """sha256 of every data set that was read."""
    judges: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Every judge of the row's answers: method, version, options, what it counts."""
    batch_size: int = 0
    limited: bool = False
    preset: str = ""
    """Name and version of the preset; rows of different presets are never ranked together."""
    numbers: dict[str, float | None] = field(default_factory=dict)
    """The preset's own numbers."""
    condition: str = ""
    """What was put around every request, and the version of its texts."""
    config: str = ""
    seconds: float = 0.0
    schema: int = SCHEMA

    @property
    def folder(self) -> str:
        """Where the plan's files lie in the run's folder."""
        return as_file(self.recipe)


def versions() -> dict[str, str]:
    """Python's and the packages' versions."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}


def _plain(value: Any) -> Any:
    """JSON without NaN: what is no number becomes null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    return str(value)


def as_file(name: str) -> str:
    """A name that is safe as a file's on every system."""
    return re.sub(r"[^A-Za-z0-9.=_+-]", "_", name)


@contextmanager
def _replacing(file: Path, mode: int) -> Iterator[TextIO]:
    """A text file that takes its place when it is whole; until then, and after an error, the old one stays.

    BrittleError where it cannot be written, as on a full disk.
    """
    part = file.with_name(file.name + ".part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as raw:
            yield raw
        part.replace(file)
    except OSError as error:
        raise BrittleError(f"cannot write {file}: {error.strerror or error}; free some space or give another place") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def write_json(file: Path, content: Any, *, private: bool = False) -> Path:
    """JSON, whole or not at all; `private` files are readable by their owner only."""
    with _replacing(file, 0o600 if private else 0o644) as raw:
        raw.write(json.dumps(_plain(content), indent=1, ensure_ascii=False) + "\n")
    return file


def write_lines(file: Path, lines: Iterable[Mapping[str, Any]], *, private: bool = False) -> Path:
    """jsonl, whole or not at all; `private` files are readable by their owner only."""
    with _replacing(file, 0o600 if private else 0o644) as raw, jsonlines.Writer(raw) as writer:
        writer.write_all(_plain(line) for line in lines)
    return file


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The objects of a jsonl file; a line ends with a line feed only, since an answer may hold U+2028 and its like."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]


class RunFolder:
    """A run's folder. Finished tasks are found again by the same configuration; another configuration is refused."""

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self.path = path
        self._config = _plain(config)
        self.digest = hashlib.blake2b(json.dumps(self._config, sort_keys=True).encode(), digest_size=8).hexdigest()

    @classmethod
    def stored(cls, path: Path) -> RunFolder:
        """The folder of a run that was made before; BrittleError where there is none."""
        known = cls(path, {}).read_json("run.json")
        if known is None:
            raise BrittleError(f"{path} holds no run (no run.json): give the folder that a run printed as its results")
        return cls(path, known["config"])

    @contextmanager
    def opened(self) -> Iterator[RunFolder]:
        """Make or resume the folder, for this process alone."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".lock", timeout=0)
            with lock:
                self._check()
                yield self
        except Timeout:
            raise BrittleError(f"another process is writing {self.path}: wait for it or use another folder") from None
        except (PermissionError, NotADirectoryError, FileExistsError) as error:
            raise BrittleError(f"cannot write {self.path}: {error.strerror}; give another --output_path") from None

    def _check(self) -> None:
        file = self.path / "run.json"
        if file.exists():
            known = json.loads(file.read_text())["config"]
            different = sorted(key for key in {*known, *self._config} if known.get(key) != self._config.get(key))
            if different:
                raise BrittleError(
                    f"{self.path} holds a run with another configuration ({', '.join(different)} differ): "
                    "give another --output_path or remove the folder"
                )
        elif any(child.name != ".lock" for child in self.path.iterdir()):
            raise BrittleError(f"{self.path} is not empty and holds no run: give another --output_path")
        else:
            self.write_json("run.json", {"config": self._config, "digest": self.digest, "versions": versions()})

    def _file(self, name: str) -> Path:
        return self.path / name

    def write_json(self, name: str, content: Any, *, private: bool = False) -> Path:
        """Whole or not at all; `private` files are readable by their owner only."""
        return write_json(self._file(name), content, private=private)

    def read_json(self, name: str) -> Any | None:
        """The content, or None where the file is not there."""
        file = self.path / name
        try:
            return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
        except (OSError, json.JSONDecodeError) as error:
            raise BrittleError(f"{file} is damaged ({error}): remove it, and the run makes it again") from None

    def write_text(self, name: str, text: str) -> Path:
        """Whole or not at all, and readable by its owner only."""
        file = self._file(name)
        with _replacing(file, 0o600) as raw:
            raw.write(text)
        return file

    def write_lines(self, name: str, lines: Iterable[Mapping[str, Any]], *, private: bool = False) -> Path:
        """jsonl, whole or not at all; `private` files are readable by their owner only."""
        return write_lines(self._file(name), lines, private=private)

    def finished(self, row: str, task: str) -> TaskResult | None:
        """The result of a task that this run has already done."""
        known = self.read_json(f"{row}/{task}.json")
        return TaskResult(**known) if known else None

    def finish(self, row: str, result: TaskResult, samples: Iterable[Mapping[str, Any]]) -> None:
        """Keep a task's samples, then its result: a result without its samples cannot happen."""
        self.write_lines(f"{row}/samples_{result.task}.jsonl", samples, private=True)
        self.write_json(f"{row}/{result.task}.json", asdict(result))

    def rows(self) -> list[Row] | None:
        """The rows of a run that is done, or None."""
        file = self.path / "rows.jsonl"
        if not file.exists():
            return None
        return [Row(**(row | {"tasks": [TaskResult(**task) for task in row["tasks"]]})) for row in read_lines(file)]

    def write_rows(self, rows: Iterable[Row]) -> None:
        """All rows of the run; lm-eval's metrics by row and task, and how far the judges agree over all rows."""
        rows = list(rows)
        self.write_lines("rows.jsonl", [asdict(row) for row in rows])
        results = {row.name: {task.task: task.metrics | task.values for task in row.tasks} for row in rows}
        judged = {"limited": any(row.limited for row in rows), "agreement": [asdict(pair) for pair in agreement_of(rows)]}
        self.write_json("results.json", {"results": results, "config": self._config, "versions": versions()} | judged)


def agreement_of(rows: Iterable[Row]) -> list[Agreement]:
    """The agreement of every two judges over all answers of these rows."""
    return pooled(task.values["agreement"] for row in rows for task in row.tasks if "agreement" in task.values)
