"""The table of an evaluation: every part names its pool, and what the paper measured is marked as the paper's."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from made_items import item, made_row

from benchmarks.evaluation.item import Item
from benchmarks.evaluation.measure import EXACT, HOLDS
from benchmarks.evaluation.row_summary import against, summarise_row
from benchmarks.evaluation.table import PUBLISHED, Evaluated, published_rows, render

FEW = 199


def table(rows: dict[str, list[Item]], published: str = "qwen") -> str:
    summaries = [summarise_row(name, items, resamples=FEW) for name, items in rows.items()]
    found = against(rows, next(iter(rows)), resamples=FEW)
    return render(Evaluated("T", {"asked": "some"}, "abc123", summaries, found, published, ("a note",)))


@pytest.fixture(scope="module")
def whole() -> str:
    return table({name: made_row(name, 1, {"nq": 20, "popqa": 10}, samples=2) for name in ("policy", "knn")})


def test_every_table_names_its_pool_and_is_one(whole: str) -> None:
    sections = whole.split("\n## ")[1:]
    assert len(sections) == 7
    for section in sections:
        assert "Pool `abc123`" in section
        lines = [line for line in section.splitlines() if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1


def test_published_rows_stand_beside_measured_ones_in_italics(whole: str) -> None:
    part = whole.split("## Exact match by data set")[1].split("\n## ")[0]
    assert "published, not measured here" in part
    [line] = [line for line in part.splitlines() if line.startswith("| *Router-R1-Qwen (")]
    assert line == "| *Router-R1-Qwen (Qwen2.5-3B-Instruct; published)* | *0.388* | *0.384* | *0.386* |"
    measured = [line for line in part.splitlines() if line.startswith(("| policy", "| knn"))]
    assert len(measured) == 2
    assert not any("*" in line for line in measured)


def test_what_it_took_is_told_by_set_and_by_hops() -> None:
    asked = [
        item(
            question="a",
            dataset="nq",
            hops=1,
            cost_usd=0.002,
            latency_s=1.5,
            calls=(("x", "refused"), ("", "invalid_route")),
        ),
        item(question="b", dataset="popqa", hops=2, cost_usd=0.004, latency_s=2.5, calls=(("x", "timeout"),)),
    ]
    part = table({"policy": asked}).split("## What it took")[1].split("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.split("|")[2:-1]] for line in part.splitlines() if line.startswith("| policy")
    ]
    took = {row[0]: (row[2], row[3], *row[6:]) for row in rows}
    first, second = ("2", "2.00", "1.50", "1", "0", "1"), ("4", "1.00", "2.50", "0", "1", "0")
    assert took == {"nq": first, "popqa": second, "1 hop": first, "2 hops": second}


def test_which_published_rows_are_shown() -> None:
    assert set(PUBLISHED) == {"qwen", "llama", "all", "none"}
    assert {row.base for row in published_rows("em", ["nq"], "llama")} == {"Llama-3.2-3B-Instruct"}
    assert published_rows("em", ["nq"], "none") == published_rows("em", ["mine"], "all") == []
    assert "published" not in table({"policy": [item()]}, "none")


def test_one_item_has_no_bounds_and_nobody_asked_is_said() -> None:
    text = table({"policy": [item(calls=(), f1=None)]})
    assert "| policy | 1 | 1.000 | – |" in text
    assert "No candidate was asked at all." in text
    assert "nan" not in text
    assert "Token F1" not in text


def test_where_rows_are_of_several_measures_each_says_its_own_and_the_papers_are_exact_match() -> None:
    held = [replace(item("alone:a", f"q{n}", hops=1 + n % 2), measure=HOLDS) for n in range(4)]
    text = table({"policy": [item(question=f"q{n}", em=0.0, hops=1 + n % 2) for n in range(4)], "alone:a": held})
    assert "| row | questions | right by | right, 95 % |" in text
    assert f"| policy | 4 | {EXACT} | 0.000 " in text
    assert f"| alone:a | 4 | {HOLDS} | 1.000 " in text
    by_set = text.split("## Right, each row by its measure, by data set")[1].split("\n## ")[0]
    assert f"| alone:a | {HOLDS} | 1.000 " in by_set
    assert f"| *Router-R1-Qwen (Qwen2.5-3B-Instruct; published)* | *{EXACT}* | *0.388* |" in by_set
    by_hops = text.split("## Right, each row by its measure, by hops")[1].split("\n## ")[0]
    assert f"| alone:a | {HOLDS} | 1.000 " in by_hops
    assert "xact match by" not in text
    assert "reference |" not in text  # nothing is known that both could be compared by
    assert f"| alone:a | 4 | {HOLDS} |" in table({"alone:a": held})


def test_the_reference_is_named_and_the_others_tested(whole: str) -> None:
    assert re.search(r"^\| policy .* \| reference \|  \|$", whole, re.M)
    assert re.search(r"^\| knn .* \| [+-]\d\.\d{3} \([+-]\d\.\d{3} - [+-]\d\.\d{3}\) \| \d", whole, re.M)
