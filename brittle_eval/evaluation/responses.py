"""Answers that a run has generated so far, on disk: a killed run goes on at the next batch, and only with its own model."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from brittle_eval.errors import BrittleError


class Answer(list[int]):
    """One answer's token ids, without prompt and end token."""

    cut = False
    """Whether it was stopped because its verdicts were final."""


class Responses:
    """An append-only jsonl file of answers (mode 0600), by a digest of everything that they depend on.

    A last line that was not written to its end, which a kill can leave, is dropped, and `say` hears of it. BrittleError for
    any other damage: an answer is read as it was written or not at all.
    """

    def __init__(self, path: Path, fingerprint: str, say: Callable[[str], None]) -> None:
        self.path, self.fingerprint = path, fingerprint
        self._known: dict[str, Answer] = {}
        if path.exists():
            self._read(say)

    def key(self, prompt: Sequence[int], sample: int, arguments: Mapping[str, Any]) -> str:
        """The digest of model, prompt, sample number, and generation arguments with the seed."""
        parts = [self.fingerprint, list(prompt), sample, dict(arguments)]
        return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()

    def find(self, keys: Sequence[str]) -> list[Answer] | None:
        """The answers to all keys, or None if one is missing."""
        return [self._known[key] for key in keys] if all(key in self._known for key in keys) else None

    def add(self, keys: Sequence[str], answers: Sequence[Answer]) -> None:
        """Keep a batch's answers, in one write."""
        new = dict(zip(keys, answers, strict=True))
        self._known |= new
        text = "".join(_line(key, answer) for key, answer in new.items())
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w", encoding="utf-8") as file:
            file.write(text)

    def remove(self) -> None:
        """Take the file away, once its answers are in a place of their own."""
        self.path.unlink(missing_ok=True)

    def _read(self, say: Callable[[str], None]) -> None:
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(self.path, len(whole))
            say(f"{self.path}: dropped its last line, which was not written to the end")
        for number, line in enumerate(whole.splitlines(), 1):
            key, answer = self._answer(line, number)
            self._known[key] = answer

    def _answer(self, line: bytes, number: int) -> tuple[str, Answer]:
        try:
            content = json.loads(line)
            key, answer = str(content["key"]), Answer(content["tokens"])
            answer.cut = bool(content["cut"])
            if _line(key, answer).encode() == line + b"\n":
                return key, answer
        except (ValueError, TypeError, KeyError):
            pass
        raise BrittleError(f"{self.path}, line {number} is damaged: remove the file, and the run generates its answers again")


def _line(key: str, answer: Answer) -> str:
    content = {"key": key, "tokens": list(answer), "cut": answer.cut}
    return json.dumps(content | {"crc": zlib.crc32(json.dumps(content).encode())}) + "\n"
