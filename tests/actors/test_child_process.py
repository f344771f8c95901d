"""Child processes: they and their own children find our packages, whatever files are in the working directory."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from user_files import were_run, write_user_files

from actors import child_process
from actors.child_process import ROOT, child_environment, child_variables, environment, own_path, python_command

_IMPORT = "import actors, benchmarks, cluster, learner, rewards; print(rewards.__file__)"
_GRANDCHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {_IMPORT!r}], check=True)"


@pytest.mark.parametrize("code", [_IMPORT, _GRANDCHILD], ids=["child", "grandchild"])
def test_it_finds_our_packages_among_a_user_s_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    write_user_files(tmp_path, "files")
    monkeypatch.setenv("PYTHONPATH", os.pathsep + str(tmp_path))  # an empty entry is the working directory
    command, env = python_command("-c", code), child_environment()
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == str(ROOT / "rewards" / "__init__.py"), done.stderr
    assert were_run(tmp_path) == []


def test_what_installed_packages_need_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise site-packages would come before the standard library."""
    monkeypatch.setenv("PYTHONPATH", "")
    assert child_variables()["PYTHONPATH"] == str(ROOT)
    monkeypatch.setattr(child_process, "ROOT", Path(sysconfig.get_path("purelib")).resolve())
    assert own_path() == []
    assert child_variables() == {"PYTHONSAFEPATH": "1"}


def test_a_path_of_the_user_s_stays_and_comes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["/theirs", str(ROOT), ""]))
    assert child_variables()["PYTHONPATH"] == os.pathsep.join([str(ROOT), "/theirs"])


def test_an_environment_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONE", "1")
    monkeypatch.delenv("TWO", raising=False)
    with environment({"ONE": "other", "TWO": "2"}):
        assert (os.environ["ONE"], os.environ["TWO"]) == ("other", "2")
    assert os.environ["ONE"] == "1"
    assert "TWO" not in os.environ


def test_no_other_module_starts_python_or_ray_by_itself() -> None:
    assert sys.executable == python_command()[0]
    others = [path for room in ("actors", "learner", "benchmarks", "cluster") for path in (ROOT / room).rglob("*.py")]
    for path in others:
        code = path.read_text(encoding="utf-8").replace('Path(sys.executable).with_name("py-spy")', "")
        if path.name != "child_process.py":
            assert "sys.executable" not in code, f"{path}: use actors.child_process.python_command"
        if path.name != "ray_start.py":
            assert "ray.init(" not in code, f"{path}: use actors.ray_start.init_ray"
