"""Items: a line holds a whole item, and every other line is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_items import item

from benchmarks.evaluation.item import Item, ItemError, routed_items
from benchmarks.evaluation.means import Outcome
from benchmarks.questions.sources import load_source

TEXT = st.text(max_size=12)
NUMBER = st.floats(0, 1e6)
ITEMS = st.builds(
    Item,
    row=TEXT, dataset=TEXT, question=TEXT, sample=st.integers(0, 9), em=st.floats(0, 1), f1=st.none() | st.floats(0, 1),
    cost_usd=NUMBER, calls=st.lists(st.tuples(TEXT, TEXT), max_size=3).map(tuple), prompt_tokens=st.integers(0, 99),
    completion_tokens=st.integers(0, 99), latency_s=NUMBER, hops=st.none() | st.integers(1, 4), answer=st.none() | TEXT,
)  # fmt: skip


@settings(max_examples=40)
@given(ITEMS)
def test_a_line_holds_all_of_an_item(made: Item) -> None:
    line = made.to_line()
    assert "\n" not in line
    assert Item.from_line(line) == made


@pytest.mark.parametrize(
    "change", [{"em": 1.5}, {"em": float("nan")}, {"cost_usd": None}, {"row": 3}, {"more": 1}, {"calls": [1]}]
)
def test_what_is_no_item_is_refused(change: dict[str, object]) -> None:
    row = json.loads(item().to_line())
    assert Item.from_line(json.dumps(row)) == item()
    with pytest.raises(ItemError, match="no item of an evaluation"):
        Item.from_line(json.dumps(row | change))


@pytest.mark.parametrize("line", ["", "[]", "{}", "3", '{"row": "policy"', "\x00"])
def test_lines_of_something_else_are_refused(line: str) -> None:
    with pytest.raises(ItemError):
        Item.from_line(line)


def test_a_baselines_items_say_who_refused_and_what_is_not_known() -> None:
    [question] = load_source("world:heldout", limit=1, two_hop_share=1.0)
    outcome = Outcome(0.0, float("nan"), 0.25, ("a", "b"), 7, 3, 1.5, ("a",))
    [made] = routed_items("cascade", [question], [outcome])
    assert made.calls == (("a", "refused"), ("b", "ok"))
    assert made.f1 is None
    assert (made.hops, made.cost_usd, made.prompt_tokens, made.completion_tokens, made.latency_s) == (
        2,
        0.25,
        7,
        3,
        1.5,
    )
