"""Words: what stood for two methods names none in the product any more."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("rewards", "actors", "learner", "benchmarks", "cluster")
ALIASES = next((ROOT / "benchmarks").rglob("old_names.py"))  # reads what was written with those words
FILES = [
    path
    for room in ROOMS
    for path in sorted((ROOT / room).rglob("*"))
    if path.suffix in (".py", ".yaml", ".jinja") and path != ALIASES
]
AMBIGUOUS = re.compile(r"oracle|best[ _-]single", re.IGNORECASE)
BARE = {"best_constant", "best_in_hindsight"}  # without saying on which questions, or in another name's place


def strings(text: str) -> set[str]:
    return {
        node.value
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def ambiguous(path: Path) -> set[str]:
    text = path.read_text(encoding="utf-8")
    return {*AMBIGUOUS.findall(text)} | (strings(text) & BARE if path.suffix == ".py" else set())


def test_a_method_goes_by_a_name_of_its_own() -> None:
    assert {path: words for path in FILES if (words := ambiguous(path))} == {}


def test_the_search_finds_the_words_where_they_are_allowed() -> None:
    text = ALIASES.read_text(encoding="utf-8")
    assert {"oracle", "best_single"} <= set(AMBIGUOUS.findall(text))
    assert "best_constant" in strings(text)
