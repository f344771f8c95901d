"""Tables as data: a heading, columns and cells, for whoever renders them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


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
