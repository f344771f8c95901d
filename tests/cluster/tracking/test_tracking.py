"""Tracking: the mode, an offline run that is really written, and one clear error for a bad key."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cluster.config.loading import load_config
from cluster.config.settings import Config
from cluster.runs.metrics import METRICS, from_learner, metric, undeclared
from cluster.tracking.wandb_run import Tracker, TrackingError, tracking_mode
from learner.metrics import LEARNER_METRICS

SECRET = "0123456789abcdef0123456789abcdef01234567"


def config(mode: str) -> Config:
    return load_config("quickstart", [f"tracking.wandb={mode}", "tracking.project=trial"])


@pytest.mark.parametrize(
    ("asked", "key", "mode"),
    [
        ("auto", "", "offline"),
        ("auto", SECRET, "online"),
        ("offline", SECRET, "offline"),
        ("disabled", SECRET, "disabled"),
        ("online", SECRET, "online"),
    ],
)
def test_mode(monkeypatch: pytest.MonkeyPatch, asked: str, key: str, mode: str) -> None:
    monkeypatch.setenv("WANDB_API_KEY", key)
    assert tracking_mode(config(asked).tracking) == mode


def test_online_without_a_key_tells_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(TrackingError, match="needs WANDB_API_KEY; set it, or"):
        Tracker(config("online"), tmp_path)


def test_every_metric_of_the_learner_is_declared() -> None:
    row = from_learner(dict.fromkeys(LEARNER_METRICS, 1.0))
    assert undeclared(row) == []
    assert row["policy/clip_fraction"] == 2.0
    assert "time/learn_s" in row


def test_keys_are_declared_once_and_families_cover_their_members() -> None:
    assert len(METRICS) == len({m.key for m in METRICS.values()})
    family = metric("rollout/call_share/meta/llama-3")
    assert family is not None
    assert family.unit == "share"
    assert metric("rollout/call_shares/x") is None
    assert metric("nonsense") is None


def test_disabled_writes_nothing_and_still_refuses_undeclared_keys(tmp_path: Path) -> None:
    with Tracker(config("disabled"), tmp_path) as tracker:
        tracker.log(1, {"reward/mean": 0.5})
        with pytest.raises(ValueError, match="reward/meen"):
            tracker.log(1, {"reward/meen": 0.5})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.engine
def test_an_offline_run_is_written_into_the_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    run = tmp_path / "my-run"
    run.mkdir()
    with Tracker(config("offline"), run) as tracker:
        tracker.log(1, {"reward/mean": 0.515625, "eval/em": None, "train/em": float("nan")})
        usd = {"cost/usd_total": 0.4375, "cost/usd/meta/llama-3": 0.40625, "cost/usd/qwen": 0.03125}
        tracker.log(2, {"reward/mean": 0.75, "rollout/call_share/a": 0.5} | usd)
        tracker.finish({"after": {"em": 0.9375}})
    [offline] = (run / "wandb").glob("offline-run-*")
    [log] = offline.glob("*.wandb")
    data = log.read_bytes()
    for part in (b"reward/mean", b"0.515625", b"0.9375", b"my-run", b"trial", b"rollout/call_share/a"):
        assert part in data
    for key, value in usd.items():  # the running total of dollars, by model
        assert key.encode() in data
        assert str(value).encode() in data
    for path in run.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path


class _Refuses(BaseHTTPRequestHandler):
    """A W&B server that refuses every key."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def refusing_server() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Refuses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.engine
@pytest.mark.parametrize("key", [SECRET, "short"])
def test_a_bad_key_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusing_server: str, key: str
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("WANDB_BASE_URL", refusing_server)
    monkeypatch.setenv("HOME", str(tmp_path))
    started = time.monotonic()
    with pytest.raises(TrackingError, match=r"W&B did not start.*tracking\.wandb=offline") as caught:
        Tracker(config("auto"), tmp_path, start_timeout_s=10)
    assert time.monotonic() - started < 30
    assert key not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.engine
def test_a_server_that_never_answers_does_not_hang_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("WANDB_API_KEY", SECRET)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("HOME", str(tmp_path))
        started = time.monotonic()
        with pytest.raises(TrackingError):
            Tracker(config("online"), tmp_path, start_timeout_s=5)
        assert time.monotonic() - started < 30
    assert os.environ["WANDB_API_KEY"] == SECRET
