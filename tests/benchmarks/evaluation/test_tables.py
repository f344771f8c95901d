"""A table in Markdown: its title, note and units are told, and no cell breaks a row."""

from __future__ import annotations

from benchmarks.evaluation.tables import Column, Table, markdown, markdown_section, text_columns


def test_units_unknown_cells_bars_and_quoted_rows() -> None:
    columns = [*text_columns("Row"), Column("Price", "USD"), Column("Calls")]
    table = Table("T", columns, [["a|b", "1.5", None], ["p*", None, "2"]], quoted=frozenset([1]))
    assert markdown(table).splitlines() == [
        "| Row | Price, USD | Calls |",
        "| --- | --- | --- |",
        "| a\\|b | 1.5 | – |",
        "| *p⁎* | *–* | *2* |",
    ]


def test_a_section_has_title_lead_and_note() -> None:
    table = Table("T", text_columns("a"), [["1"]], note="A note.")
    rows = "| a |\n| --- |\n| 1 |"
    assert markdown_section(table, "Lead.") == f"## T\n\nLead. A note.\n\n{rows}"
    assert markdown_section(Table("T", text_columns("a"), [["1"]]), level=3) == f"### T\n\n{rows}"
