"""The report in a real Chromium: nothing is asked of a network, nothing complains, and it can be used by keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from brittle_eval.reporting.report import Asked, report
from tests.chromium import Page, page
from tests.report_sources import usual, write_probe, write_region, write_run, write_samples, write_sweep

HOSTILE = [
    "<script>document.title = 'broken'</script>",
    "I cannot \u202eereh\u202c </script><script>document.title = 'broken'</script> \"quoted\" 'so'",
    "<img src='http://127.0.0.1:9/x' onerror=\"document.title = 'broken'\">",
    "z" * 1_000_000,
    *(f"answer {number}" for number in range(20)),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with page(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A report of each kind, and one with samples that try everything."""
    root = tmp_path_factory.mktemp("reports")
    write_samples(write_run(root / "run"), HOSTILE)
    for seed in (0, 1):
        write_region(root / f"run/regions/{seed}.safetensors", seed)
    asked = [Asked(root / "run"), Asked(write_sweep(root / "sweep")), Asked(write_probe(root / "probe"))]
    made = {one.path.name: report(one)[0] for one in asked}
    return made | {"samples": report(Asked(root / "run", with_samples=True))[0]}


@pytest.mark.parametrize("name", ["run", "sweep", "probe", "samples"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 400])
def test_a_page_asks_for_itself_only_and_nothing_complains(
    browser: Page, files: dict[str, Path], name: str, scheme: str, width: int
) -> None:
    browser.open(files[name], width, scheme=scheme)
    assert browser.requests() == [files[name].as_uri()]
    assert browser.complaints() == []
    assert browser.run("document.documentElement.scrollWidth") <= width, "the page itself does not scroll sideways"
    ground = browser.run("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 23, 26)")


def test_this_browser_would_notice_a_request_and_a_complaint(browser: Page, tmp_path: Path) -> None:
    """Else the test before could not fail."""
    file = tmp_path / "bad.html"
    file.write_text("<meta http-equiv=Content-Security-Policy content=\"script-src 'none'\"><script>1</script><img src=x.png>")
    browser.open(file)
    assert len(browser.requests()) == 2 and browser.complaints()


