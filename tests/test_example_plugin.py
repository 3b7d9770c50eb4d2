"""The example as a stranger would have it: built, installed, found; and the project's own wheel holds its shelves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import brittle_eval

ROOT = Path(brittle_eval.__file__).parents[1]
EXAMPLE = ROOT / "plugins" / "example"


def python(*arguments: str, cwd: Path, path: Path | None = None) -> str:
    environment = os.environ | ({"PYTHONPATH": str(path)} if path else {})
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def wheel(project: Path, folder: Path) -> Path:
    python("-m", "hatchling", "build", "-t", "wheel", "-d", str(folder), cwd=project)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the example's wheel was installed."""
    folder = tmp_path_factory.mktemp("example")
    built = wheel(EXAMPLE, folder / "wheels")
    options = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", "--target", str(folder / "site")]
    python("-m", "pip", "install", *options, str(built), cwd=folder)
    return folder / "site"


def test_the_module_is_as_short_as_promised() -> None:
    assert len((EXAMPLE / "brittle_row_norm.py").read_text(encoding="utf-8").splitlines()) < 20


def test_without_the_distribution_there_is_no_row_norm(tmp_path: Path) -> None:
    listed = json.loads(python("-m", "brittle_eval", "list", "--json", cwd=tmp_path))
    assert "row-norm" not in {row["name"] for row in listed["attributions"]}


def test_the_installed_distribution_is_listed_and_shown(site: Path, tmp_path: Path) -> None:
    listed = json.loads(python("-m", "brittle_eval", "list", "--json", cwd=tmp_path, path=site))
    (row,) = (row for row in listed["attributions"] if row["name"] == "row-norm")
    assert (row["distribution"], row["version"]) == ("brittle-eval-row-norm", "0.1.0")
    assert listed["broken"] == []
    assert "row-norm: attribution of brittle-eval-row-norm 0.1.0" in python(
        "-m", "brittle_eval", "show", "row-norm", cwd=tmp_path, path=site
    )


def test_the_installed_distribution_scores_weights_in_a_plan(site: Path, tmp_path: Path) -> None:
    code = """
import torch
from brittle_eval import Weight
from brittle_eval.plugins import Plugins
from brittle_eval.recipe import build, check, parse
plugins = Plugins.load()
plan = parse("row-norm+top+ablate:q=0.05", plugins, {})
check(plan, plugins)
method = build(plan.attribution, plugins.get("attribution", "row-norm"))
value = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
print(method.finish(method.start(None), Weight("w", 0, value, None, torch.Generator())).tolist())
"""
    assert python("-c", code, cwd=tmp_path, path=site).strip() == "[[5.0, 5.0], [2.0, 2.0]]"


def test_the_projects_wheel_holds_the_shelves_with_their_data(tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel(ROOT, tmp_path)) as built:
        names = set(built.namelist())
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"brittle_eval", "brittle_plugins", "brittle_tasks", "brittle_registry"}
    for shelf in ("brittle_eval", "plugins/brittle_plugins", "tasks/brittle_tasks", "registry/brittle_registry"):
        folder = ROOT / shelf
        files = [file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
        missing = {f"{folder.name}/{file.relative_to(folder).as_posix()}" for file in files} - names
        assert not missing
