"""Tables on disk as rows: csv, json, jsonl, parquet and plain lines, with the place of every mistake."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from brittle_eval.errors import BrittleError

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """The rows of a csv, json, jsonl or parquet file; lines of a .txt file that are not blank, as rows with the key `prompt`."""
    return parse(read(path), path)


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BrittleError(f"cannot read {path}: {error.strerror}; expected a readable file") from None


def text_of(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BrittleError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8") from None


def parse(content: bytes, path: Path) -> list[Row]:
    """Rows from a file's bytes; its name says what they are."""
    if path.suffix == ".parquet":
        return _parquet_rows(content, path)
    text = text_of(content, path)
    if path.suffix == ".txt":
        return [{"prompt": line.strip()} for line in text.split("\n") if line.strip()]
    if path.suffix == ".csv":
        return _csv_rows(text, path)
    if path.suffix == ".jsonl":
        lines = [(f"{path}, line {number}", line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        return [_row(_json(line, where), where) for where, line in lines]
    if path.suffix == ".json":
        items = _json(text, str(path))
        if not isinstance(items, list):
            raise BrittleError(f"{path}: expected a JSON list of rows or texts, got {type(items).__name__}")
        return [_row({"prompt": item} if isinstance(item, str) else item, f"{path}, item {n}") for n, item in enumerate(items, 1)]
    raise BrittleError(f"{path}: expected a file named .csv, .json, .jsonl, .parquet or .txt, got '{path.suffix}'")


def _parquet_rows(content: bytes, path: Path) -> list[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        rows: list[Row] = parquet.read_table(io.BytesIO(content)).to_pylist()
    except pyarrow.ArrowException as error:
        raise BrittleError(f"{path}: not readable as parquet ({str(error).splitlines()[0][:120]}); get a right copy") from None
    return rows


def _csv_rows(text: str, path: Path) -> list[Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    rows: list[Row] = []
    try:
        for row in reader:
            if None in row or None in row.values():
                columns = len(reader.fieldnames or ())
                raise BrittleError(
                    f"{path}, line {reader.line_num}: the row does not have the header's {columns} columns; correct it"
                )
            rows.append(dict(row))
    except csv.Error as error:
        raise BrittleError(f"{path}, line {reader.line_num}: not readable as csv ({error}); correct it") from None
    return rows


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise BrittleError(f"{where}: not readable as JSON ({error.msg} at column {error.colno}); correct it") from None


def _row(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise BrittleError(f"{where}: expected a JSON object with named fields, got {type(value).__name__}")
    return value