def test_the_policy_stops_a_script_that_is_not_ours(browser: Page, files: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "changed.html"
    text = files["run"].read_text(encoding="utf-8")
    file.write_text(text.replace("<main>", "<main><script>document.title = 'broken'</script><img src=x.png>"), encoding="utf-8")
    browser.open(file)
    assert browser.run("document.title") != "broken" and browser.complaints()


def test_the_theme_can_be_chosen(browser: Page, files: dict[str, Path]) -> None:
    browser.open(files["run"], scheme="light")
    colour = "getComputedStyle(document.body).backgroundColor"
    light = browser.run(colour)
    browser.run("document.getElementById('theme').click()")
    assert browser.run(colour) != light and browser.run("document.getElementById('theme').textContent") == "Light"
    browser.run("document.getElementById('theme').click()")
    assert browser.run(colour) == light


def test_a_chart_is_read_by_keyboard(browser: Page, files: dict[str, Path]) -> None:
    browser.open(files["probe"])
    browser.run("document.querySelector('#brittleness-curve .point[tabindex=\"0\"]').focus()")
    readout = "document.querySelector('#brittleness-curve .readout').textContent"
    assert browser.run(readout).startswith("edited: edited share of the block weights 0.05 %; answered harmful prompts 0.0781")
    browser.press("ArrowRight")
    assert " 0.1 %" in browser.run(readout)
    browser.press("End")
    assert browser.run(readout).startswith("magnitude-0") and "1.6 %" in browser.run(readout)
    browser.run("document.querySelectorAll('#brittleness-curve .legend button')[2].click()")
    assert browser.run("document.querySelectorAll('#brittleness-curve g[hidden]').length") == 1
    browser.run("document.querySelector('#brittleness-curve .point[tabindex=\"0\"]').focus()")
    browser.press("End")
    assert browser.run(readout).startswith("random-0"), "a hidden series is not read"


def test_a_map_is_read_in_two_directions(browser: Page, files: dict[str, Path]) -> None:
    browser.open(files["run"])
    browser.run("document.querySelector('#region-1 .point[tabindex=\"0\"]').focus()")
    browser.press("ArrowRight")
    browser.press("ArrowDown")
    assert browser.run("document.activeElement.getAttribute('aria-label')").startswith("kind up_proj, block 1: share ")


def test_the_table_is_sorted_by_a_column(browser: Page, files: dict[str, Path]) -> None:
    browser.open(files["run"])
    names = "[...document.querySelectorAll('#main-table tbody .name')].map((one) => one.textContent)"
    before = browser.run(names)
    browser.run("document.querySelectorAll('#main-table thead button')[1].click()")
    assert browser.run(names) == ["snip-diff", "magnitude-0", "unedited", "random-0"]
    assert browser.run("document.querySelectorAll('#main-table th')[1].getAttribute('aria-sort')") == "descending"
    browser.run("document.querySelectorAll('#main-table thead button')[0].click()")
    browser.run("document.querySelectorAll('#main-table thead button')[0].click()")
    assert browser.run(names) == before


def test_samples_are_blurred_until_asked_for(browser: Page, files: dict[str, Path]) -> None:
    browser.open(files["samples"])
    assert browser.run("document.querySelectorAll('#cards .card').length") == 10
    assert browser.run(
        "[...document.querySelectorAll('#cards .card .text')].every((one) => getComputedStyle(one).filter.includes('blur'))"
    )
    assert browser.run("[...document.querySelectorAll('.card .text, .card .said')].every((one) => one.ariaHidden === 'true')")
    assert not browser.run("[...document.querySelectorAll('.card .said')].some((one) => one.checkVisibility())"), (
        "reasons quote answers"
    )
    browser.run("document.querySelector('#cards .card h3 button').click()")
    shown = "[...document.querySelectorAll('#cards .card')].map((one) => getComputedStyle(one.querySelector('.text')).filter)"
    first, *others = browser.run(shown)
    assert first == "none" and all(one != "none" for one in others)
    browser.run("document.getElementById('reveal').click()")
    assert set(browser.run(shown)) == {"none"}


def test_hostile_answers_are_text(browser: Page, files: dict[str, Path]) -> None:
    browser.open(files["samples"])
    browser.run("document.getElementById('reveal').click()")
    texts = browser.run(
        "[...document.querySelectorAll('#cards .card')].map((one) => one.querySelector('.answer .text').textContent)"
    )
    assert texts[:3] == [HOSTILE[0], HOSTILE[1].replace("\u202e", "⟨U+202E⟩").replace("\u202c", "⟨U+202C⟩"), HOSTILE[2]]
    assert len(texts[3]) == 4000
    more = "document.querySelectorAll('#cards .card')[3].querySelector('.answer button')"
    assert browser.run(f"{more}.textContent") == "Show all 1,000,000 characters"
    browser.run(f"{more}.click()")
    assert (
        browser.run("document.querySelectorAll('#cards .card')[3].querySelector('.answer .text').textContent.length") == 1_000_000
    )
    assert browser.run("document.title") == "tiny: brittleness run" and browser.complaints() == []
    assert browser.requests() == [files["samples"].as_uri()]


def test_samples_are_paged_and_filtered(browser: Page, files: dict[str, Path]) -> None:
    browser.open(files["samples"])
    count = "document.getElementById('count').textContent"
    assert browser.run(count) == "Prompts 1 to 10 of 24"
    for _ in range(2):
        browser.run("document.getElementById('next').click()")
    assert browser.run(count) == "Prompts 21 to 24 of 24" and browser.run("document.getElementById('next').disabled")
    assert "answer 19" in browser.run("document.getElementById('cards').textContent")
    choose = "const one = document.getElementById('filter'); one.value = '{}'; one.dispatchEvent(new Event('change'));"
    browser.run("{" + choose.format("r") + "}")
    assert browser.run(count) == "Prompts 1 to 1 of 1"
    browser.run("{" + choose.format("d") + "}")
    assert browser.run(count) == "No prompt fits."
    assert browser.run("document.querySelectorAll('#models input').length") == len(usual())


def test_it_prints_on_paper_without_the_samples(browser: Page, files: dict[str, Path]) -> None:
    browser.open(files["samples"], scheme="dark")
    assert len(browser.call("Page.printToPDF")["data"]) > 10_000
    browser.call("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    try:
        assert browser.run("getComputedStyle(document.getElementById('samples')).display") == "none"
        assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        browser.call("Emulation.setDeviceMetricsOverride", width=680, height=1000, deviceScaleFactor=1, mobile=False)
        assert browser.run("document.querySelector('#main-table tbody th').offsetWidth") > 90
        assert browser.run("document.documentElement.scrollWidth") <= 680
    finally:
        browser.call("Emulation.setEmulatedMedia", media="")
