"""The candidate pool: the caller actors, which of them owns each card's endpoint, and the purse that they share."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, RayError, RayTaskError, TaskCancelledError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.ledger.database import absolute, database_url
from actors.ledger.ledger import LedgerError
from actors.pool.caller import CandidateCaller
from actors.pool.calls import CallRequest
from actors.pool.candidate import host_of, worst_usd
from actors.pool.cards import ModelCard
from actors.pool.settings import PoolSettings
from actors.pool.shared_purse import SharedPurse
from actors.pool.spend import Purse, caps_of
from actors.pool.stats import CallerStats, add_stats
from actors.pool.transport import PoolError
from rewards.transcript import CallStatus, RouteCall

_log = logging.getLogger(__name__)

_ASK_GRACE_S = 10.0  # beyond the caller's own deadlines, so that its more informative timeout comes first
_CONCURRENT_CALLS = 16384  # per actor, waiting calls included; the endpoints' own limits hold calls back


def assign_endpoints(cards: Sequence[ModelCard], settings: PoolSettings) -> list[list[ModelCard]]:
    """Split cards over at most `settings.callers` callers.

    Cards of one endpoint stay together, so that one caller holds its limits. If `settings.base_url` overrides the
    cards' URLs, all cards have the same endpoint.
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
    """A handle to the callers, which is sent to the rollout workers."""

    callers: tuple[Any, ...]  # Ray actor handles of CandidateCaller
    owner: Mapping[str, int]  # card name -> index of its caller
    settings: PoolSettings
    cards: Mapping[str, ModelCard]
    purse: Any = None  # Ray actor handle of the Purse that several callers share
    _known: dict[int, CallerStats] = field(default_factory=dict)  # last known counters, by the caller's index

    @classmethod
    def start(
        cls,
        cards: Sequence[ModelCard],
        settings: PoolSettings,
        *,
        ledger_url: str | None = None,
        run: str = "",
        check_timeout_s: float = 60,
    ) -> CandidatePool:
        """Start the callers and check that every endpoint answers.

        A caller that dies is restarted, up to `settings.caller_restarts` times, and its calls are made again; those
        that were answered come from the ledger. For `ledger_url` and `run` see `CandidateCaller`. `check_timeout_s` is
        the deadline for the start and the check, in seconds.

        Raises:
            PoolError: an endpoint can't be reached, a key is missing, or the check took longer than `check_timeout_s`.
            LedgerError: the ledger can't be used.
        """
        shares = assign_endpoints(cards, settings)
        if settings.ledger_url is not None:
            settings = settings.model_copy(update={"ledger_url": absolute(settings.ledger_url)})
        ledger_url = None if ledger_url is None else absolute(ledger_url)
        url = None if settings.ledger == "off" else settings.ledger_url or ledger_url
        options: dict[str, Any] = {"max_concurrency": _CONCURRENT_CALLS, "scheduling_strategy": _strategy(url)}
        caps = caps_of(settings)
        purse = None
        if caps.any and (len(shares) > 1 or url is None):
            # A restarted purse reads from the ledger what was spent. Without a ledger it can't know, so the purse then
            # always has an actor of its own, which is never restarted.
            restarts = 0 if url is None else settings.caller_restarts
            hosts = {card.name: host_of(settings.base_url or card.base_url) for card in cards}
            kind = ray.remote(Purse).options(num_cpus=0, max_restarts=restarts, max_task_retries=restarts, **options)
            purse = kind.remote(caps, url, run, hosts)
        actor = ray.remote(CandidateCaller).options(
            num_cpus=0.1,
            max_restarts=settings.caller_restarts,
            max_task_retries=settings.caller_restarts,
            **options,
        )
        callers = tuple(
            actor.remote(
                share,
                settings,
                ledger_url=ledger_url,
                run=run,
                funds=None if purse is None else SharedPurse(purse),
                name=_caller_name(index),
            )
            for index, share in enumerate(shares)
        )
        owner = {card.name: index for index, share in enumerate(shares) for card in share}
        pool = cls(callers, owner, settings, {card.name: card for card in cards}, purse)
        try:
            pool._check(check_timeout_s)
        except BaseException:
            pool._kill()
            raise
        return pool

    async def ask(self, request: CallRequest) -> RouteCall:
        """Ask through the caller that owns the endpoint; a dead or silent caller counts as an infrastructure failure.

        Cancelling this coroutine cancels the call and closes its connection.
        """
        index, started = self.owner[request.model], time.monotonic()
        deadline_s = self.settings.queue_timeout_s + self.settings.total_timeout_s + _ASK_GRACE_S
        reference = self.callers[index].ask.remote(request)
        try:
            async with asyncio.timeout(deadline_s):
                return await reference
        except asyncio.CancelledError:
            ray.cancel(reference)
            raise
        except TimeoutError:
            ray.cancel(reference)
            status = CallStatus.TIMEOUT
            why = (
                f"{self._name(index)} returned nothing within {deadline_s:g} s (pool.queue_timeout_s + "
                "pool.total_timeout_s and a grace); it hangs or its node is gone"
            )
        except (RayTaskError, TaskCancelledError):
            raise
        except RayError as error:  # its process or node is gone
            if self.purse is not None and isinstance(error, ActorDiedError):
                self.purse.forfeit.remote(_caller_name(index))
            status = CallStatus.PROVIDER_ERROR
            why = f"{self._name(index)} died, after pool.caller_restarts={self.settings.caller_restarts}: {error}"
        return RouteCall(
            request.requested,
            request.model,
            request.query,
            status,
            cost_usd=worst_usd(self.cards[request.model], request),
            latency_s=time.monotonic() - started,
            error=why,
        )

    def stats(self, timeout_s: float = 30) -> CallerStats:
        """The sums of all callers' counters. For a caller that is dead or late, or can't read its ledger, the last
        known counters are used."""
        calls = [caller.report.remote() for caller in self.callers]
        done, _ = ray.wait(calls, num_returns=len(calls), timeout=timeout_s)
        for index, call in enumerate(calls):
            if call not in done:
                _log.warning("%s sent no numbers within %g s; its last ones are used", self._name(index), timeout_s)
                continue
            try:
                self._known[index] = ray.get(call, timeout=timeout_s)
            except LedgerError as error:
                _log.warning("%s: its last known numbers are used: %s", self._name(index), error)
            except RayTaskError:
                raise
            except RayError as error:
                _log.warning("%s died; its last known numbers are used: %s", self._name(index), error)
        return add_stats(self._known.values())

    def spent_usd(self) -> dict[str, float]:
        """Dollars spent since the start of the run, by card."""
        return dict(self.stats().usd)

    def close(self, timeout_s: float = 5) -> None:
        """End the callers. Their unfinished calls are cancelled and settled in the ledger, if that takes no longer than
        `timeout_s` seconds."""
        closing = {caller.close.remote(): self._name(index) for index, caller in enumerate(self.callers)}
        _, late = ray.wait([*closing], num_returns=len(closing), timeout=timeout_s)
        for call in late:
            _log.warning(
                "%s did not close within %g s: its unfinished calls stay open in the ledger, at their worst price",
                closing[call],
                timeout_s,
            )
        self._kill()

    def _kill(self) -> None:
        for actor in (*self.callers, self.purse):
            if actor is not None:
                ray.kill(actor)

    def _check(self, timeout_s: float) -> None:
        checks = [caller.check.remote() for caller in self.callers]
        try:
            ray.get(checks, timeout=timeout_s)
        except GetTimeoutError as error:
            done, _ = ray.wait(checks, num_returns=len(checks), timeout=0)
            late = ", ".join(self._name(index) for index, check in enumerate(checks) if check not in done)
            raise PoolError(
                f"{late} did not start and check the endpoints within check_timeout_s={timeout_s:g}; "
                "look whether Ray has CPUs free for it (0.1 each)"
            ) from error

    def _name(self, index: int) -> str:
        names = ", ".join(card for card, owner in self.owner.items() if owner == index)
        return f"candidate caller {index} (of {names})"


def _caller_name(index: int) -> str:
    return f"caller-{index}"


def _strategy(ledger_url: str | None) -> Any:
    """The scheduling of callers and purse: on this node if the ledger is a SQLite file, which is here; else spread."""
    if ledger_url is None or database_url(ledger_url).get_backend_name() != "sqlite":
        return "SPREAD"
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
