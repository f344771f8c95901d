"""Submission: its command and files, and a real job on a real cluster, followed to its exit status."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from user_files import were_run, write_user_files

from cluster.config.loading import ConfigError
from cluster.submit import SubmitError, plan, submit

SECRET = "k3y-that-is-secret"
CARDS = """
models:
  - name: poet
    descriptor: writes verse
    base_url: http://127.0.0.1:9/v1
    api_key_env: POET_KEY
    price_out_usd_per_mtok: 1.0
"""


def test_local_inputs_travel_and_are_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    monkeypatch.delenv("POET_KEY", raising=False)
    for name in ("mine.yaml", "train.jsonl", "cards.yaml"):
        (tmp_path / name).write_text(CARDS if name == "cards.yaml" else "", encoding="utf-8")
    (tmp_path / "new.yaml").write_text(CARDS.replace("poet", "clerk").replace("POET", "CLERK"), encoding="utf-8")
    monkeypatch.delenv("CLERK_KEY", raising=False)
    (tmp_path / "mine.yaml").write_text(
        yaml.safe_dump(
            {
                "data": {
                    "train": [f"{tmp_path}/train.jsonl", "flashrag:nq/train"],
                    "eval": "/far/test.jsonl:answers=gold",
                }
            }
        ),
        encoding="utf-8",
    )
    planned = plan(
        str(tmp_path / "mine.yaml"),
        [
            "candidates.serve=none",
            f"candidates.pool.cards={tmp_path}/cards.yaml",
            f"candidates.unseen_cards={tmp_path}/new.yaml",
        ],
    )
    words = shlex.split(planned.entrypoint)
    assert words[:5] == ["python", "-m", "cluster.cli", "train", "inputs/0/mine.yaml"]
    assert 'data.train=["inputs/1/train.jsonl", "flashrag:nq/train"]' in words
    assert not any(word.startswith("data.eval=") for word in words)  # as the recipe has it
    assert any(word.startswith("run.name=mine-") for word in words)
    assert "run.if_exists=resume" in words
    assert words.index('candidates.pool.cards="inputs/2/cards.yaml"') > words.index(
        f"candidates.pool.cards={tmp_path}/cards.yaml"
    )
    assert 'candidates.unseen_cards="inputs/3/new.yaml"' in words
    assert "placement.address=auto" in words
    assert planned.files["inputs/1/train.jsonl"] == tmp_path / "train.jsonl"
    assert planned.key_variables == ("WANDB_API_KEY",)
    assert planned.missing_keys == ("CLERK_KEY", "POET_KEY")
    text = planned.describe()
    assert SECRET not in text
    assert "WANDB_API_KEY" in text
    assert "POET_KEY is not set here" in text
    assert "/far/test.jsonl is not here" in text
    assert "run.folder=runs is relative" in text


def test_a_ledger_s_password_travels(monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = ["candidates.pool.ledger_url=postgresql://me@db.lan/ledger"]
    monkeypatch.delenv("PGPASSWORD", raising=False)
    assert "PGPASSWORD" in plan("quickstart", overrides).missing_keys
    monkeypatch.setenv("PGPASSWORD", SECRET)
    planned = plan("quickstart", overrides)
    assert "PGPASSWORD" in planned.key_variables
    assert SECRET not in planned.describe()


def test_a_bad_configuration_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(ConfigError, match=r"run\.stepz"):
        plan("quickstart", ["run.stepz=1"])


@pytest.mark.parametrize("address", ["auto", "ray://127.0.0.1:10001", "127.0.0.1:8265"])
def test_an_address_that_is_no_url_is_refused(address: str) -> None:
    with pytest.raises(SubmitError, match="expected the dashboard's URL"):
        submit(plan("quickstart"), address, lambda _: None)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for opened in sockets:
        opened.close()
    return ports


@pytest.fixture(scope="module")
def user_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with packages that are named like ours."""
    folder = tmp_path_factory.mktemp("user")
    write_user_files(folder, "packages")
    return folder


