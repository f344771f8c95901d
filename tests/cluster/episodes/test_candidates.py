"""The candidates of a run from card files: those of training, and those that only evaluation shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.pool.cards import CardError
from cluster.config.loading import ConfigError, load_config
from cluster.episodes.candidates import start_candidates

SEEN = 6


def test_unseen_cards_join_the_others_in_their_evaluation_alone() -> None:
    with start_candidates(load_config("router_r1_qwen3b", ["candidates.unseen_cards=router_r1_unseen"])) as found:
        assert len(found.cards) == SEEN
        assert [card.name for card in found.unseen] == ["Palmyra-Creative-122B", "LLaMA3-ChatQA-1.5-8B"]
        assert found.unseen_menu == found.all == (*found.cards, *found.unseen)
    with start_candidates(load_config("router_r1_qwen3b")) as found:
        assert found.unseen_menu == ()
        assert len(found.all) == SEEN


def test_unseen_cards_are_asked_where_the_others_are() -> None:
    url = "http://127.0.0.1:9/v1"
    overrides = ["candidates.unseen_cards=router_r1_unseen", f"candidates.pool.base_url={url}"]
    with start_candidates(load_config("router_r1_qwen3b", overrides)) as found:
        assert {card.base_url for card in found.all} == {url}


def test_an_unseen_card_must_not_have_the_name_of_another(tmp_path: Path) -> None:
    cards = tmp_path / "more.yaml"
    cards.write_text(
        "models:\n  - {name: x, aliases: [Qwen/Qwen2.5-7B-Instruct], descriptor: d, base_url: 'http://h/v1', "
        "price_out_usd_per_mtok: 1}\n",
        encoding="utf-8",
    )
    config = load_config("router_r1_qwen3b", [f"candidates.unseen_cards={cards}"])
    with pytest.raises(CardError, match=r"candidates\.unseen_cards=.*more\.yaml.*already belongs"):
        start_candidates(config).__enter__()


def test_a_local_server_brings_its_own_unseen_ones() -> None:
    with pytest.raises(ConfigError, match=r"unseen_cards=router_r1_unseen with serve=world would be ignored"):
        load_config("quickstart", ["candidates.unseen_cards=router_r1_unseen"])
