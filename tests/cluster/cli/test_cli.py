"""The command line: fast help, one message for an explained error, and the exit after a signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks.benches.startup import HEAVY, heavy_imports
from cluster.config.loading import recipe_names

pytestmark = pytest.mark.thorough

CLI = [sys.executable, "-m", "cluster.cli"]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLI, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"COLUMNS": "100"} | environment,
    )


@pytest.mark.parametrize(
    "arguments", ["--help", "train --help", "train --keys", "recipes", "submit --help", "evaluate --help"]
)
def test_help_imports_nothing_heavy(arguments: str) -> None:
    assert heavy_imports(arguments) == []


def test_the_check_for_heavy_imports_can_fail() -> None:
    assert "torch" in HEAVY
    code = "import json, sys, aiohttp; sys.stderr.write(json.dumps([m for m in sys.modules if '.' not in m]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert '"aiohttp"' in done.stderr


def test_train_help_teaches() -> None:
    text = run("train", "--help").stdout
    for part in ("rewards.alpha=0.6", "data.train=[world:train", "--dry-run", "--keys", "learner"):
        assert part in text


def test_keys_are_listed_a_line_each() -> None:
    lines = run("train", "--keys").stdout.splitlines()
    [line] = [line for line in lines if line.startswith("learner.optimizer.lr ")]
    assert "1e-06" in line
    assert "Peak learning rate." in line
    assert any("[world:train]" in line for line in lines)


def test_recipes_are_listed() -> None:
    text = run("recipes").stdout
    for name in recipe_names():
        assert name in text


@pytest.mark.parametrize("recipe", recipe_names())
def test_every_recipe_can_be_dry_run(recipe: str) -> None:
    done = run("train", recipe, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "learner rank 0" in done.stdout
    gpus = "4 GPUs; weights are synced by nccl" if recipe == "router_r1_qwen3b" else "0 GPUs"
    assert gpus in done.stdout


def test_submitting_the_papers_recipe_asks_for_the_key_of_its_pool() -> None:
    done = run("submit", "router_r1_qwen3b", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "NVIDIA_API_KEY" in done.stdout
    assert "is not here" not in done.stdout


def test_a_dry_run_prints_configuration_and_placement() -> None:
    done = run("train", "quickstart", "run.steps=7", "--dry-run")
    assert done.returncode == 0, done.stderr
    config, _, placement = done.stdout.partition("\n\n")
    assert yaml.safe_load(config)["run"]["steps"] == 7
    assert "learner" in placement


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "quickstrat"), "did you mean 'quickstart'"),
        (("train", "quickstart", "run.stepz=3"), "did you mean 'run.steps'"),
        (("train", "/nowhere/mine.yaml"), "/nowhere/mine.yaml"),
        (("ask", "/nowhere/run", "who?"), "/nowhere/run: no such folder"),
        (("serve", "/nowhere/run"), "/nowhere/run: no such folder"),
        (("bench", "nope"), "there are "),
        (("submit", "quickstart"), "--address"),
        pytest.param(
            ("submit", "quickstart", "--address", "http://127.0.0.1:9"),
            "job server at http://127.0.0.1:9",
            marks=pytest.mark.engine,  # imports Ray
        ),
        (("world", "serve", "--fault", "nonsense=1"), "nonsense"),
    ],
)
def test_an_explained_error_is_one_message_and_status_2(arguments: tuple[str, ...], words: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.engine  # imports the whole loop
def test_a_question_file_with_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text('{"id": "a", "question": "who?", "answers": ["x"]}\n{"id": \n', encoding="utf-8")
    done = run("train", "quickstart", f"data.train={path}", f"run.folder={tmp_path / 'runs'}")
    assert done.returncode == 2, done.stderr
    assert f"{path}, line 2" in done.stderr
    assert "Traceback" not in done.stderr


_STOPPED = """
import signal, sys, time
from cluster.cli import output as command
from cluster.session import stopping

def wait(*_):
    print("waiting", flush=True)
    time.sleep(60)

def main():
    stopping.stop_on_sigterm()
    try:
        with command.stoppable(lambda: "all is saved"):
            wait()
    except command.typer.Exit as stop:
        sys.exit(stop.exit_code)

main()
"""

# The program prints its word only when the loop runs: asyncio itself would report a signal during its set-up.
_STOPPED_ASYNC = _STOPPED.replace("def wait(", "async def wait(").replace(
    "    time.sleep(60)", "    await asyncio.sleep(60)"
)
_STOPPED_ASYNC = _STOPPED_ASYNC.replace("            wait()", "            asyncio.run(wait())").replace(
    "import signal,", "import asyncio, signal,"
)


@pytest.mark.parametrize("code", [_STOPPED, _STOPPED_ASYNC], ids=["plain", "asyncio"])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_with_a_word_on_what_is_saved(code: str, number: signal.Signals, status: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait(30)
    assert process.returncode == status, errors
    assert "stopped; all is saved" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("closed", ["<&-", ">&-"])
def test_closed_standard_input_or_output_is_one_message(closed: str) -> None:
    code = "import sys; sys.argv = ['router-r1', 'score']; from cluster.cli.app import main; main()"
    command = ["bash", "-c", f'"$0" -c "$1" {closed}', sys.executable, code]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 2
    assert "standard input or output is closed; name a file" in done.stderr
    assert "Traceback" not in done.stderr


def test_errors_within_a_group_or_a_remote_task_are_explained_too() -> None:
    from cluster.cli.app import _explanations
    from cluster.config.loading import ConfigError

    class Remote(RuntimeError):
        cause = ConfigError("from afar")

    assert _explanations(ExceptionGroup("", [ConfigError("one"), ConfigError("one"), Remote()])) == ["one", "from afar"]
    assert _explanations(ExceptionGroup("", [ConfigError("one"), ZeroDivisionError()])) is None
    assert _explanations(ZeroDivisionError()) is None


def test_the_version_is_told_installed_or_not() -> None:
    assert run("--version").stdout.startswith("router-r1 0.")
    code = (
        "import importlib.metadata as metadata, sys\n"
        "def version(name): raise metadata.PackageNotFoundError(name)\n"
        "metadata.version = version; sys.argv = ['router-r1', '--version']\n"
        "from cluster.cli.app import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "version unknown: the package is not installed here" in done.stdout
