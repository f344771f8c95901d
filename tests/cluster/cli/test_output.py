"""Terminal tables: when output is piped, each row stays a line and each cell is whole."""

from __future__ import annotations

import pytest

from benchmarks.evaluation.tables import Column, Table, text_columns
from cluster.cli.output import print_table

LONG = "words " * 30


def test_a_piped_table_is_neither_wrapped_nor_cut_and_brackets_are_no_markup(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    table = Table("", [*text_columns("name"), Column("price", "USD")], [[f"[red]{LONG}", "1.5"], ["b", None]])
    print_table(table)
    framed = capsys.readouterr().out.splitlines()
    assert [line for line in framed if f"[red]{LONG.strip()}" in line and "1.5" in line]
    assert [line for line in framed if line.startswith("│ b ") and "– │" in line]
    assert "price, USD" in framed[1]
    print_table(table, framed=False)
    bare = capsys.readouterr().out.splitlines()
    assert len(bare) == 3
    assert bare[1].startswith("[red]words")


def test_a_table_without_rows_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(Table("", text_columns("name"), []))
    assert capsys.readouterr().out == ""
