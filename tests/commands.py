"""The shell commands of our documents: found, read by the real command line, and filled in so that they can run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from cluster.cli.app import app

ROOT = Path(__file__).parents[1]
DOCUMENTS = (
    ROOT / "README.md",
    *(ROOT / "docs" / name for name in re.findall(r"\]\((\w+\.md)\)", (ROOT / "docs/README.md").read_text("utf-8"))),
    ROOT / "docs" / "README.md",
    *sorted((ROOT / "examples").rglob("*.md")),
)
_FENCE = re.compile(r"^```(\w*)\s*$")
_ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")
_WORDS_FOR_YOURS = {"RECIPE": "smollm2_nq"}  # what can't be a file's name in the folder where commands run

# Commands that `test_docs_walk.py` does not run: the beginning of the command, why, and the test that runs its like.
NOT_WALKED = (
    ("make", "installs, trains or tests", "Makefile"),
    ("export", "sets the shell up", "Makefile"),
    ("curl", "asks a service that runs", "test_serving.py"),
    ("python examples/train_and_ask.py run.steps=44", "trains for minutes; the walk runs a short one", "test_train.py"),
    ("router-r1 ask", "starts an engine; the walk's script asks, too", "test_ask.py"),
    ("router-r1 serve", "runs until it is stopped", "test_serving.py"),
    ("router-r1 world serve", "runs until it is stopped; the walk's pool stands on it", "test_candidate_server.py"),
    ("router-r1 train", "trains", "test_train.py"),
    ("router-r1 sft", "trains", "test_sft_run.py"),
    ("router-r1 demonstrate", "asks a teacher", "test_demonstrate.py"),
    ("router-r1 submit", "needs a cluster", "test_submit.py"),
    ("router-r1 bench", "measures for minutes", "test_figures.py"),
    ("router-r1 evaluate runs/NAME", "plays hundreds of episodes", "test_evaluate_engine.py"),
    ("router-r1 evaluate https://", "asks a model of yours", "test_evaluate.py"),
    ("router-r1 evaluate world", "learns all baselines", "test_evaluate_world.py"),
    ("router-r1 data show musique", "asks the hub", "test_sources.py"),
    ("router-r1 data prepare train.jsonl --against nq", "asks the hub", "test_data_cli.py"),
)
LOOKS_ONLY = ("--dry-run", "--keys", "--help", "--version")  # with one of these a command is cheap, whatever it is


@dataclass(frozen=True)
class Command:
    """One command as it stands in a document, and its words as they are typed."""

    where: str  # document and line
    text: str
    program: str
    arguments: tuple[str, ...]
    reads: str | None  # the file that `<` names


def commands() -> list[Command]:
    """Every shell command of the documents, in their order."""
    return [each for document in DOCUMENTS for each in _commands_of(document)]


def python_blocks() -> list[tuple[str, str]]:
    """Every block of Python in the documents, and where it stands."""
    return [
        (f"{document.relative_to(ROOT)}:{number}", "\n".join(lines))
        for document in DOCUMENTS
        for language, number, lines in _blocks(document)
        if language == "python"
    ]


def _commands_of(document: Path) -> list[Command]:
    found = []
    for language, number, lines in _blocks(document):
        if language in ("python", "yaml", "mermaid"):
            continue
        assert language in ("sh", ""), f"{document}:{number}: say what kind of block {language!r} is, or write sh"
        for offset, line in enumerate(lines):
            if line.strip() and not line.lstrip().startswith("#"):
                found.append(_read(line.strip(), f"{document.relative_to(ROOT)}:{number + offset}"))
    return found


def _blocks(document: Path) -> list[tuple[str, int, list[str]]]:
    """Fenced blocks and indented ones: their language, the number of their first line, their lines."""
    blocks: list[tuple[str, int, list[str]]] = []
    fenced, blank = False, True
    for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), 1):
        if fence := _FENCE.match(line):
            if not fenced:
                blocks.append((fence[1], number + 1, []))
            fenced = not fenced
        elif fenced:
            blocks[-1][2].append(line)
        elif line.startswith("    ") and line.strip():
            if blank:
                blocks.append(("", number, []))
            blocks[-1][2].append(line)
        blank = not fenced and (not line.strip() or (blank and not line.startswith("    ")))
    assert not fenced, f"{document}: a fence is not closed"
    return blocks


def _read(line: str, where: str) -> Command:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="<>")
    lexer.whitespace_split, lexer.commenters = True, "#"
    words = _keep_number_signs(line, list(lexer))
    while words and _ASSIGNMENT.fullmatch(words[0]):
        words.pop(0)
    reads = words[words.index("<") + 1] if "<" in words else None
    for sign in ("<", ">"):
        if sign in words:
            at = words.index(sign)
            del words[at : at + 2]
    filled = [re.sub(r"\b[A-Z]+\b", lambda m: _WORDS_FOR_YOURS.get(m[0], m[0]), word) for word in words[1:]]
    return Command(where, line, words[0].removeprefix(".venv/bin/"), tuple(filled), reads)


def _keep_number_signs(line: str, words: list[str]) -> list[str]:
    """A shell takes `#` for a comment only where a word begins; shlex takes it anywhere."""
    bare = re.sub(r"(?<=\S)#", "\0", line)
    if bare == line:
        return words
    lexer = shlex.shlex(bare, posix=True, punctuation_chars="<>")
    lexer.whitespace_split, lexer.commenters = True, "#"
    return [word.replace("\0", "#") for word in lexer]


def why_not_walked(command: Command) -> tuple[str, str, str] | None:
    """The entry of `NOT_WALKED` that a command falls under; None where it is to be run."""
    if command.program == "router-r1" and set(command.arguments) & set(LOOKS_ONLY):
        return None
    typed = " ".join((command.program, *command.arguments))
    return next((entry for entry in NOT_WALKED if f"{typed} ".startswith(entry[0])), None)


@dataclass(frozen=True)
class Parsed:
    """A command as `router-r1` reads it: its path, its values, and the function behind it."""

    path: str
    values: dict[str, Any]
    run: Callable[..., Any] | None


def parse(arguments: tuple[str, ...]) -> Parsed:
    """Let the real command line read the arguments, and run nothing.

    Raises:
        Exception: it refuses them, as it would refuse them in a terminal.
    """
    read: list[Parsed] = []
    tree = typer.main.get_command(app)

    def watch(command: Any, path: str) -> None:
        for name, inner in getattr(command, "commands", {}).items():
            watch(inner, f"{path} {name}".strip())
        if not hasattr(command, "commands"):
            behind = command.callback
            command.callback = lambda **values: read.append(Parsed(path, values, behind))

    watch(tree, "")
    tree.main(list(arguments), prog_name="router-r1", standalone_mode=False)
    return read[0] if read else Parsed("", {}, None)  # --help, --keys and --version end before any command
