"""Menus: shuffled and renamed by seed, and found again by the name shown."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actors.episodes.menu import draw_menu
from benchmarks.world.experts import experts

CARDS = [expert.card("http://127.0.0.1:1/v1") for expert in experts()]


@given(st.integers())
def test_every_card_is_shown_once_under_a_name_of_its_own(seed: int) -> None:
    menu = draw_menu(CARDS, seed, shuffle=True, rename="seen")
    assert sorted(item.card.name for item in menu.items) == sorted(card.name for card in CARDS)
    assert len({item.name for item in menu.items}) == len(CARDS)
    for item in menu.items:
        assert menu.find(f" {item.name.upper()} ") is item
        assert menu.find(item.card.name) is None


def test_a_seed_gives_the_same_menu_and_another_seed_another() -> None:
    assert draw_menu(CARDS, 1, shuffle=True, rename="seen") == draw_menu(CARDS, 1, shuffle=True, rename="seen")
    assert draw_menu(CARDS, 1, shuffle=True, rename="seen") != draw_menu(CARDS, 2, shuffle=True, rename="seen")


@given(st.integers(0, 10_000))
def test_unseen_names_are_never_shown_in_training(seed: int) -> None:
    seen = {item.name for item in draw_menu(CARDS, seed, shuffle=True, rename="seen").items}
    unseen = {item.name for item in draw_menu(CARDS, seed, shuffle=True, rename="unseen").items}
    assert seen.isdisjoint(unseen)


def test_without_renaming_cards_keep_their_names() -> None:
    menu = draw_menu(CARDS, 0, shuffle=False)
    assert [item.name for item in menu.items] == [card.name for card in CARDS]
    assert menu.find(CARDS[0].name.upper()) is menu.items[0]
