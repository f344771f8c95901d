"""The candidate pool: the caller actors, and which of them owns each card's endpoint."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from actors.pool.caller import CandidateCaller
from actors.pool.calls import CallRequest
from actors.pool.cards import ModelCard
from actors.pool.settings import PoolSettings
from actors.pool.transport import PoolError
from rewards.transcript import CallStatus, RouteCall

_log = logging.getLogger(__name__)

_ASK_GRACE_S = 10.0  # beyond the caller's own deadlines, so that its more telling timeout comes first


def assign_endpoints(cards: Sequence[ModelCard], settings: PoolSettings) -> list[list[ModelCard]]:
    """Split cards over at most `settings.callers` callers.

    Cards of one endpoint stay together, so that its limits live in one place; where `settings.base_url`
    overrides the cards', all are of one endpoint.
    """
    by_endpoint: dict[str, list[ModelCard]] = {}
    for card in cards:
        by_endpoint.setdefault(settings.base_url or card.base_url, []).append(card)
    shares: list[list[ModelCard]] = [[] for _ in range(min(settings.callers, len(by_endpoint)))]
    for index, group in enumerate(by_endpoint.values()):
        shares[index % len(shares)] += group
    return shares


@dataclass(frozen=True)
class CandidatePool:
    """A handle that travels to the rollout workers."""

    callers: tuple[Any, ...]  # Ray actor handles of CandidateCaller
    owner: Mapping[str, int]  # card name -> index of its caller
    settings: PoolSettings
    _spent: dict[int, dict[str, float]] = field(default_factory=dict)  # last known, by caller and card

    @classmethod
    def start(cls, cards: Sequence[ModelCard], settings: PoolSettings, check_timeout_s: float = 60) -> CandidatePool:
        """Start the callers and check that every endpoint answers.

        Raises:
            PoolError: an endpoint is not there, a key is missing, or the callers did not check them in time.
        """
        shares = assign_endpoints(cards, settings)
        actor = ray.remote(CandidateCaller).options(num_cpus=0.1, max_concurrency=4096)
        callers = tuple(actor.remote(share, settings) for share in shares)
        pool = cls(callers, {card.name: index for index, share in enumerate(shares) for card in share}, settings)
        checks = [caller.check.remote() for caller in callers]
        try:
            ray.get(checks, timeout=check_timeout_s)
        except GetTimeoutError as error:
            done, _ = ray.wait(checks, num_returns=len(checks), timeout=0)
            late = ", ".join(pool._name(index) for index, check in enumerate(checks) if check not in done)
            pool.close()
            raise PoolError(
                f"{late} did not start and check the endpoints within check_timeout_s={check_timeout_s:g}; "
                "look whether Ray has CPUs free for it (0.1 each)"
            ) from error
        except BaseException:
            pool.close()
            raise
        return pool

    async def ask(self, request: CallRequest) -> RouteCall:
        """Ask through the caller that owns the endpoint; a dead or silent caller is the infrastructure's failure."""
        index, started = self.owner[request.model], time.monotonic()
        deadline_s = self.settings.queue_timeout_s + self.settings.total_timeout_s + _ASK_GRACE_S
        try:
            async with asyncio.timeout(deadline_s):
                return await self.callers[index].ask.remote(request)
        except TimeoutError:
            status = CallStatus.TIMEOUT
            why = (
                f"{self._name(index)} returned nothing within {deadline_s:g} s (pool.queue_timeout_s + "
                "pool.total_timeout_s and a grace); it hangs or its node is gone"
            )
        except RayActorError as error:
            status = CallStatus.PROVIDER_ERROR
            why = f"{self._name(index)} died: {error}"
        latency_s = time.monotonic() - started
        return RouteCall(request.requested, request.model, request.query, status, latency_s=latency_s, error=why)

    def spent_usd(self, timeout_s: float = 30) -> dict[str, float]:
        """Dollars spent since the start, by card. A caller that is dead or late counts with its last known sums."""
        calls = [caller.stats.remote() for caller in self.callers]
        done, _ = ray.wait(calls, num_returns=len(calls), timeout=timeout_s)
        for index, call in enumerate(calls):
            if call not in done:
                _log.warning("%s told no costs within %g s; its last known are used", self._name(index), timeout_s)
                continue
            try:
                self._spent[index] = ray.get(call, timeout=timeout_s).usd
            except RayActorError as error:
                _log.warning("%s died; its last known costs are used: %s", self._name(index), error)
        total: Counter[str] = Counter()
        for usd in self._spent.values():
            total.update(usd)
        return dict(total)

    def close(self) -> None:
        for caller in self.callers:
            ray.kill(caller)

    def _name(self, index: int) -> str:
        names = ", ".join(card for card, owner in self.owner.items() if owner == index)
        return f"candidate caller {index} (of {names})"
