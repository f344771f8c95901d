"""The candidate pool: the caller actors, and which of them owns each card's endpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError

from actors.pool.caller import CallRequest, CandidateCaller
from actors.pool.cards import ModelCard
from actors.settings import PoolSettings
from rewards.transcript import CallStatus, RouteCall


def assign_endpoints(cards: Sequence[ModelCard], callers: int) -> list[list[ModelCard]]:
    """Split cards over at most `callers` callers; cards of one endpoint stay together, so that its limits live in
    one place."""
    by_endpoint: dict[str, list[ModelCard]] = {}
    for card in cards:
        by_endpoint.setdefault(card.base_url, []).append(card)
    shares: list[list[ModelCard]] = [[] for _ in range(min(callers, len(by_endpoint)))]
    for index, group in enumerate(by_endpoint.values()):
        shares[index % len(shares)] += group
    return shares


@dataclass(frozen=True)
class CandidatePool:
    """A handle that travels to the rollout workers."""

    callers: tuple[Any, ...]  # Ray actor handles of CandidateCaller
    owner: Mapping[str, int]  # card name -> index of its caller

    @classmethod
    def start(cls, cards: Sequence[ModelCard], settings: PoolSettings, check_timeout_s: float = 60) -> CandidatePool:
        """Start the callers and check that every endpoint answers.

        Raises:
            PoolError: an endpoint is not there, or a key is missing.
        """
        shares = assign_endpoints(cards, settings.callers)
        actor = ray.remote(CandidateCaller).options(num_cpus=0.1, max_concurrency=4096)
        callers = tuple(actor.remote(share, settings) for share in shares)
        try:
            ray.get([caller.check.remote() for caller in callers], timeout=check_timeout_s)
        except BaseException:
            for caller in callers:
                ray.kill(caller)
            raise
        return cls(callers, {card.name: index for index, share in enumerate(shares) for card in share})

    async def ask(self, request: CallRequest) -> RouteCall:
        """Ask through the caller that owns the endpoint; a dead caller is the infrastructure's failure."""
        try:
            return await self.callers[self.owner[request.model]].ask.remote(request)
        except RayActorError as error:
            return RouteCall(
                request.requested,
                request.model,
                request.query,
                CallStatus.PROVIDER_ERROR,
                error=f"the caller of {request.model} died: {error}",
            )

    def spent_usd(self, timeout_s: float = 30) -> dict[str, float]:
        """Dollars spent since the start, by card."""
        total: Counter[str] = Counter()
        for stats in ray.get([caller.stats.remote() for caller in self.callers], timeout=timeout_s):
            total.update(stats.usd)
        return dict(total)

    def close(self) -> None:
        for caller in self.callers:
            ray.kill(caller)
