"""Cards: good ones are read, bad ones are refused, and no error shows a secret."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

import actors.pool
from actors.pool.cards import CardError, ModelCard, about_pool, load_cards, read_cards, resolve, shipped_pools

SIX = Path(actors.pool.__file__).with_name("router_r1_six.yaml")
UNSEEN = SIX.with_name("router_r1_unseen.yaml")
CARD = {
    "name": "Alpha-7B",
    "descriptor": "small and quick",
    "base_url": "http://127.0.0.1:1/v1/",
    "price_out_usd_per_mtok": 0.5,
}


def write(folder: Path, *cards: dict[str, object], text: str | None = None) -> Path:
    path = folder / "cards.yaml"
    path.write_text(yaml.safe_dump({"models": list(cards)}) if text is None else text)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(CardError) as caught:
        load_cards(path)
    return str(caught.value)


def test_card_defaults(tmp_path: Path) -> None:
    (card,) = load_cards(write(tmp_path, CARD))
    assert card.model == card.name == "Alpha-7B"
    assert card.base_url == "http://127.0.0.1:1/v1"
    assert card.api_key_env is None
    with pytest.raises(ValidationError):
        card.name = "other"  # type: ignore[misc]


def test_cost_is_tokens_times_price_per_million() -> None:
    card = ModelCard.model_validate(CARD | {"price_in_usd_per_mtok": 2.0, "price_out_usd_per_mtok": 10.0})
    assert card.cost_usd(1_000_000, 0) == 2.0
    assert card.cost_usd(0, 1_000_000) == 10.0
    assert card.cost_usd(150, 20) == pytest.approx(150 * 2e-6 + 20 * 1e-5)


def test_the_papers_six() -> None:
    cards = load_cards(SIX)
    prices = {card.name: card.price_out_usd_per_mtok for card in cards}
    assert prices == {
        "Qwen2.5-7B-Instruct": 0.30,
        "LLaMA-3.1-8B-Instruct": 0.18,
        "LLaMA-3.1-70B-Instruct": 0.88,
        "Mistral-7B-Instruct": 0.20,
        "Mixtral-8x22B-Instruct": 1.20,
        "Gemma-2-27B-Instruct": 0.80,
    }
    assert all(card.api_key_env for card in cards)
    # The published list of prices has one price per model.
    assert all(card.price_in_usd_per_mtok == card.price_out_usd_per_mtok for card in cards)


def test_the_unseen_two_join_the_six() -> None:
    names = [card.name for card in load_cards(UNSEEN)]
    assert names == ["Palmyra-Creative-122B", "LLaMA3-ChatQA-1.5-8B"]
    assert not {*names} & {card.name for card in load_cards(SIX)}


def test_every_shipped_pool_can_be_loaded_and_says_what_it_is() -> None:
    pools = {pool.stem: pool for pool in shipped_pools()}
    assert pools.keys() >= {"router_r1_six", "router_r1_unseen", "local_vllm", "hosted_provider"}
    for pool in pools.values():
        assert about_pool(pool)
        assert all(card.priced_on or pool.stem == "local_vllm" for card in load_cards(pool))


def test_one_price_stands_for_both(tmp_path: Path) -> None:
    (card,) = load_cards(write(tmp_path, CARD))
    assert card.price_in_usd_per_mtok == card.price_out_usd_per_mtok == 0.5
    (card,) = load_cards(write(tmp_path, CARD | {"price_in_usd_per_mtok": 0}))
    assert card.price_in_usd_per_mtok == 0


def test_a_price_of_zero_must_be_said(tmp_path: Path) -> None:
    unpriced = {name: value for name, value in CARD.items() if name != "price_out_usd_per_mtok"}
    (card,) = load_cards(write(tmp_path, unpriced | {"free": True}))
    assert card.cost_usd(1000, 1000) == 0
    assert "'price_out_usd_per_mtok' is missing" in refusal(write(tmp_path, unpriced))
    message = refusal(write(tmp_path, CARD | {"price_out_usd_per_mtok": 0}))
    assert "both prices are 0" in message
    assert "free: true" in message
    assert "beside a price" in refusal(write(tmp_path, CARD | {"free": True}))


def test_a_reply_that_fills_the_context_leaves_no_room_for_a_prompt(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, CARD | {"context_tokens": 512, "max_output_tokens": 512}))
    assert "max_output_tokens=512" in message
    assert "context_tokens=512" in message


def test_the_faults_of_all_cards_are_told_at_once(tmp_path: Path) -> None:
    good, cheap, nameless = CARD, CARD | {"name": "Beta", "temperature": 3}, CARD | {"name": ""}
    path = write(tmp_path, good, cheap, nameless, CARD | {"name": "alpha-7b"})
    lines = refusal(path).splitlines()
    assert [line.split(":")[0].removeprefix(f"{path}, ") for line in lines] == [
        "card 2 ('Beta')",
        "card 3 ('')",
        "card 'alpha-7b'",
    ]
    cards, faults = read_cards(path)
    assert [card.name for card in cards] == ["Alpha-7B", "alpha-7b"]
    assert faults == lines


def test_resolve_takes_name_and_alias_in_any_case() -> None:
    cards = load_cards(SIX)
    assert resolve("  qwen2.5-7b-INSTRUCT ", cards) is cards[0]
    assert resolve("Meta/LLaMA-3.1-8B-instruct", cards) is cards[1]
    assert resolve("Qwen2.5-7B", cards) is None
    assert resolve("", cards) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("models: [", "line 1: not YAML"),
        ("- name: a\n", "got list"),
        ("", "got NoneType"),
        ("models: []", "non-empty list"),
        ("models: {}", "non-empty list"),
        ("models: [1]", "card 1: expected a mapping of fields, got int"),
        ("models: []\nmodel: 3", "['model', 'models']"),
    ],
)
def test_bad_file(tmp_path: Path, text: str, reason: str) -> None:
    path = write(tmp_path, text=text)
    message = refusal(path)
    assert str(path) in message
    assert reason in message


def test_missing_file(tmp_path: Path) -> None:
    assert "no such card file" in refusal(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("fields", "reasons"),
    [
        ({"price_out_usd_per_mtok": -1}, ["'price_out_usd_per_mtok'", "greater than or equal to 0", "got -1"]),
        ({"price_in_usd_per_mtok": float("nan")}, ["'price_in_usd_per_mtok'", "got nan"]),
        ({"price_out_usd_per_mtok": "cheap"}, ["'price_out_usd_per_mtok'", "got 'cheap'"]),
        ({"domains": {"nq": 1.2}}, ["'domains'", "[0, 1]", "1.2"]),
        ({"descriptor": "one\ntwo"}, ["'descriptor'", "one non-empty line"]),
        ({"name": "a:b"}, ["'name'", "without ':'"]),
        ({"aliases": [" a "]}, ["'aliases'", "trimmed"]),
        ({"base_url": "ftp://x/v1"}, ["'base_url'", "http://"]),
        ({"base_url": "http://"}, ["'base_url'", "with a host"]),
        ({"max_output_tokens": 0}, ["'max_output_tokens'", "greater than 0", "got 0"]),
        ({"priced_on": "yesterday"}, ["'priced_on'", "got 'yesterday'"]),
        ({"requests_per_minute": 0}, ["'requests_per_minute'", "greater than 0", "got 0"]),
        ({"tokens_per_minute": float("inf")}, ["'tokens_per_minute'", "finite", "got inf"]),
        ({"top_p": 0}, ["'top_p'", "greater than 0"]),
        ({"price": 3}, ["unknown field 'price'", "remove it", "price_out_usd_per_mtok"]),
    ],
)
def test_bad_field_names_file_card_field_and_value(
    tmp_path: Path, fields: dict[str, object], reasons: list[str]
) -> None:
    path = write(tmp_path, CARD | fields)
    message = refusal(path)
    for reason in [f"{path}, card 1", *reasons]:
        assert reason in message


def test_missing_field(tmp_path: Path) -> None:
    fields = {name: value for name, value in CARD.items() if name != "descriptor"}
    assert "card 1 ('Alpha-7B'): field 'descriptor' is missing" in refusal(write(tmp_path, fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"api_key_env": "sk-verysecret123"},
        {"api_key": "sk-verysecret123"},
        {"base_url": "https://user:sk-verysecret123@host/v1"},
        {"base_url": "https://host/v1?key=sk-verysecret123"},
    ],
)
def test_a_pasted_key_is_refused_and_not_shown(tmp_path: Path, fields: dict[str, object]) -> None:
    assert "verysecret" not in refusal(write(tmp_path, CARD | fields))
    with pytest.raises(ValidationError) as caught:
        ModelCard.model_validate(CARD | fields)
    assert "verysecret" not in str(caught.value)


def test_duplicate_names_and_aliases_in_any_case(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, CARD, CARD | {"name": "ALPHA-7b"}))
    assert "'ALPHA-7b' already belongs to card 'Alpha-7B'" in message
    other = CARD | {"name": "Beta", "aliases": ["alpha-7B"]}
    assert "'alpha-7B' already belongs to card 'Alpha-7B'" in refusal(write(tmp_path, CARD, other))
    assert len(load_cards(write(tmp_path, CARD, CARD | {"name": "Beta"}))) == 2


def test_cards_import_nothing_heavy() -> None:
    check = "import sys, actors.pool.cards; print([m for m in ('torch', 'ray', 'aiohttp', 'vllm') if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.strip() == "[]"
