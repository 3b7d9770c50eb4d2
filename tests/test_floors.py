"""Who may import whom, read from the import statements."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import brittle_eval

ROOT = Path(brittle_eval.__file__).parents[1]
FLOORS = (
    ("errors", "pages", "streams", "regions", "units", "scores"),
    (
        "reading",
        "methods",
        "hooks",
        "hookspecs",
        "options",
        "scope",
        "recipe",
        "stats",
        "visage",
        "coherence",
        "compliance",
        "backends",
        "safety_words",
        "overlaps",
        "progress",
        "conditions",
        "agreement",
        "grid",
        "crossing",
        "time_limit",
    ),
    (
        "discovery",
        "plugins",
        "cards",
        "judges",
        "attack_sets",
        "tables",
        "data",
        "store",
        "kept",
        "weights",
        "anatomy",
        "plants",
        "truth",
    ),
    (
        "chat",
        "calibration",
        "instructions",
        "suffix_slots",
        "sharing",
        "experts",
        "observe",
        "attribute",
        "budget",
        "walk",
        "isolate",
        "edit",
        "hold",
        "snapshot",
        "delta",
        "steering",
        "trained",
        "sequential",
        "reader",
        "whole_model",
        "controls",
        "compare",
    ),
    (
        "responses",
        "stopping",
        "decoder",
        "crew",
        "generate",
        "measures",
        "reasoning",
        "backbone",
        "lm_requests",
        "lm",
        "asking",
        "showing",
        "evaluate",
        "delegate",
        "checkpoint",
        "train",
        "suffix_scores",
        "suffix",
        "suffix_checkpoint",
    ),
    (
        "task_files",
        "listing",
        "command",
        "row",
        "results",
        "attack_alone",
        "seeds",
        "freezing",
        "course",
        "record",
        "judging",
        "sifting",
        "assess",
        "sweeping",
        "conclude",
        "comparison",
        "verdicts",
        "labels",
        "cutting",
        "presets",
        "sides",
        "table",
        "curve",
        "compare_table",
        "compare_plot",
        "gather",
        "board",
        "columns",
        "formats",
        "board_table",
        "board_page",
        "provenance",
        "visible",
        "charts",
        "svg",
        "figures",
        "measured",
        "report_source",
        "landscape_charts",
        "headline",
        "report_charts",
        "training_charts",
        "safety_chart",
        "region_charts",
        "report_table",
        "report_samples",
        "report_text",
        "report",
    ),
    (
        "endings",
        "align",
        "organism",
        "repeats",
        "prepare",
        "base",
        "attack_pairs",
        "behaviours",
        "behaviour_build",
        "suffix_trial",
        "suffix_run",
        "task_options",
        "together",
        "session",
        "region_finder",
        "tuner",
        "run",
        "migration",
        "displacement",
        "api",
        "hosted",
        "publish",
        "cells",
        "worker",
        "sweep",
        "ray_cluster",
        "sweep_table",
        "probe",
        "probe_table",
        "landscape",
        "landscape_table",
        "rejudge",
        "judge_command",
        "verify",
        "places",
        "effect",
        "organism_model",
        "plant_build",
        "finding",
        "localize",
        "localize_table",
        "deltas",
        "licences",
        "export_card",
        "export",
        "cli_behaviour",
        "cli_export",
        "cli_judge",
        "cli_config",
        "cli_run",
        "cli_leaderboard",
        "cli_lm_eval",
        "cli_localize",
        "cli_organism",
        "cli_region",
        "cli_report",
        "cli_probe",
        "cli_landscape",
        "cli_sweep",
        "cli_suffix",
        "cli",
    ),
)
"""From the ground up; on one floor from left to right."""
ORDER = [name for floor in FLOORS for name in floor]
ONLY_IN = {
    "lm_eval": {"lm", "evaluate"},
    "click": {name for name in ORDER if name.startswith("cli")},
    "ray": {"ray_cluster"},
    "pluggy": {"hookspecs", "discovery"},
}
"""Packages that few modules may import."""
LIGHT = {
    "errors",
    "backends",
    "methods",
    "hookspecs",
    "options",
    "scope",
    "recipe",
    "discovery",
    "plugins",
    "cards",
    "listing",
    "cli",
}
"""Modules behind `--help` and `list`: nothing heavy when they are imported."""
HEAVY = {"torch", "transformers", "lm_eval", "numpy", "scipy", "peft", "accelerate", "datasets"}
SHELVES = ("plugins/brittle_plugins", "plugins/example", "tasks/brittle_tasks", "registry/brittle_registry")

MODULES = sorted(path for path in (ROOT / "brittle_eval").rglob("*.py") if not path.stem.startswith("__"))
FOLDERS = {path.parent.name for path in MODULES}


def imports(nodes: list[ast.stmt], *, running: bool = False) -> Iterator[tuple[str, str]]:
    """(module, name) of every import statement; with `running`, only of those that an import of the file runs."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif running and isinstance(node, ast.FunctionDef):
            continue
        elif running and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from imports(node.orelse, running=True)
        else:
            inner = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt | ast.ExceptHandler)]
            yield from imports(inner, running=running)  # type: ignore[arg-type]  # handlers hold statements too


