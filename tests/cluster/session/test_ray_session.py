"""The Ray session: on a busy machine Ray is started again, and errors say what could not be done."""

from __future__ import annotations

import pytest
import ray

from cluster.session import ray_session as session
from cluster.session.errors import CrewError

_LATE = "The current node timed out during startup. This could happen because some of the raylet failed to startup."


def _answers(monkeypatch: pytest.MonkeyPatch, *answers: Exception | None) -> list[str]:
    """Give the calls of `ray.init` these answers in turn; return the list of the addresses it is called with."""
    asked: list[str] = []
    left = list(answers)

    def init(address: str, **options: object) -> None:
        asked.append(address)
        if (error := left.pop(0)) is not None:
            raise error

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(session, "start_reaper", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return asked


def test_where_ray_is_late_it_is_started_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _answers(monkeypatch, Exception(_LATE), None)
    with session.ray_session(None):
        pass
    assert asked == ["local", "local"]


def test_a_ray_that_is_always_late_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _answers(monkeypatch, *[Exception(_LATE)] * 3)
    with (
        pytest.raises(CrewError, match=r"can't start Ray on this machine: it was not up within 3 times 30 s; look"),
        session.ray_session(None),
    ):
        pass
    assert len(asked) == 3


def test_another_failure_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _answers(monkeypatch, ConnectionError("nobody there"))
    with (
        pytest.raises(CrewError, match=r"can't join the Ray cluster at 127.0.0.1:1 \(placement.address\): nobody"),
        session.ray_session("127.0.0.1:1"),
    ):
        pass
    assert asked == ["127.0.0.1:1"]
