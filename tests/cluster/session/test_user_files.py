"""A user's files with the names of our packages: none runs in place of ours, and one that is in the way is named.

Whole programs (`ask`, `train`, `serve` and others) run among such files wherever the tests start them: see
`processes.Program`. So does `submit`, in test_submit.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from user_files import Form, were_run, write_user_files

from actors.child_process import ROOT
from cluster.session import one_root
from cluster.session.one_root import PACKAGES

pytestmark = pytest.mark.thorough

_CLI = [sys.executable, "-P", "-c", "from cluster.cli.app import main; main()"]


@pytest.mark.engine
@pytest.mark.parametrize("form", ["files", "packages"])
def test_the_world_is_served(tmp_path: Path, form: Form) -> None:
    write_user_files(tmp_path, form)
    program = subprocess.Popen(
        [*_CLI, "world", "serve", "--port", "0"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    try:
        assert program.stderr is not None
        assert "serving at http://" in program.stderr.readline()
        program.send_signal(signal.SIGTERM)
        assert program.wait(60) == 0
    finally:
        program.kill()
        program.wait(30)
        program.stderr.close()
    assert were_run(tmp_path) == []


@pytest.mark.parametrize("form", ["files", "packages"])
@pytest.mark.parametrize("name", sorted(set(PACKAGES) - {"cluster"}))
def test_what_is_in_the_way_is_named_and_not_run(tmp_path: Path, name: str, form: Form) -> None:
    write_user_files(tmp_path, form, [name])
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [*_CLI, "recipes"], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    in_the_way = tmp_path / (f"{name}.py" if form == "files" else name)
    assert f"error: Python finds {in_the_way} in place of Router-R1's own package {name!r} in {ROOT}" in done.stderr
    assert f"take the folder {tmp_path} off Python's path" in done.stderr
    assert "Traceback" not in done.stderr
    assert were_run(tmp_path) == []


def test_a_script_that_imports_the_public_surface_hears_of_it_too(tmp_path: Path) -> None:
    write_user_files(tmp_path, "files", ["benchmarks"])
    script = tmp_path / "script.py"
    script.write_text("import router_r1\n", encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONSAFEPATH", None)
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"ImportError: Python finds {tmp_path / 'benchmarks.py'} in place of" in done.stderr
    assert were_run(tmp_path) == []


def test_a_package_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:

    monkeypatch.setattr(one_root, "PACKAGES", (*PACKAGES, "no_such_package"))
    with pytest.raises(SystemExit) as ended:
        one_root.check_packages()
    assert ended.value.code == 2
    assert f"the package 'no_such_package' is missing from {ROOT}" in capsys.readouterr().err
