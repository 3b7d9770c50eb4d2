"""The verdicts of one judge on a run's answers, kept as they are given: a judge that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from brittle_eval.errors import BrittleError
from brittle_eval.methods import Record, Verdict
from brittle_eval.running.record import write_lines


def answer_key(record: Record) -> str:
    """A digest of prompt and response, the same wherever the same answer was given to the same prompt."""
    text = json.dumps([record.prompt, record.response, record.cut])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class Verdicts:
    """A file with the judge's identity in its first line, then a verdict a line by `answer_key`; mode 0600.

    Verdicts of another identity (version, options) are forgotten. A last line that was not written whole is as well;
    any other damage is a BrittleError. What a judge could not score is asked again the next time.
    """

    def __init__(self, file: Path, identity: Mapping[str, Any]) -> None:
        self.file = file
        self._first = json.loads(json.dumps({"judge": identity}, default=str))
        lines = file.read_text(encoding="utf-8").split("\n")[:-1] if file.exists() else []
        same = bool(lines) and self._parsed(1, lines[0]) == self._first
        self.replaced = bool(lines) and not same
        """Whether the file held verdicts of another version or other options."""
        self.known = dict(self._read(number, line) for number, line in enumerate(lines[1:] if same else (), start=2))
        file.parent.mkdir(parents=True, exist_ok=True)
        write_lines(file, [self._first, *(_line(*item) for item in self.known.items())], private=True)

    def _parsed(self, number: int, line: str) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads(line)
            return content
        except ValueError:
            raise self._damaged(number) from None

    def _read(self, number: int, line: str) -> tuple[str, Verdict]:
        content = self._parsed(number, line)
        try:
            return content["answer"], Verdict(content["positive"], content["reason"])
        except (KeyError, TypeError):
            raise self._damaged(number) from None

    def _damaged(self, number: int) -> BrittleError:
        return BrittleError(f"{self.file}, line {number} is damaged: remove the file, and the judge is asked again")

    def missing(self, records: Sequence[Record]) -> list[Record]:
        """The records without a verdict, each answer once."""
        once = {answer_key(record): record for record in records}
        return [record for key, record in once.items() if key not in self.known or self.known[key].positive is None]

    def add(self, records: Sequence[Record], verdicts: Sequence[Verdict]) -> None:
        """Keep the verdicts on these records; they are on disk when this returns."""
        new = {answer_key(record): verdict for record, verdict in zip(records, verdicts, strict=True)}
        self.known |= new
        with self.file.open("a", encoding="utf-8") as raw:
            raw.writelines(json.dumps(_line(*item)) + "\n" for item in new.items())
            raw.flush()
            os.fsync(raw.fileno())

    def of(self, record: Record) -> Verdict:
        """The verdict on a record that was asked for."""
        return self.known[answer_key(record)]


def _line(key: str, verdict: Verdict) -> dict[str, Any]:
    return {"answer": key, "positive": verdict.positive, "reason": verdict.reason}
