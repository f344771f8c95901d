"""Tables as data: a title, columns, cells and a note. Their Markdown is made here, HTML and terminal text elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

UNKNOWN = "–"  # is shown for a value that is not known


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table; numbers stand to the right."""

    name: str
    unit: str = ""
    numeric: bool = True


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells as they are to be read; None is a value that is not known."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str | None]]
    note: str = ""
    highlight: frozenset[int] = frozenset()  # numbers of the rows that matter most
    quoted: frozenset[int] = frozenset()  # and of those that stand here on somebody else's word
    folded: bool = False

    def __post_init__(self) -> None:
        """Refuse rows that do not fit.

        Raises:
            ValueError: a row has more or fewer cells than there are columns.
        """
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.title!r}: row {list(row)} has not {len(self.columns)} cells")


def text_columns(*names: str) -> list[Column]:
    """Columns of words."""
    return [Column(name, numeric=False) for name in names]


def markdown(table: Table) -> str:
    """The columns and rows in Markdown; quoted rows are in italics."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    def row(at: int, cells: Sequence[str | None]) -> str:
        shown = [UNKNOWN if cell is None else cell for cell in cells]
        return line([f"*{cell.replace('*', '⁎')}*" for cell in shown] if at in table.quoted else shown)

    head = [f"{column.name}, {column.unit}" if column.unit else column.name for column in table.columns]
    return "\n".join([line(head), line(["---"] * len(head)), *(row(at, cells) for at, cells in enumerate(table.rows))])


def markdown_section(table: Table, lead: str = "", level: int = 2) -> str:
    """The whole table in Markdown: its title as a heading, then the lead and the note, then the rows."""
    told = " ".join(part for part in (lead, table.note) if part)
    return "\n\n".join(part for part in (f"{'#' * level} {table.title}", told, markdown(table)) if part)
