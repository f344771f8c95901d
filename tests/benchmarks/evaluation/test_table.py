"""The table of an evaluation: every part names its pool, and what the paper measured is marked as the paper's."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from made_items import item, made_row

from benchmarks.evaluation.evaluated import Evaluated
from benchmarks.evaluation.item import Item
from benchmarks.evaluation.measure import EXACT, HOLDS
from benchmarks.evaluation.published import PUBLISHED, PublishedMetric, published_rows, quote
from benchmarks.evaluation.row_summary import against, summarise_row
from benchmarks.evaluation.table import render

FEW = 199


def table(rows: dict[str, list[Item]], published: str = "qwen") -> str:
    summaries = [summarise_row(name, items, resamples=FEW) for name, items in rows.items()]
    found = against(rows, next(iter(rows)), resamples=FEW)
    sets = list(dict.fromkeys(each.dataset for items in rows.values() for each in items))
    metrics: tuple[PublishedMetric, ...] = ("em", "f1")
    return render(
        "T",
        Evaluated(
            about={"asked": "some"},
            pool="abc123",
            cards={},
            rows=summaries,
            against=found,
            quoted=[quote(row) for metric in metrics for row in published_rows(metric, sets, published)],
            notes=("a note",),
        ),
    )


def section(text: str, title: str) -> str:
    return text.split(f"## {title}")[1].split("\n## ")[0]


def cells(text: str, title: str) -> list[dict[str, str]]:
    """The rows of the table below a title: each cell by its column's name."""
    lines = [line for line in section(text, title).splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert len(set(head)) == len(head)
    return [dict(zip(head, row, strict=True)) for row in rows]


@pytest.fixture(scope="module")
def whole() -> str:
    return table({name: made_row(name, 1, {"nq": 20, "popqa": 10}, samples=2) for name in ("policy", "knn")})


def test_every_table_names_its_pool_and_is_one(whole: str) -> None:
    sections = whole.split("\n## ")[1:]
    assert len(sections) == 8
    for section in sections:
        assert "Pool `abc123`" in section
        lines = [line for line in section.splitlines() if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1


def test_published_rows_stand_beside_measured_ones_in_italics(whole: str) -> None:
    part = section(whole, "Exact match by data set")
    assert "published, not measured here" in part
    [line] = [line for line in part.splitlines() if line.startswith("| *Router-R1-Qwen (")]
    source = "*published, Table 1* | *the paper's 6*"
    assert line == f"| *Router-R1-Qwen (Qwen2.5-3B-Instruct; published)* | {source} | *38.8* | *38.4* | *38.6* |"
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
    rows = cells(table({"policy": asked}), "What it took")
    assert {row["Row"] for row in rows} == {"policy"}
    names = ("Price, USD per 1k", "Calls, per question", "Latency, s", "Refusals", "Failed calls", "Invalid routes")
    took = {row["Of"]: tuple(row[name] for name in names) for row in rows}
    first, second = ("2", "2.00", "1.50", "1", "0", "1"), ("4", "1.00", "2.50", "0", "1", "0")
    all_ = ("3", "1.50", "2.00", "1", "1", "1")
    assert took == {"all": all_, "nq": first, "popqa": second, "1 hop": first, "2 hops": second}


def test_which_published_rows_are_shown() -> None:
    assert set(PUBLISHED) == {"qwen", "llama", "all", "none"}
    assert {row.base for row in published_rows("em", ["nq"], "llama")} == {"Llama-3.2-3B-Instruct"}
    assert published_rows("em", ["nq"], "none") == published_rows("em", ["mine"], "all") == []
    assert "published" not in table({"policy": [item()]}, "none")


def test_one_item_has_no_bounds_and_nobody_asked_is_said() -> None:
    text = table({"policy": [item(calls=(), f1=None)]})
    [row] = cells(text, "All rows")
    told = [row[name] for name in ("Row", "Questions", "Exact match, %", "95 % interval, %", "F1, %")]
    assert told == ["policy", "1", "100.0", "–", "–"]
    assert "No candidate was asked at all." in text
    assert "nan" not in text
    assert "F1 by data set" not in text


def test_where_rows_are_of_several_measures_each_says_its_own_and_the_papers_are_exact_match() -> None:
    held = [replace(item("alone:a", f"q{n}", hops=1 + n % 2), measure=HOLDS) for n in range(4)]
    text = table({"policy": [item(question=f"q{n}", em=0.0, hops=1 + n % 2) for n in range(4)], "alone:a": held})
    names = ("Row", "Questions", "Right by", "Right, %")
    assert [tuple(row[name] for name in names) for row in cells(text, "All rows")] == [
        ("alone:a", "4", HOLDS, "100.0"), ("policy", "4", EXACT, "0.0")
    ]  # fmt: skip
    by_set = {row["Row"]: row for row in cells(text, "Right, each row by its measure, by data set")}
    assert (by_set["alone:a"]["Right by"], by_set["alone:a"]["nq, 95 % interval"][:6]) == (HOLDS, "100.0 ")
    paper = by_set["*Router-R1-Qwen (Qwen2.5-3B-Instruct; published)*"]
    assert (paper["Right by"], paper["nq, 95 % interval"]) == (f"*{EXACT}*", "*38.8*")
    by_hops = section(text, "Right, each row by its measure, by hops")
    assert f"| alone:a | {HOLDS} | 100.0 " in by_hops
    assert "xact match by" not in text
    assert "reference |" not in text  # nothing is known that both could be compared by
    [alone] = cells(table({"alone:a": held}), "All rows")
    assert (alone["Row"], alone["Questions"], alone["Right by"]) == ("alone:a", "4", HOLDS)


def test_the_reference_is_named_and_the_others_tested(whole: str) -> None:
    assert re.search(r"^\| policy .* \| reference \| – \|$", whole, re.M)
    assert re.search(r"^\| knn .* \| [+−]\d+\.\d \([+−]\d+\.\d to [+−]\d+\.\d\) \| \d", whole, re.M)
