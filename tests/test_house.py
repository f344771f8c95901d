"""The house: a room imports only from rooms below it, and modules that only describe stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("rewards", "actors", "learner", "benchmarks", "cluster")
SOURCES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))] + [ROOT / "router_r1.py"]

# Bottom up: a room imports only from rooms above it in this list. A folder's own name stands for its ground floor.
ROOMS = (
    "rewards",
    "actors",
    "actors.ledger",
    "actors.engine",
    "actors.pool",
    "actors.episodes",
    "learner.settings",
    "learner.batching",
    "learner.losses",
    "learner.deepspeed_engine",
    "learner.lora",
    "learner.sync",
    "learner",
    "benchmarks",
    "benchmarks.world",
    "benchmarks.questions",
    "benchmarks.benches",
    "benchmarks.evaluation",
    "benchmarks.baselines",
    "cluster",
    "cluster.config",
    "cluster.session",
    "cluster.runs",
    "cluster.episodes",
    "cluster.tracking",
    "cluster.workers",
    "cluster.players",
    "cluster.training",
    "cluster.submit",
    "cluster.score",
    "cluster.serving",
    "cluster.evaluation",
    "cluster.benches",
    "cluster.report",
    "cluster.cli",
    "router_r1",
)

# Libraries that one or two places alone may import, so that a change of theirs is a change there.
ONLY_IN = {
    "vllm": ("actors/engine/", "learner/sync/nccl_sender.py"),
    "sqlalchemy": ("actors/ledger/",),
    "typer": ("cluster/cli/",),
    "matplotlib": ("cluster/report/", "cluster/tracking/"),
}
MOST_FILES = 20  # of one folder

# The command line imports these modules before it knows its command.
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
    "cluster.config.settings",
    "cluster.config.loading",
    "cluster.workers.placement",
)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(path: Path) -> set[str]:
    """The modules that a file imports, at its top or within a function; `from a import b` counts as `a.b` too."""
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room_of(module: str) -> str | None:
    """The room with the longest name that holds the module; None for a module that is not ours."""
    holding = [room for room in ROOMS if module == room or module.startswith(f"{room}.")]
    return max(holding, key=len, default=None)


def named(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_from_above(path: Path) -> set[str]:
    """Imports of a file from rooms above its own."""
    own = room_of(named(path))
    assert own is not None, path
    return {m for m in imports(path) if (room := room_of(m)) and ROOMS.index(room) > ROOMS.index(own)}


def test_a_room_imports_only_from_rooms_below_it() -> None:
    assert {path: above for path in SOURCES if (above := imports_from_above(path))} == {}


def test_every_room_is_in_the_order() -> None:
    folders = {named(path.parent / "__init__.py") for path in SOURCES if path.parent != ROOT}
    assert {room_of(folder) for folder in folders} <= set(ROOMS)
    assert {folder for folder in folders if folder.count(".") < 2} <= set(ROOMS)


@pytest.mark.parametrize(("library", "places"), ONLY_IN.items(), ids=ONLY_IN)
def test_a_library_is_imported_in_its_place_only(library: str, places: tuple[str, ...]) -> None:
    users = {str(path.relative_to(ROOT)) for path in SOURCES if any(m.split(".")[0] == library for m in imports(path))}
    assert users
    assert {user for user in users if not user.startswith(places)} == set()


def test_no_folder_is_crowded() -> None:
    crowds = Counter(path.parent.relative_to(ROOT) for path in SOURCES if path.name != "__init__.py")
    assert {folder: n for folder, n in crowds.items() if n > MOST_FILES} == {}


def test_every_file_says_first_what_it_is_for() -> None:
    first = {path: (ast.get_docstring(tree(path)) or "").partition("\n")[0] for path in SOURCES}
    assert {path: line for path, line in first.items() if len(line) <= 20} == {}


def test_every_room_says_in_sentences_what_it_is_for() -> None:
    said = {path: ast.get_docstring(tree(path)) or "" for path in SOURCES if path.name == "__init__.py"}
    assert {path: text for path, text in said.items() if not text.rstrip().endswith(".")} == {}


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


UNPICKLERS = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
# A call that may unpickle, by its last two names, and the argument that keeps it from that.
GUARDED = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}


def unguarded(node: ast.AST) -> bool:
    """Whether an import or a call may unpickle."""
    if isinstance(node, ast.Import):
        return bool({alias.name.split(".")[0] for alias in node.names} & UNPICKLERS)
    if isinstance(node, ast.ImportFrom) and node.module:
        return node.module.split(".")[0] in UNPICKLERS
    if isinstance(node, ast.Call) and (guard := GUARDED.get(ast.unparse(node.func))):
        name, wanted = guard
        values = [keyword.value for keyword in node.keywords if keyword.arg == name]
        return not any(isinstance(value, ast.Constant) and value.value is wanted for value in values)
    return False


def test_nothing_is_unpickled() -> None:
    found = {(path, ast.unparse(node)) for path in SOURCES for node in ast.walk(tree(path)) if unguarded(node)}
    assert found == set()


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import pickle", True),
        ("from joblib import load", True),
        ("torch.load(file)", True),
        ("torch.load(file, weights_only=False)", True),
        ("np.load(file, allow_pickle=yes)", True),
        ("torch.load(file, weights_only=True)", False),
        ("json.load(file)", False),
    ],
)
def test_the_search_for_unpickling_finds_it(code: str, expected: bool) -> None:
    assert any(unguarded(node) for node in ast.walk(ast.parse(code))) is expected
