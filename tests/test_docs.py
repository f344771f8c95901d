"""Every command in README, docs and examples: read by the real command line (`test_docs_walk.py` runs them)."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from commands import DOCUMENTS, NOT_WALKED, ROOT, Command, commands, parse, python_blocks, why_not_walked

import router_r1
from cluster.config.loading import load_config

pytestmark = pytest.mark.thorough

COMMANDS = commands()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the configuration of a run in runs/NAME, which many commands use."""
    path = tmp_path_factory.mktemp("docs")
    (path / "runs" / "NAME").mkdir(parents=True)
    config = load_config("quickstart").dump()
    (path / "runs" / "NAME" / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        yield path


def test_there_are_commands_and_every_page_is_in_the_index() -> None:
    assert len(COMMANDS) > 80
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert pages == {path.name for path in DOCUMENTS if path.parent.name == "docs"}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.where)
def test_every_command_is_one(command: Command, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command names an existing program, and `router-r1` accepts its arguments, recipe and overrides."""
    program, arguments = command.program, command.arguments
    if program == "make":
        [target] = [word for word in arguments if "=" not in word]
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    elif program == "python":
        assert (ROOT / arguments[0]).is_file()
        load_config("quickstart", arguments[1:])
    elif program != "router-r1":
        assert program in ("export", "pip", "curl", "cp")
    else:
        check_router_r1(arguments)


def check_router_r1(arguments: tuple[str, ...]) -> None:
    parsed = parse(arguments)
    if parsed.path == "bench":
        from cluster.benches.suite import BENCHES

        assert parsed.values["name"] in BENCHES
    if parsed.path in ("train", "submit") and "://" not in str(parsed.values.get("resume")):
        assert parsed.run is not None
        parsed.run(**parsed.values | {"dry_run": True})
    elif parsed.path in ("sft", "demonstrate"):
        load_config(parsed.values["recipe"], parsed.values["overrides"] or ())
    elif parsed.path in ("ask", "serve", "evaluate"):
        load_config(parsed.values["recipe"], parsed.values["set_"] or ())


@pytest.mark.parametrize("arguments", [("trian",), ("train", "quickstart", "--steps=3"), ("pool", "probe")])
def test_the_check_of_the_command_line_can_fail(arguments: tuple[str, ...]) -> None:
    with pytest.raises(Exception, match=r"No such command|No such option|Missing parameter"):
        check_router_r1(arguments)


def test_the_check_of_a_recipe_can_fail(folder: Path) -> None:
    with pytest.raises(router_r1.ConfigError, match="unknown key"):
        check_router_r1(("train", "quickstart", "run.stepz=3"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_in_sentences_are_commands(document: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A command in a sentence may lack arguments, but its names and options must exist."""
    prose = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for typed in re.findall(r"`router-r1 ([^`]+)`", prose):
        try:
            parse(tuple(typed.split()))
        except Exception as error:
            if "Missing parameter" not in str(error):
                pytest.fail(f"`router-r1 {typed}`: {error}")


@pytest.mark.parametrize("entry", NOT_WALKED, ids=lambda entry: entry[0])
def test_what_the_walk_leaves_out_is_there_and_run_elsewhere(entry: tuple[str, str, str]) -> None:
    assert any(why_not_walked(command) == entry for command in COMMANDS)
    assert (ROOT / entry[2]).is_file() or list((ROOT / "tests").rglob(entry[2]))


@pytest.mark.parametrize(("where", "code"), python_blocks(), ids=lambda part: part.split("\n")[0])
def test_python_in_documents_uses_the_public_surface(where: str, code: str) -> None:
    compile(code, where, "exec")
    assert set(re.findall(r"router_r1\.(\w+)", code)) <= set(router_r1.__all__)
    for module in re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE):
        assert module in (*sys.stdlib_module_names, "router_r1")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert "://" in target or (document.parent / target).exists(), f"{document.name}: {target}"


def test_examples_import_the_public_surface_alone() -> None:
    for script in (ROOT / "examples").rglob("*.py"):
        text = script.read_text(encoding="utf-8")
        assert "import router_r1" in text
        for module in re.findall(r"^\s*(?:import|from) ([\w.]+)", text, re.MULTILINE):
            assert module in (*sys.stdlib_module_names, "router_r1")
