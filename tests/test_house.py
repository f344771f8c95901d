"""The house: rooms import only from rooms to their left, and describing modules stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("rewards", "actors", "learner", "benchmarks", "cluster")
SOURCES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]

# Imported by the command line before it knows what it is to do.
LIGHT = (
    "rewards.presets",
    "rewards.settings",
    "actors.settings",
    "actors.episodes.trajectory",
    "actors.pool.cards",
    "actors.episodes.menu",
    "actors.episodes.prompt",
    "learner.settings",
    "benchmarks.world.facts",
    "cluster.config.loading",
    "cluster.workers.placement",
)


def imported_rooms(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names & set(ROOMS)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_from_rooms_to_its_left(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    allowed = set(ROOMS[: ROOMS.index(room) + 1])
    assert imported_rooms(path) <= allowed


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_says_first_what_it_is_for(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring
    assert len(docstring.splitlines()[0]) > 20


def test_describing_modules_import_neither_torch_nor_ray_nor_vllm() -> None:
    code = f"import sys, {', '.join(LIGHT)}; print([m for m in ('torch', 'ray', 'vllm') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_rewards_need_nothing_but_the_standard_library() -> None:
    names: set[str] = set()
    for path in (ROOT / "rewards").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.split(".")[0])
            elif isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
    assert names <= {*sys.stdlib_module_names, "rewards", "numpy"}
