"""Which judges a user names: the grammar, cards, what is on record, and who may be sent answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from brittle_eval import BrittleError, UnknownName
from brittle_eval.cards import judges as judge_cards
from brittle_eval.judgement.judges import check_hosts, choose, described, identity, is_loopback
from brittle_eval.plugins import Plugins
from brittle_plugins.judge_endpoint import Endpoint

CARD = """name = "mine"
summary = "Mine"
method = "endpoint"
source = "me"
licence = "none"
[options]
url = "http://localhost:1/v1"
model = "x"
key-variable = "MY_KEY"
"""


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return Plugins.load()


def test_commas_separate_judges_and_their_options(plugins: Plugins) -> None:
    text = "refusal,endpoint:url=http://localhost:8000/v1,model=a/b:c,per-minute=30,wei2024"
    found = choose(text.split(","), plugins)
    assert list(found) == ["refusal", "endpoint", "wei2024"]
    assert found["endpoint"].judge == Endpoint("http://localhost:8000/v1", "a/b:c", per_minute=30)
    assert choose([text], plugins) == found == choose(["refusal", text.removeprefix("refusal,")], plugins)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("refusl", "did you mean refusal"),
        ("endpoint:url=http://localhost/v1", "needs the option model"),
        ("endpoint:url=http://localhost/v1,model=x,tries=3", "unknown option of judge 'endpoint' 'tries'"),
        ("endpoint:url=http://localhost/v1,model=x,retries=-1", "'-1' was given"),
        ("endpoint:url=localhost:8000,model=x", "is no address"),
        ("endpoint:url=http://me@localhost/v1,model=x", "is no address"),
        ("endpoint:url=http://localhost/v1,model=x,template=nothing", "no {response}"),
        ("endpoint:url=http://localhost/v1,model=x,positive=no", "both positive and negative"),
        ("causal-lm:model=x,positive=", "each need a label"),
        ("refusal,refusal", "named twice"),
        ("refusal,x=3", "'x=3' is no judge"),
        ("refusal:", "refusal"),
        ("nowhere.toml", "nowhere.toml"),
    ],
)
def test_mistakes_are_one_line(plugins: Plugins, text: str, said: str) -> None:
    if text == "refusal:":
        assert list(choose([text], plugins)) == [said]
        return
    with pytest.raises(BrittleError) as caught:
        choose([text], plugins)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_card_gives_options_that_the_user_may_override(plugins: Plugins, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(CARD, encoding="utf-8")
    found = choose([f"{file}:model=y"], plugins)
    assert found["mine"].judge == Endpoint("http://localhost:1/v1", "y", key_variable="MY_KEY")
    assert described(found)["mine"]["verified"] is False
    file.write_text(CARD + 'colour = "red"\n', encoding="utf-8")
    with pytest.raises(UnknownName, match="colour"):
        choose([str(file)], plugins)


def test_every_card_of_ours_is_a_judge_with_a_pinned_revision_that_nobody_calls_verified(plugins: Plugins) -> None:
    cards = judge_cards(plugins)
    assert {"harmbench-llama-2-13b", "llama-guard-3-8b", "llama-guard-4-12b", "strongreject-gemma-2b"} <= set(cards)
    for name, card in cards.items():
        chosen = choose([name], plugins)[name]
        assert chosen.judge.counts == "harmful" and chosen.judge.separate
        assert len(card.options["revision"]) == 40
        assert not card.verified and card.source and card.notes


def test_what_changes_no_verdict_is_not_part_of_a_judges_identity() -> None:
    judge = Endpoint("http://localhost/v1", "x")
    assert identity(judge) == identity(Endpoint("http://localhost/v1", "x", retries=0, timeout=3, key_variable="K", per_minute=1))
    assert identity(judge) != identity(Endpoint("http://localhost/v1", "y"))
    assert identity(judge) != identity(Endpoint("http://localhost/v1", "x", template="{response}"))
    assert identity(judge)["version"] == "1" and identity(judge)["counts"] == "harmful"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "::1"])
def test_this_machine_may_have_answers(plugins: Plugins, host: str) -> None:
    assert is_loopback(host)
    shown = f"[{host}]" if ":" in host else host
    check_hosts(choose([f"endpoint:url=http://{shown}:8000/v1,model=x"], plugins), ())


@pytest.mark.parametrize("host", ["judge.example", "localhost.example", "127.0.0.1.example", "10.0.0.1", "0.0.0.0"])
def test_another_machine_must_be_named(plugins: Plugins, host: str) -> None:
    found = choose([f"endpoint:url=https://{host}/v1,model=x"], plugins)
    with pytest.raises(BrittleError, match=f"--send-answers-to {host}"):
        check_hosts(found, ("other.example",))
    check_hosts(found, ("other.example", host))
