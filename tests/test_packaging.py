"""The wheel: what it holds, and that it works where nothing of this checkout can be seen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import brittle_eval

ROOT = Path(brittle_eval.__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SHELVES = [ROOT / folder for folder in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]
SITE = Path(sysconfig.get_path("purelib", vars={"base": "", "platbase": ""})).relative_to("/")
"""Where an environment keeps its packages, from its root."""


def call(*words: str | Path, cwd: Path) -> str:
    """What a command prints, with no trace of this environment in its variables."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "BRITTLE", "VIRTUAL_ENV"))}
    done = subprocess.run(list(map(str, words)), cwd=cwd, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of its own with the wheel installed.

    Dependencies come from this environment's folder, named in a `.pth` file: Python reads no further `.pth` file there, so an
    editable install of this checkout stays unseen.
    """
    root = tmp_path_factory.mktemp("environment")
    venv.create(root, symlinks=True)
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", root / "bin" / "python", "--disable-pip-version-check"]
    call(*pip, "install", "--quiet", "--no-index", "--no-deps", wheel, cwd=root)
    (root / SITE / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return root


def test_the_wheel_holds_every_file_of_the_shelves_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = [file for shelf in SHELVES for file in shelf.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    shelf_of = {file: next(shelf for shelf in SHELVES if file.is_relative_to(shelf)) for file in files}
    assert names == {file.relative_to(shelf.parent).as_posix() for file, shelf in shelf_of.items()}


def test_the_wheel_holds_data_of_every_kind_and_no_tests(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    needed = {
        "brittle_eval/py.typed",
        "brittle_eval/reporting/templates/report.css",
        "brittle_eval/reporting/templates/report.html",
        "brittle_eval/reporting/templates/report.js",
        "brittle_plugins/data/wei2024.json",
        "brittle_registry/datasets/advbench.toml",
        "brittle_registry/leaderboard/rows.jsonl",
        "brittle_registry/organism/refusals.txt",
        "brittle_registry/recipes/wanda-diff.toml",
        "brittle_tasks/_greedy_yaml",
        "brittle_tasks/advbench/advbench_system.yaml",
        "brittle_tasks/embedded/harmful.jsonl",
    }
    assert needed <= set(names)
    assert not [name for name in names if "tests" in Path(name).parts or Path(name).name.startswith(("test_", "conftest"))]


def test_the_wheel_brings_its_licence_and_entry_points(wheel: Path) -> None:
    information = f"brittle_eval-{PROJECT['project']['version']}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        licence = archive.read(f"{information}/licenses/LICENSE").decode()
        points = archive.read(f"{information}/entry_points.txt").decode()
        metadata = archive.read(f"{information}/METADATA").decode()
    assert "The brittle-eval authors" in licence
    assert "License-Expression: Apache-2.0" in metadata
    for group, members in {"console_scripts": PROJECT["project"]["scripts"], **PROJECT["project"]["entry-points"]}.items():
        assert f"[{group}]" in points
        assert all(f"{name} = {target}" in points for name, target in members.items())


def test_the_installed_package_is_the_wheels(environment: Path) -> None:
    shown = (
        "import brittle_eval, brittle_plugins, sys; print(brittle_eval.__file__, brittle_plugins.__file__, *sys.path, sep='\\n')"
    )
    lines = call(environment / "bin" / "python", "-c", shown, cwd=environment).splitlines()
    assert [Path(line).parent.parent for line in lines[:2]] == [environment / SITE] * 2
    assert str(ROOT) not in lines


@pytest.mark.parametrize("command", [["bin/brittle-eval"], ["bin/python", "-m", "brittle_eval"]], ids=["command", "module"])
def test_the_installed_command_lists_what_this_checkout_lists(environment: Path, command: list[str]) -> None:
    words: list[str | Path] = [environment / command[0], *command[1:], "list", "--json"]
    listed = json.loads(call(*words, cwd=environment))
    own = json.loads(call(sys.executable, "-m", "brittle_eval", "list", "--json", cwd=environment))
    assert listed["broken"] == []
    for section in ("attributions", "isolations", "modifications", "judges", "recipes", "tasks", "datasets"):
        ours = [row["name"] for row in own[section] if row["distribution"] == "brittle-eval"]
        assert [row["name"] for row in listed[section] if row["distribution"] == "brittle-eval"] == ours != []


def test_the_installed_command_describes_a_recipe(environment: Path) -> None:
    (shown,) = json.loads(call(environment / "bin" / "brittle-eval", "show", "wanda-diff", "--json", cwd=environment))
    assert shown["plan"].startswith("wanda+set-difference+ablate")
