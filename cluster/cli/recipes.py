"""`router-r1 recipes`: the recipes that come along."""

from __future__ import annotations

from benchmarks.evaluation.tables import Table, text_columns
from cluster.cli.output import print_table


def recipes() -> None:
    """List the recipes that come along."""
    from cluster.config.loading import load_config, recipe_names

    rows = [[name, load_config(name).about] for name in recipe_names()]
    print_table(Table("", text_columns("recipe", "what it is for"), rows))
