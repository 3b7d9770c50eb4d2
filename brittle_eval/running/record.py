"""What a run leaves on disk: configuration, one finished file a task and row, samples (mode 0600), rows and results."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

import jsonlines
from filelock import FileLock, Timeout

from brittle_eval.errors import BrittleError
from brittle_eval.judgement.agreement import Agreement, pooled
from brittle_eval.running.results import as_lm_eval
from brittle_eval.running.row import SCHEMA as SCHEMA
from brittle_eval.running.row import Role as Role
from brittle_eval.running.row import Row as Row
from brittle_eval.running.row import TaskResult as TaskResult
from brittle_eval.running.row import as_file as as_file
from brittle_eval.running.row import read_row
from brittle_eval.trials import course, seeds

PACKAGES = ("brittle-eval", "torch", "transformers", "lm-eval", "peft")


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


def write_text(file: Path, pieces: Iterable[str], *, private: bool = False) -> Path:
    """The pieces one after the other, whole or not at all; `private` files are readable by their owner only."""
    with _replacing(file, 0o600 if private else 0o644) as raw:
        raw.writelines(pieces)
    return file


def write_lines(file: Path, lines: Iterable[Mapping[str, Any]], *, private: bool = False) -> Path:
    """jsonl, whole or not at all; `private` files are readable by their owner only."""
    with _replacing(file, 0o600 if private else 0o644) as raw, jsonlines.Writer(raw) as writer:
        writer.write_all(_plain(line) for line in lines)
    return file


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The objects of a jsonl file; a line ends with a line feed only, since an answer may hold U+2028 and its like."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]


def numbered_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a jsonl file that are not blank, as they are, each with its number; BrittleError where it cannot be read."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise BrittleError(f"cannot read {file}: {error.strerror or error}; expected a readable file") from None
    return ((number, line) for number, line in enumerate(content.split(b"\n"), 1) if line.strip())


def sha256(file: Path) -> str:
    """Of a file's bytes."""
    with file.open("rb") as raw:
        return hashlib.file_digest(raw, "sha256").hexdigest()


class RunFolder:
    """A run's folder. Finished tasks are found again by the same configuration; another configuration is refused."""

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self.path = path
        self.config = _plain(config)
        self.digest = hashlib.blake2b(json.dumps(self.config, sort_keys=True).encode(), digest_size=8).hexdigest()

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
            different = sorted(key for key in {*known, *self.config} if known.get(key) != self.config.get(key))
            if different:
                raise BrittleError(
                    f"{self.path} holds a run with another configuration ({', '.join(different)} differ): "
                    "give another --output_path or remove the folder"
                )
        elif any(child.name != ".lock" and child.suffix != ".part" for child in self.path.iterdir()):
            raise BrittleError(f"{self.path} is not empty and holds no run: give another --output_path")
        else:
            self.write_json("run.json", {"config": self.config, "digest": self.digest, "versions": versions()})

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
        return write_text(self._file(name), [text], private=True)

    def write_lines(self, name: str, lines: Iterable[Mapping[str, Any]], *, private: bool = False) -> Path:
        """jsonl, whole or not at all; `private` files are readable by their owner only."""
        return write_lines(self._file(name), lines, private=private)

    def files(self, row: str, region: Path | None = None) -> dict[str, str]:
        """sha256 of a row's samples and of its plan's region, by their place in the folder."""
        found = [*sorted((self.path / row).glob("samples_*.jsonl")), *([region] if region else [])]
        return {file.relative_to(self.path).as_posix(): sha256(file) for file in found}

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
        known = self.read_json("run.json")
        return [read_row(line, f"{file}, line {number}", known) for number, line in numbered_lines(file)]

    def write_rows(self, rows: Iterable[Row]) -> None:
        """All rows of the run; the results as lm-eval's tools read them, how far the judges agree, and seeds taken together."""
        rows = list(rows)
        self.write_lines("rows.jsonl", [asdict(row) for row in rows])
        judged = {"limited": any(row.limited for row in rows), "agreement": [asdict(pair) for pair in agreement_of(rows)]}
        judged |= {"seeds": seeds.as_json(rows), "courses": course.as_json(rows)}
        self.write_json("results.json", as_lm_eval(rows, self.config) | {"packages": versions()} | judged)


def agreement_of(rows: Iterable[Row]) -> list[Agreement]:
    """The agreement of every two judges over all answers of these rows."""
    return pooled(task.values["agreement"] for row in rows for task in row.tasks if "agreement" in task.values)
