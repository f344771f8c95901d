"""The document of an evaluation in Markdown, `table.md`."""

from __future__ import annotations

from benchmarks.evaluation.evaluated import Evaluated
from benchmarks.evaluation.pool_table import POOLS_LEAD, PoolTable, pool_tables
from benchmarks.evaluation.row_tables import NOBODY_ASKED, VERDICT_NOTE, result_tables, shares_table
from benchmarks.evaluation.tables import markdown_section


def render(title: str, found: Evaluated) -> str:
    """The whole document."""
    pool = f"Pool `{found.pool}`."
    shares = shares_table(found)
    parts = [
        f"# {title}",
        "\n".join(f"- {name}: {text}" for name, text in found.about.items()),
        *(f"Note: {note}" for note in found.notes),
    ]
    if found.verdicts:
        told = "\n".join(f"- {verdict}" for verdict in found.verdicts)
        parts.append(f"## Verdict\n\n{pool} {VERDICT_NOTE}\n\n{told}")
    parts += [markdown_section(table, pool) for table in result_tables(found)]
    parts.append(markdown_section(shares, pool) if shares else f"## Calls\n\n{pool} {NOBODY_ASKED}")
    if found.pools:
        parts.append(render_pools(found.pools))
    return "\n\n".join(parts) + "\n"


def render_pools(found: PoolTable) -> str:
    """The section on other pools of candidates."""
    tables = [markdown_section(table, level=3) for table in pool_tables(found)]
    return "\n\n".join(["## With other candidates", POOLS_LEAD, *tables])
