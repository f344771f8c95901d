"""`router-r1 recipes`: the recipes that come along."""

from __future__ import annotations


def recipes() -> None:
    """List the recipes that come along."""
    from rich.console import Console
    from rich.table import Table

    from cluster.config.loading import load_config, recipe_names

    table = Table("recipe", "what it is for")
    for name in recipe_names():
        table.add_row(name, load_config(name).about)
    Console().print(table)
