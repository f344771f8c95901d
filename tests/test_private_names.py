"""Names of vLLM, Ray and DeepSpeed that this product relies on though nobody promises them: none is gone.

Only source files are read: nothing of theirs is imported. Raise a version, run this file, and it says which name went.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from private_names import OTHERS, PRIVATE, Private

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).parents[1]
SOURCES = [p for room in ("actors", "learner", "benchmarks", "cluster") for p in sorted((ROOT / room).rglob("*.py"))]
LIBRARIES = ("vllm", "ray", "deepspeed")


@pytest.mark.parametrize("private", PRIVATE, ids=lambda private: f"{private.module}: {private.name}")
def test_it_is_still_there(private: Private) -> None:
    source = _source(private.module)
    assert source is not None, f"the module {private.module} is gone; it was for: {private.why}"
    found = re.search(f"^{private.form}", source.read_text(encoding="utf-8"), re.MULTILINE)
    assert found, f"{private.name} is gone from {private.module} or has changed; it was for: {private.why}"


@pytest.mark.parametrize("name", dict.fromkeys(private.name for private in PRIVATE))
def test_it_is_used_in_one_place(name: str) -> None:
    users = [path for path in SOURCES if name in _words(path) and name not in _own(path)]
    assert len(users) == 1, f"{name} stands in {[str(path.relative_to(ROOT)) for path in users]}"


def test_no_other_private_name_is_used() -> None:
    listed = {private.name for private in PRIVATE} | OTHERS
    others = {path: names for path in SOURCES if (names := _private(path) - _own(path) - listed)}
    assert others == {}
    modules = {module for path in SOURCES for module, _ in _imports(path) if "._" in module}
    assert modules <= {private.module for private in PRIVATE}


def test_whatever_is_imported_of_them_is_still_there() -> None:
    imports = {found: path for path in SOURCES for found in _imports(path)}
    assert {module.split(".")[0] for module, _ in imports} == set(LIBRARIES)
    gone = [
        f"{module}.{name or ''} ({path.relative_to(ROOT)})"
        for (module, name), path in imports.items()
        if not _has(module, name)
    ]
    assert gone == []


def test_the_check_of_imports_can_fail() -> None:
    assert not _has("vllm.v1.engine.utils", "no_such_name")
    assert not _has("vllm.v1.no_such_module", None)


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def _words(path: Path) -> frozenset[str]:
    """The names that a file of ours asks others for: attributes, keywords, what it imports; and its short strings."""
    words: set[str] = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Attribute):
            words.add(node.attr)
        elif isinstance(node, ast.keyword) and node.arg:
            words.add(node.arg)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            words |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 60:
            words.add(node.value)
        elif isinstance(node, ast.FunctionDef):
            words.add(node.name)
    return frozenset(words)


def _private(path: Path) -> set[str]:
    """The underscored names that a file asks of any object."""
    names: set[str] = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.keyword) and node.arg:
            names.add(node.arg)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr"):
            names |= set(_strings(node))
    return {name for name in names if re.fullmatch(r"_[A-Za-z]\w*", name)}


@functools.cache
def _own(path: Path) -> frozenset[str]:
    """The underscored names that a file defines itself, and does not take over from a class of theirs."""
    own: set[str] = set()
    theirs = {private.name for private in PRIVATE} if any(_imports(path)) else set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            own.add(node.name)
        elif isinstance(node, ast.arg):
            own.add(node.arg)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            own.add(node.id if isinstance(node, ast.Name) else node.attr)
    return frozenset(name for name in own if name.startswith("_")) - theirs


@functools.cache
def _imports(path: Path) -> frozenset[tuple[str, str | None]]:
    """What a file of ours imports of the three, anywhere in it: module and name."""
    found: set[tuple[str, str | None]] = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            found |= {(alias.name, None) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {(node.module, alias.name) for alias in node.names}
        elif isinstance(node, ast.Call) and node.args and ast.unparse(node.func) in ("import_module", "find_spec"):
            found |= {(text, None) for text in _strings(node)}
    return frozenset((module, name) for module, name in found if module.split(".")[0] in LIBRARIES)


def _strings(node: ast.AST) -> Iterator[str]:
    return (part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str))


@functools.cache
def _source(module: str) -> Path | None:
    """The source file of a module, found without importing the packages that it lies in."""
    library, *parts = module.split(".")
    spec = find_spec(library)
    assert spec is not None
    assert spec.submodule_search_locations is not None, f"{library} is not installed"
    path = Path(next(iter(spec.submodule_search_locations)), *parts)
    return next((p for p in (path / "__init__.py", path.with_suffix(".py")) if p.is_file()), None)


def _has(module: str, name: str | None) -> bool:
    """Whether a module is there and has that name: as its own, taken from elsewhere, or as a module below it."""
    source = _source(module)
    if source is None or name is None:
        return source is not None
    if _source(f"{module}.{name}") is not None:
        return True
    for node in ast.walk(_tree(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name == name:
            return True
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == name:
            return True
        if isinstance(node, ast.ImportFrom | ast.Import) and any(
            name in (alias.asname, alias.name) for alias in node.names
        ):
            return True
    return name in _strings_of(source)  # a package that imports its names when they are asked for


@functools.cache
def _strings_of(path: Path) -> frozenset[str]:
    return frozenset(_strings(_tree(path)))
