"""The gloo group: if a member is gone, the others notice at once, even while the error is still kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
import torch

from actors.engine.gloo_group import GlooGroup

TIMEOUT_S = 60.0


def form(size: int) -> list[GlooGroup]:
    first = GlooGroup("127.0.0.1", 0, rank=0, world_size=size, timeout_s=TIMEOUT_S)
    groups = [
        first,
        *(
            GlooGroup("127.0.0.1", first.port, rank=rank, world_size=size, timeout_s=TIMEOUT_S)
            for rank in range(1, size)
        ),
    ]
    threads = [threading.Thread(target=group.join) for group in groups]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
    return groups


def send_until_it_fails(learner: GlooGroup, tensor: torch.Tensor, check: Callable[[], None] | None = None) -> None:
    while True:
        learner.broadcast(tensor, "weights", check=check)


def test_who_still_waits_hears_at_once_that_the_group_was_closed_over_an_error() -> None:
    learner, lost, waiting = form(3)
    ended: list[str] = []

    def receive() -> None:
        try:
            while True:
                waiting.broadcast(torch.zeros(1), "weights")
        except TimeoutError as error:
            ended.append(str(error))

    thread = threading.Thread(target=receive, daemon=True)
    thread.start()
    lost.close()
    with pytest.raises(TimeoutError, match="restart the engines that are gone") as kept:
        send_until_it_fails(learner, torch.zeros(1))
    began = time.monotonic()
    learner.close()
    thread.join(TIMEOUT_S)
    assert time.monotonic() - began < TIMEOUT_S / 2
    assert len(ended) == 1
    assert kept.value.__traceback__ is not None  # the traceback still holds every frame
    waiting.close()


def test_a_check_ends_the_wait_by_what_it_raises() -> None:
    learner, idle = form(2)

    def check() -> None:
        raise ConnectionError("its engine died")

    with pytest.raises(ConnectionError, match="its engine died"):
        send_until_it_fails(learner, torch.zeros(1 << 24), check)  # more than the sockets hold
    idle.close()
    learner.close()