@pytest.fixture(scope="module")
def dashboard(user_folder: Path) -> Iterator[str]:
    """A Ray head node with one CPU, started in a user's folder; gives the URL of its dashboard."""
    gcs, http, client, agent = _free_ports(4)
    url = f"http://127.0.0.1:{http}"
    programs = Path(sys.executable).parent
    command = [str(programs / "ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={gcs}"]
    command += [f"--dashboard-port={http}", f"--ray-client-server-port={client}", "--num-cpus=1", "--num-gpus=0"]
    # The agent, which runs the jobs, has a fixed port by default; the test session's own cluster may use it.
    command += [f"--dashboard-agent-listen-port={agent}"]
    command += ["--include-dashboard=true", "--object-store-memory=100000000", "--disable-usage-stats"]
    # By default Ray asks for a token if the user has one; this cluster listens on loopback only and needs none.
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "RAY_AUTH_MODE": "disabled"}
    environment.pop("RAY_ADDRESS", None)
    node = subprocess.Popen(
        command,
        cwd=user_folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait_for(f"{url}/api/version", node)
        yield url
    finally:
        node.terminate()
        try:
            node.wait(60)
        finally:
            _kill_group(node.pid)


def _wait_for(url: str, node: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert node.poll() is None, f"the Ray head node ended with {node.returncode}"
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"{url} did not answer within 120 s")


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


# In a job: where a Ray worker of its driver has our packages from.
_WORKER = """
import ray
from actors.ray_start import init_ray
init_ray(address="auto")
print("a worker imports", ray.get(ray.remote(lambda: __import__("rewards").__file__).remote()))
"""


@pytest.mark.engine
def test_a_job_runs_with_its_files_and_keys_and_its_log_comes_back(
    dashboard: str, user_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(user_folder)
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")  # Ray alone would prefer it to the given address
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("about: made for this test\n", encoding="utf-8")
    planned = plan(str(recipe), ["run.steps=3"])
    check = "python -c 'import os; assert len(os.environ[\"WANDB_API_KEY\"]) == 18; print(os.listdir())'"
    log: list[str] = []
    worker = shlex.join(["python", "-c", _WORKER])
    dry = replace(planned, entrypoint=f"{check} && {worker} && {planned.entrypoint} --dry-run")
    assert submit(dry, dashboard, log.append) == 0
    text = "".join(log)
    assert "about: made for this test" in text
    assert "steps: 3" in text
    assert "learner rank 0" in text
    assert "'inputs'" in text
    assert "working_dir_files" in text.partition("a worker imports ")[2].splitlines()[0]
    assert ".git" not in text
    assert SECRET not in text
    assert were_run(user_folder) == []


@pytest.mark.engine
def test_a_job_that_fails_gives_its_own_exit_status(dashboard: str) -> None:
    log: list[str] = []
    planned = replace(plan("quickstart"), entrypoint="python -m cluster.cli train quickstrat")
    assert submit(planned, dashboard, log.append) == 2
    assert "did you mean 'quickstart'" in "".join(log)


_FOLLOWER = """
import sys
from dataclasses import replace
from cluster.submit import FollowingStopped, plan, submit
try:
    job = replace(plan("quickstart"), entrypoint="echo begun && sleep 120")
    submit(job, sys.argv[1], lambda text: print(text, end="", flush=True))
except FollowingStopped as stopped:
    print(stopped, flush=True)
    sys.exit(130)
"""


@pytest.mark.engine
def test_ctrl_c_leaves_the_job_and_tells_how_to_stop_it(dashboard: str) -> None:
    from ray.job_submission import JobStatus, JobSubmissionClient

    follower = subprocess.Popen([sys.executable, "-c", _FOLLOWER, dashboard], stdout=subprocess.PIPE, text=True)
    assert follower.stdout is not None
    try:
        for line in follower.stdout:
            if line.strip() == "begun":
                break
        follower.send_signal(signal.SIGINT)
        rest, _ = follower.communicate(timeout=30)
    finally:
        follower.kill()
        follower.wait(30)
    assert follower.returncode == 130
    job = rest.partition("ray job stop ")[2].split()[0]
    client = JobSubmissionClient(dashboard)
    assert client.get_job_status(job) == JobStatus.RUNNING
    client.stop_job(job)