def read(path: Path, *, running: bool = False) -> list[tuple[str, str]]:
    return list(imports(ast.parse(path.read_text(encoding="utf-8")).body, running=running))


def own(imported: list[tuple[str, str]]) -> set[str]:
    """The modules of brittle_eval among them, by their own names: every one is unique, whatever folder it lies in."""
    ours = [(module.split(".")[-1], name) for module, name in imported if module.split(".")[0] == "brittle_eval"]
    return {name if module in FOLDERS else module for module, name in ours} & set(ORDER)


def test_the_reader_sees_imports_wherever_they_stand() -> None:
    source = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import torch
else:
    import json
try:
    import numpy
except ImportError:
    import scipy
def late():
    with open("x"):
        from brittle_eval.running.run import run
"""
    body = ast.parse(source).body
    assert {module for module, _ in imports(body)} >= {"torch", "json", "numpy", "scipy", "brittle_eval.running.run"}
    assert {module for module, _ in imports(body, running=True)} == {"typing", "json", "numpy", "scipy"}
    assert own(list(imports(body))) == {"run"}


def test_every_module_has_a_floor_and_every_floor_its_modules() -> None:
    assert len(set(ORDER)) == len(ORDER)
    assert sorted(path.stem for path in MODULES) == sorted(ORDER)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_imports_go_down_or_left(path: Path) -> None:
    place = ORDER.index(path.stem)
    assert {module for module in own(read(path)) if ORDER.index(module) >= place} == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_few_modules_import_these_packages(path: Path) -> None:
    roots = {module.split(".")[0] for module, _ in read(path)}
    assert {package for package, modules in ONLY_IN.items() if package in roots and path.stem not in modules} == set()
    assert not {root for root in roots if root.startswith("brittle_")} - {"brittle_eval"}, "the core imports no shelf"


@pytest.mark.parametrize("name", sorted(LIGHT))
def test_light_modules_import_nothing_heavy(name: str) -> None:
    (path,) = (path for path in MODULES if path.stem == name)
    imported = read(path, running=True)
    assert {module.split(".")[0] for module, _ in imported} & HEAVY == set()
    assert own(imported) - LIGHT == set()


@pytest.mark.parametrize(
    "path", sorted(path for shelf in SHELVES for path in (ROOT / shelf).rglob("*.py")), ids=lambda path: path.stem
)
def test_shelves_import_public_names_only(path: Path) -> None:
    for module, name in read(path):
        if module.split(".")[0] == "brittle_eval":
            assert module == "brittle_eval" and name in brittle_eval.__all__, f"{module}.{name} is not public"
