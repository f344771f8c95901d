"""Arguments that several commands share: the recipe and its overrides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    pass


Recipe = Annotated[str, typer.Argument(help="Name of a recipe (`router-r1 recipes`), or a YAML file.")]


Overrides = Annotated[
    list[str] | None, typer.Argument(help="`dotted.key=value`, any number; values are YAML.", metavar="[KEY=VALUE]...")
]
