"""What a row rests on besides its samples: configuration, model, region, data sets, calibration pairs, each by its digest."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from brittle_eval import data
from brittle_eval.cards import datasets, presets
from brittle_eval.errors import BrittleError
from brittle_eval.evaluation.presets import numbers
from brittle_eval.plugins import Plugins
from brittle_eval.running.record import Row, RunFolder, TaskResult, sha256
from brittle_eval.store import load_region
from brittle_eval.weights import Coverage


def changed_files(row: Row, folder: RunFolder, different: list[str], unchecked: list[str]) -> None:
    """Note each file of the run whose digest is not the row's, and a configuration or a model that is not."""
    for name, digest in row.files.items():
        file = folder.path / name
        _digest(f"file {name}", digest, file if file.is_file() else None, different, unchecked)
    if not row.files:
        unchecked.append("digests of samples and region: a row of schema 1 has none")
    if row.config and row.config != folder.digest:
        different.append(f"configuration: the row's digest is {row.config}, run.json's is {folder.digest}")
    model = folder.read_json(f"{row.name}/model.json")
    if model is None:
        unchecked.append(f"fingerprint: the folder has no {row.name}/model.json")
    elif model != row.fingerprint:
        different.append(f"fingerprint: the row says {row.fingerprint}, {row.name}/model.json {model}")


def changed_sources(
    row: Row, config: Mapping[str, Any], tasks: Sequence[TaskResult], different: list[str], unchecked: list[str]
) -> None:
    """Note each data set and each file of calibration pairs that is another now, and a preset's numbers that are others."""
    plugins = Plugins.load()
    cards = datasets(plugins)
    given = {text.partition("=")[0]: text for text in config.get("data") or ()}
    for name, digest in row.data.items():
        try:
            file = data.from_options(cards, [given[name]] if name in given else [], os.environ).here(name)
        except BrittleError:
            file = None
        _digest(f"data set {name}", digest, file, different, unchecked, missing="is not on this machine")
    files = dict(text.split("=", 1) for text in config.get("behaviours") or ())
    for name, digest in (config.get("behaviour_digests") or {}).items():
        file = Path(files.get(name, ""))
        _digest(f"behaviour {name}", digest, file if file.is_file() else None, different, unchecked, missing="is not here")
    if row.preset:
        card = next((card for card in presets(plugins).values() if card.title == row.preset), None)
        if card is None:
            unchecked.append(f"numbers of preset {row.preset}: this installation does not have it")
        elif (found := numbers(card, tasks)) != row.numbers:
            different.append(f"numbers of preset {row.preset}: the row says {row.numbers}, now they are {found}")


def _digest(what: str, digest: str, file: Path | None, different: list[str], unchecked: list[str], missing: str = "") -> None:
    if file is None:
        (unchecked if missing else different).append(f"{what}: {missing or 'is gone'} (sha256 {digest})")
    elif (found := sha256(file)) != digest:
        different.append(f"{what}: sha256 was {digest} when the row was measured, {file} has {found}")


def region_sizes(
    row: Row, rows: Sequence[Row], folder: RunFolder, different: list[str], unchecked: list[str]
) -> dict[str, float] | None:
    """Entries and ranks of the plan's region and their shares, from the region's file; None where there is none to look at."""
    if row.kind == "unedited":
        return {}
    name = next((name for name in row.files if name.startswith("regions/")), None)
    coverage = folder.read_json("coverage.json") or {}
    if name is None or not (folder.path / name).is_file() or "editable" not in coverage:
        unchecked.append("region: no file of it is on record" if row.files else "region: a row of schema 1 names no file")
        return None
    unedited = next((one.fingerprint for one in rows if one.kind == "unedited"), None)
    try:
        region, _ = load_region(folder.path / name, unedited)
    except BrittleError as error:
        different.append(str(error))
        return None
    if region.ranks and not coverage.get("ranks"):
        unchecked.append("region: coverage.json does not say how many ranks the model has")
        return None
    return Coverage(coverage["editable"], coverage["parameters"], ranks=coverage.get("ranks", 0)).shares(region)
