"""Discovery with installed distributions and files: what is found, what is broken, what is refused."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from brittle_eval import Attribution, BrittleError, UnknownName
from brittle_eval.plugins import CONTRACTS, Plugins

Install = Callable[..., None]

HEAD = "from pathlib import Path\nfrom brittle_eval import Attribution, hookimpl\nclass Mine(Attribution): pass\n"


def hook(name: str, body: str) -> str:
    return f"{HEAD}@hookimpl\ndef {name}():\n    {body}\n"


BRINGS_MINE = hook("brittle_attributions", "return {'mine': Mine}")


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a distribution of one module, with an entry point `name`."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def make(name: str, source: str, version: str = "1.0", distribution: str = "") -> None:
        distribution = distribution or f"{name}-plugin"
        module = f"{tmp_path.name}_{distribution}".replace("-", "_")
        (site / f"{module}.py").write_text(source, encoding="utf-8")
        info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        (info / "METADATA").write_text(metadata, encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[brittle_eval]\n{name} = {module}\n", encoding="utf-8")

    yield make


def broken(plugins: Plugins) -> dict[str, str]:
    return {one.source.plugin: one.error for one in plugins.broken}


def test_the_built_in_methods_are_found_and_imported_on_use() -> None:
    plugins = Plugins.load()
    assert plugins.broken == []
    assert set(plugins.names("attribution")) >= {"wanda", "snip", "magnitude", "random"}
    assert set(plugins.names("isolation")) >= {"top", "bottom", "set-difference"}
    assert set(plugins.names("modification")) >= {"ablate", "restore"}
    assert set(plugins.names("judge")) >= {"wei2024", "refusal"}
    for (kind, name), entry in plugins.methods.items():
        assert isinstance(entry.target, str), "listing must import no method"
        assert issubclass(plugins.get(kind, name), CONTRACTS[kind])
        assert entry.distribution == "brittle-eval"
    assert all((path / "recipes").is_dir() for path in plugins.registry_paths())
    assert any((path / "advbench").is_dir() for path in plugins.task_paths())


def test_an_installed_plugin_brings_its_methods_with_their_provenance(install: Install) -> None:
    install("third", BRINGS_MINE, version="2.3")
    plugins = Plugins.load()
    entry = plugins.entry("attribution", "mine")
    assert (entry.distribution, entry.version, entry.source.plugin) == ("third-plugin", "2.3", "third")
    assert issubclass(plugins.get("attribution", "mine"), Attribution)
    assert plugins.kinds("mine") == {"attribution"}
    assert [entry.name for entry in plugins.entries("attribution")] == sorted(plugins.names("attribution"))


@pytest.mark.parametrize("blocked", ["third", "third-plugin", "THIRD_plugin, other"])
def test_a_plugin_is_blocked_by_its_name_or_its_distributions(
    install: Install, monkeypatch: pytest.MonkeyPatch, blocked: str
) -> None:
    install("third", "raise RuntimeError('not to be imported')")
    assert broken(Plugins.load()) == {"third": "RuntimeError: not to be imported"}
    monkeypatch.setenv("BRITTLE_EVAL_DISABLE_PLUGINS", blocked)
    assert broken(Plugins.load()) == {}


def test_blocking_the_builtin_plugin_leaves_the_tasks_and_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRITTLE_EVAL_DISABLE_PLUGINS", "builtin")
    plugins = Plugins.load()
    assert plugins.methods == {}
    assert plugins.task_paths() and plugins.registry_paths()


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import no_such_module_here", "ModuleNotFoundError: No module named 'no_such_module_here'"),
        ("x = (", "SyntaxError"),
        ("x = 1", "it implements no hook: mark its functions with @hookimpl"),
        (hook("brittle_attributions", "raise ValueError('a\\nb')"), "brittle_attributions raised ValueError: b"),
        (hook("brittle_attributions", "return [Mine]"), "expected a mapping from names to classes"),
        (hook("brittle_attributions", "return {'My Name': Mine}"), "'My Name', expected lower-case words with hyphens"),
        (hook("brittle_attributions", "return {'none': Mine}"), "'none', expected lower-case words"),
        (hook("brittle_attributions", "return {'mine': Mine()}"), "expected a class or 'module:Class'"),
        (hook("brittle_attributions", "return {'mine': 'no-colon'}"), "expected a class or 'module:Class'"),
        (hook("brittle_task_paths", "return '/tmp'"), "expected a list of folders"),
        (hook("brittle_registry_paths", "return [Path('no/such')]"), "brings 'no/such', which is not a folder"),
        (hook("brittle_registry_paths", "yield Path(1)"), "brittle_registry_paths: TypeError"),
        (BRINGS_MINE.replace("attributions()", "attributions(manager)"), "Argument(s) {'manager'} are declared"),
    ],
)
def test_a_broken_plugin_is_reported_and_the_others_go_on(install: Install, source: str, error: str) -> None:
    install("odd", source)
    install("third", BRINGS_MINE)
    plugins = Plugins.load()
    assert list(broken(plugins)) == ["odd"]
    assert error in broken(plugins)["odd"]
    assert "\n" not in broken(plugins)["odd"]
    assert {"mine", "wanda"} <= set(plugins.names("attribution"))


def test_an_unknown_name_mentions_the_broken_plugin(install: Install) -> None:
    install("odd", "1 / 0")
    with pytest.raises(UnknownName, match=r"did you mean wanda\b.*plugin 'odd' \(odd-plugin 1.0\) is broken: ZeroDivision"):
        Plugins.load().get("attribution", "wandas")


def test_a_misspelt_hook_is_an_error_that_names_the_plugin(install: Install) -> None:
    install("odd", BRINGS_MINE.replace("brittle_attributions", "brittle_atributions"))
    with pytest.raises(BrittleError) as caught:
        Plugins.load()
    for said in ("brittle_atributions", "did you mean brittle_attributions", "'odd'", "odd-plugin 1.0", "DISABLE_PLUGINS=odd"):
        assert said in str(caught.value)


def test_two_plugins_with_one_name_are_an_error_that_names_both(install: Install) -> None:
    install("first", BRINGS_MINE)
    install("second", BRINGS_MINE, version="4.2")
    with pytest.raises(BrittleError) as caught:
        Plugins.load()
    for said in ("attribution 'mine'", "first-plugin 1.0", "second-plugin 4.2", "DISABLE_PLUGINS="):
        assert said in str(caught.value)


def test_two_distributions_may_share_the_name_of_their_entry_point(install: Install) -> None:
    install("same", BRINGS_MINE)
    install("same", BRINGS_MINE.replace("'mine'", "'yours'"), distribution="other")
    plugins = Plugins.load()
    found = {name: plugins.entry("attribution", name).distribution for name in ("mine", "yours")}
    assert found == {"mine": "same-plugin", "yours": "other"}


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("no_such_module_here:Mine", "cannot be imported from 'no_such_module_here:Mine': ModuleNotFoundError"),
        ("json:Mine", "cannot be imported from 'json:Mine': AttributeError"),
        ("json:JSONDecoder", "expected a subclass of Attribution"),
    ],
)
def test_what_cannot_be_imported_on_use_names_the_plugin(install: Install, target: str, error: str) -> None:
    install("odd", hook("brittle_attributions", f"return {{'mine': {target!r}}}"))
    plugins = Plugins.load()
    with pytest.raises(BrittleError) as caught:
        plugins.get("attribution", "mine")
    assert error in str(caught.value)
    assert "attribution 'mine' of plugin 'odd' (odd-plugin 1.0)" in str(caught.value)


FILE = """
    from __future__ import annotations
    from dataclasses import dataclass
    from brittle_eval import Isolation, Share, hookimpl

    @dataclass(frozen=True)
    class Some(Isolation):
        q: Share = 0.5

    @hookimpl
    def brittle_isolations():
        return {"some": Some}
"""


def test_a_file_adds_a_plugin(tmp_path: Path) -> None:
    file = tmp_path / "my-plugin.py"
    file.write_text(textwrap.dedent(FILE), encoding="utf-8")
    plugins = Plugins.load([file, str(file)])
    entry = plugins.entry("isolation", "some")
    assert (entry.source.plugin, entry.distribution) == ("my-plugin", str(file))
    assert entry.version.startswith("sha256:")
    assert plugins.get("isolation", "some")().q == 0.5


@pytest.mark.parametrize(
    ("name", "source", "said"),
    [
        ("missing.py", None, "there is no such file"),
        ("plugin.txt", "x = 1", "expected the path of a .py file"),
        ("bad.py", "x = 1\n\ny = x / 0\n", "does not import: ZeroDivisionError: division by zero (line 3)"),
        ("syntax.py", "x = (", "does not import: SyntaxError"),
    ],
)
def test_a_file_that_cannot_be_used_is_an_error(tmp_path: Path, name: str, source: str | None, said: str) -> None:
    file = tmp_path / name
    if source is not None:
        file.write_text(source, encoding="utf-8")
    with pytest.raises(BrittleError) as caught:
        Plugins.load([file])
    assert said in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
