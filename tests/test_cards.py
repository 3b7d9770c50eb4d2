"""Cards: what is read, and what a mistake in one says."""

from __future__ import annotations

from pathlib import Path

import pytest

from brittle_eval import BrittleError, Modification
from brittle_eval.cards import DatasetCard, RecipeCard, datasets, load, recipes
from brittle_eval.discovery import Source
from brittle_eval.plugins import Entry, Folder, Plugins
from brittle_eval.recipe import build, check, parse

GOOD = 'name = "mine"\nsummary = "Mine"\nplan = "wanda+top+ablate:q=0.1"\nsource = "a paper"\n'
DIGEST = "0123456789abcdef" * 4


def write(folder: Path, text: str, name: str = "mine", kind: str = "recipes") -> Path:
    file = folder / kind / f"{name}.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def test_a_card(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD + 'notes = """\nTwo\nlines"""\n')
    card = load("recipes", RecipeCard, [tmp_path])["mine"]
    assert (card.name, card.summary, card.plan, card.source) == ("mine", "Mine", "wanda+top+ablate:q=0.1", "a paper")
    assert (card.notes, card.path) == ("Two\nlines", file)


def test_folders_without_cards_are_empty(tmp_path: Path) -> None:
    assert load("recipes", RecipeCard, [tmp_path, tmp_path / "absent"]) == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            GOOD + 'colour = "red"',
            "key 'colour': Extra inputs are not permitted; the keys are name, summary, notes, plan, source",
        ),
        (GOOD.replace('source = "a paper"', ""), "key 'source': Field required"),
        (GOOD.replace('"a paper"', "3"), "key 'source': Input should be a valid string"),
        (GOOD.replace('"Mine"', '""'), "key 'summary'"),
        (GOOD.replace('"mine"', '"Mine"'), "key 'name'"),
        (GOOD.replace('"mine"', '"other"'), "has the name 'other', expected its file's name 'mine'"),
        ("name = ", "is not TOML"),
    ],
)
def test_mistakes_are_one_line_with_the_file(tmp_path: Path, text: str, said: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(BrittleError) as caught:
        load("recipes", RecipeCard, [tmp_path])
    assert said in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_name_in_two_folders_names_both_files(tmp_path: Path) -> None:
    files = [write(tmp_path / folder, GOOD) for folder in ("a", "b")]
    with pytest.raises(BrittleError) as caught:
        load("recipes", RecipeCard, [tmp_path / "a", tmp_path / "b"])
    assert all(str(file) in str(caught.value) for file in files)


@pytest.mark.parametrize(("key", "value"), [("sha256", '"abc"'), ("sha256", f'"{DIGEST.upper()}"'), ("rows", "0")])
def test_a_data_sets_digest_and_rows_are_right_or_left_out(tmp_path: Path, key: str, value: str) -> None:
    fields = {"name": '"set"', "summary": '"S"', "source": '"x"', "licence": '"MIT"', "file": '"set.csv"'}
    fields |= {"sha256": f'"{DIGEST}"', "rows": "3"}
    write(tmp_path, "\n".join(f"{name} = {text}" for name, text in fields.items()), "set", "datasets")
    card = load("datasets", DatasetCard, [tmp_path])["set"]
    assert (card.rows, card.hub, card.url) == (3, None, None)
    left = {name: text for name, text in fields.items() if name != key}
    write(tmp_path, "\n".join(f"{name} = {text}" for name, text in left.items()), "set", "datasets")
    assert getattr(load("datasets", DatasetCard, [tmp_path])["set"], key) is None
    write(tmp_path, "\n".join(f"{name} = {text}" for name, text in (fields | {key: value}).items()), "set", "datasets")
    with pytest.raises(BrittleError, match=f"key '{key}'"):
        load("datasets", DatasetCard, [tmp_path])


def test_a_recipe_may_not_have_the_name_of_a_method(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    source = Source("third", "third-party", "2.0")
    plugins = Plugins(registry_folders=[Folder(tmp_path, source)])
    assert set(recipes(plugins)) == {"mine"}
    plugins.methods["attribution", "mine"] = Entry("attribution", "mine", Modification, source)
    with pytest.raises(BrittleError, match=r"recipe 'mine' .* has the name of the attribution of third-party 2.0"):
        recipes(plugins)


def test_every_shipped_card_is_sound() -> None:
    plugins = Plugins.load()
    known = recipes(plugins)
    assert {"wanda-diff", "snip-diff", "wanda-top", "snip-top", "wanda-bottom", "snip-bottom", "none"} <= set(known)
    for name in known:
        plan = parse(name, plugins, known)
        check(plan, plugins)
        for component in plan.components:
            build(component, plugins.get(component.kind, component.name))
    assert "advbench" in datasets(plugins)


@pytest.mark.parametrize("attribution", ["wanda", "snip"])
def test_the_papers_recipes(attribution: str) -> None:
    plugins = Plugins.load()
    plan = parse(f"{attribution}-diff", plugins, recipes(plugins))
    expected = f"{attribution}+set-difference+ablate:p=0.05,q=0.05,compare=row,order=parallel"
    assert plan == parse(expected, plugins, {})
    assert "SNIP" in recipes(plugins)[f"{attribution}-diff"].notes


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("actsvd-diff", "actsvd+orthogonal+ablate:r-u=0.9644,r-s=0.9986"),
        ("actsvd-top", "actsvd+top-ranks+ablate:r=1"),
        ("actsvd-bottom", "actsvd+bottom-ranks+ablate:r=0.05"),
    ],
)
def test_the_papers_recipes_of_ranks(name: str, expected: str) -> None:
    plugins = Plugins.load()
    assert parse(name, plugins, recipes(plugins)) == parse(expected, plugins, {})
