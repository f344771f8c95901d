"""The candidate caller: asks the LLMs of its cards over HTTP, within their limits and caps, through the ledger."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Sequence
from copy import copy
from typing import Any

from actors.json_bytes import encode
from actors.ledger.database import absolute, database_url
from actors.ledger.entry import CANCELLED
from actors.ledger.ledger import CallEntry, CallPlace, Ledger, Settled, request_hash
from actors.load import Load
from actors.pool.calls import CANDIDATE_PROMPT, CallRequest
from actors.pool.candidate import Candidate, Endpoint
from actors.pool.cards import ModelCard, check_names, resolve
from actors.pool.joining import Joining
from actors.pool.purchase import EndpointDown, Means, OverBudget, Purchase
from actors.pool.reply import Reply
from actors.pool.settings import PoolSettings
from actors.pool.spend import Funds, Purse, caps_of
from actors.pool.stats import CallerStats
from actors.pool.transport import PoolError, Transport
from rewards.transcript import CallStatus, RouteCall

__all__ = ["CANDIDATE_PROMPT", "CallerStats", "CandidateCaller"]

_log = logging.getLogger(__name__)

_CLOSED = "the candidate caller is closed; make another to ask"


class _NotRecorded(Exception):
    """A replay's ledger lacks the call; the message says which, and the remedy."""


class CandidateCaller:
    """Asks candidates over one pooled HTTP session; a plain asyncio class, which its user may make an actor."""

    def __init__(
        self,
        cards: Sequence[ModelCard],
        settings: PoolSettings,
        *,
        ledger_url: str | None = None,
        run: str = "",
        funds: Funds | None = None,
        name: str = "caller",
    ) -> None:
        """Take the cards of the endpoints that this caller owns.

        Args:
            ledger_url: where calls are recorded if `settings.ledger_url` is unset; with neither they are not recorded.
            run: name of the run, for the ledger.
            funds: the purse that several callers share; None if this caller needs its own.
            name: this caller's name among them.

        Raises:
            PoolError: there are no cards, or `settings.ledger` needs a ledger and none is named.
            CardError: two cards share a name.
        """
        if not cards:
            raise PoolError("the pool has no model cards; give some in pool.cards")
        check_names(cards, "the pool")
        url = None if settings.ledger == "off" else settings.ledger_url or ledger_url
        if url is None and settings.ledger in ("cache", "replay"):
            raise PoolError(f"pool.ledger={settings.ledger} has no ledger to ask; name one in pool.ledger_url")
        self._ledger_url = None if url is None else absolute(url)
        self._cards = tuple(cards)
        self._settings = settings
        self._run = run
        self._name = name
        urls = {settings.base_url or card.base_url for card in cards}
        self._endpoints = {url: Endpoint(url, settings) for url in sorted(urls)}
        self._candidates = {
            card.name: Candidate(card, self._endpoints[settings.base_url or card.base_url], settings) for card in cards
        }
        self._names: dict[str, Candidate] = dict(self._candidates)  # plus the aliases that were used
        caps = caps_of(settings)
        if funds is None and caps.any:
            hosts = {name: candidate.endpoint.host for name, candidate in self._candidates.items()}
            funds = Purse(caps, self._ledger_url, run, hosts)
        self._load = Load()
        self._stats = CallerStats(usd=Counter(dict.fromkeys(self._candidates, 0)))
        self._means = Means(settings, Transport(settings), funds, self._stats, name)
        self._joining = Joining(self._stats)
        self._under_way: dict[tuple[object, ...], asyncio.Future[None] | None] = {}  # by place; a future if one waits
        self._ledger: Ledger | None = None
        self._opening = asyncio.Lock()
        self._opened = False
        self._closed = False
        self._asking: set[asyncio.Task[Any]] = set()  # tasks whose calls are in progress
        self._ended = asyncio.Event()  # after `close`: all these tasks have ended
        self._settling: set[asyncio.Task[None]] = set()  # settlements of cancelled calls

    async def check(self) -> None:
        """Open the ledger, and ask every endpoint for its models once, each within the connect deadline; a replay
        needs no endpoints.

        Raises:
            PoolError: a key's variable is not set, an endpoint does not answer in time or refuses.
            LedgerError: the ledger can't be used.
        """
        await self._open()
        if self._settings.ledger != "replay":
            endpoints = {(c.endpoint.base_url, c.read_key()) for c in self._candidates.values()}
            await asyncio.gather(*(self._means.transport.probe(url, key) for url, key in endpoints))

    async def ask(self, request: CallRequest) -> RouteCall:
        """Ask one candidate. A provider's failure becomes a status; it is never raised.

        The call's clock starts when it may be sent: it has a slot and its turn under the limits per minute, and its
        worst price is reserved. A call that does not get this far within `queue_timeout_s` is a timeout. A call that
        would break a cap is `over_budget` and is not sent. The tokens and cost of an `ok` or refused call are those
        of its last attempt, because the policy is not to blame for the provider's earlier failures. A reply without
        usage is estimated from its length. A refusal without usage is charged as a reply of full length, so that it is
        never the cheapest call. Calls that failed otherwise carry their reserved price, so that a failure is never
        cheaper than an answer. `stats` and the ledger count everything that was billed, failed attempts included.

        Raises:
            PoolError: no card has the name, the key's variable is not set, the caller is or was closed, or the shared
                purse is gone.
            LedgerError: the call can't be recorded; it was not sent, or its outcome is lost.
        """
        if self._closed:
            raise PoolError(_CLOSED)
        candidate = self._find(request.model)
        stats, voids = self._stats, False
        task = asyncio.current_task()
        assert task is not None
        self._asking.add(task)
        stats.calls += 1
        self._load.change(1)
        try:
            if not self._opened:
                await self._open()
            settled = await self._answer(candidate, request)
        except _NotRecorded as missing:
            settled, voids = Settled(CallStatus.PROVIDER_ERROR, error=str(missing)), True
        except asyncio.CancelledError:
            stats.cancelled += 1
            if self._closed and task.uncancel() == 0:  # only `close` cancelled it
                raise PoolError(_CLOSED) from None
            raise
        finally:
            self._load.change(-1)
            self._asking.discard(task)
            if self._closed and not self._asking:
                self._ended.set()
        stats.status[settled.status] += 1
        return _route_call(candidate, request, settled, voids, final=self._settings.ledger == "replay")

    async def report(self) -> CallerStats:
        """As `stats`; a caller that was restarted first reads from the ledger what its run has spent before.

        Raises:
            LedgerError: the ledger can't be read.
        """
        await self._open()
        return self.stats()

    def stats(self) -> CallerStats:
        """A copy of the counters as they are now."""
        stats = copy(self._stats)
        stats.status, stats.usd = copy(stats.status), copy(stats.usd)
        load = self._load.read()
        stats.in_flight, stats.up_s, stats.busy_s = self._load.count, load.seconds, load.busy_s
        endpoints = self._endpoints.values()
        stats.breakers = {endpoint.host: endpoint.breaker.state.value for endpoint in endpoints}
        stats.limits = {endpoint.host: endpoint.gate.limit for endpoint in endpoints}
        return stats

    async def close(self) -> None:
        """Cancel unfinished calls, which then raise `PoolError`, and settle them; then close connections and ledger."""
        self._closed = True
        for task in self._asking:
            task.cancel()
        if self._asking:
            await self._ended.wait()
        await self._joining.wait()
        if self._settling:
            await asyncio.wait(self._settling)
        await self._means.transport.close()
        if self._means.funds is not None:
            await self._means.funds.close()
        if self._ledger is not None:
            await self._ledger.close()

    async def _open(self) -> None:
        async with self._opening:
            if self._opened:
                return
            if self._closed:
                raise PoolError(_CLOSED)
            settings = self._settings
            if self._ledger_url is not None and self._ledger is None:
                create = _may_be_new(settings, self._ledger_url)
                self._ledger = await Ledger.open(self._ledger_url, run=self._run, create=create)
                if self._run:
                    # Open calls belong to a process that is gone; they are counted when they are made again.
                    spent = await self._ledger.spent_usd(run=self._run, settled=True)
                    self._stats.usd.update({name: usd for name, usd in spent.items() if name in self._candidates})  # type: ignore[arg-type]
            if self._means.funds is not None:
                await self._means.funds.forfeit(self._name)
            self._opened = True

    async def _answer(self, candidate: Candidate, request: CallRequest) -> Settled:
        """The outcome of the call, from the ledger or the provider as the ledger's mode says."""
        mode, ledger = self._settings.ledger, self._ledger
        payload = candidate.payload(request)
        if ledger is None:
            return await self._buy(candidate, request, candidate.read_key(), payload, "")
        sampling = {name: value for name, value in payload.items() if name not in ("model", "messages")}
        digest = request_hash(candidate.card.model, candidate.card.revision, payload["messages"], sampling)
        if mode == "record":
            return await self._buy_once(candidate, request, payload, digest)
        place = _place(request)
        if mode == "replay":
            found = await ledger.recorded(digest, place, self._settings.replay_run)
            if found is None:
                raise _NotRecorded(
                    f"pool.ledger=replay: the ledger holds no reply of {candidate.card.name} to this request "
                    f"({digest[:12]}), and nothing is sent; run with pool.ledger=cache to ask for what is missing"
                )
            self._stats.hits += 1
            return found

        async def find_or_buy() -> Settled:
            found = await ledger.find(digest, place)
            if found is not None:
                self._stats.hits += 1
                return found
            return await self._buy_once(candidate, request, payload, digest)

        return await self._joining.run(digest, find_or_buy)

    async def _buy_once(
        self, candidate: Candidate, request: CallRequest, payload: dict[str, Any], digest: str
    ) -> Settled:
        """Buy a call. If the same call at the same place is in progress, wait for that first: the ledger then has it.

        A call is made twice if an engine died and another engine plays its episodes again before its calls have ended.
        """
        key = candidate.read_key()
        if not request.episode:
            return await self._buy(candidate, request, key, payload, digest)
        place = (request.step, request.episode, request.turn, request.index, digest)
        while place in self._under_way:
            over = self._under_way[place] = self._under_way[place] or asyncio.get_running_loop().create_future()
            await asyncio.shield(over)
        self._under_way[place] = None
        try:
            return await self._buy(candidate, request, key, payload, digest)
        finally:
            waited_for = self._under_way.pop(place)
            if waited_for is not None:
                waited_for.set_result(None)

    async def _buy(
        self, candidate: Candidate, request: CallRequest, key: str | None, payload: dict[str, Any], digest: str
    ) -> Settled:
        """Send the call and record it: its row is in the ledger before the call is sent."""
        settings, gate = self._settings, candidate.endpoint.gate
        body = encode(payload)
        purchase = Purchase(self._means, candidate, request, key, body)
        entry = self._entry(candidate, request, digest, body.decode(), purchase.worst_usd)
        began = False
        try:
            async with asyncio.timeout(settings.queue_timeout_s) as clock:
                await purchase.take_turn()
                try:
                    charge_id = await purchase.grant()
                    clock.reschedule(asyncio.get_running_loop().time() + settings.total_timeout_s)
                    purchase.start()
                    if self._ledger is not None:
                        found = await purchase.record(charge_id, self._ledger.begin(entry))
                        if found is not None:
                            self._stats.hits += 1
                            return found
                        began = True
                    reply = await purchase.run(charge_id)
                finally:
                    gate.leave()
        except TimeoutError:
            reply = purchase.late()
        except (EndpointDown, OverBudget) as refused:
            reply = Reply(fault=str(refused), over_budget=isinstance(refused, OverBudget))
        except BaseException:
            if began:
                self._settle_later(entry.id, purchase.sum_up(Reply(fault="cancelled"), CANCELLED))
            raise
        finally:
            purchase.give_back_turn()
        settled = purchase.sum_up(reply)
        if self._ledger is not None:
            if not began:
                entry.id = self._means.new_id()  # the ledger may still be deleting the entry with the old id
                if (found := await self._ledger.begin(entry)) is not None:
                    return found
            await self._ledger.settle(entry.id, settled)
        return settled

    def _settle_later(self, entry_id: str, settled: Settled) -> None:
        """Complete the row of a call that nobody waits for any more."""
        assert self._ledger is not None
        task = asyncio.get_running_loop().create_task(self._ledger.settle(entry_id, settled))
        self._settling.add(task)
        task.add_done_callback(self._settled)

    def _settled(self, task: asyncio.Task[None]) -> None:
        self._settling.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("the outcome of a cancelled call is not in the ledger, it stays open there: %s", error)

    def _entry(
        self, candidate: Candidate, request: CallRequest, digest: str, text: str, reserved_usd: float
    ) -> CallEntry:
        return CallEntry(
            id=self._means.new_id(),
            place=_place(request),
            model=candidate.card.name,
            endpoint=candidate.endpoint.host,
            request_hash=digest,
            request=text,
            reserved_usd=reserved_usd,
            started_at=time.time(),
        )

    def _find(self, name: str) -> Candidate:
        candidate = self._names.get(name)
        if candidate is None:
            card = resolve(name, self._cards)
            if card is None:
                names = ", ".join(c.name for c in self._cards)
                raise PoolError(f"no card of this caller is named {name!r}; it has {names}")
            candidate = self._names[name] = self._candidates[card.name]
        return candidate


def _may_be_new(settings: PoolSettings, url: str) -> bool:
    """True if a missing ledger may be made. With `cache`, a mistyped file name must not make a new ledger, because all
    calls in the right one would be paid for again."""
    if settings.ledger == "cache" and settings.ledger_url is not None:
        return database_url(url).get_backend_name() != "sqlite"
    return settings.ledger != "replay"


def _place(request: CallRequest) -> CallPlace:
    return CallPlace(request.step, request.episode, request.turn, request.index)


def _route_call(candidate: Candidate, request: CallRequest, settled: Settled, voids: bool, *, final: bool) -> RouteCall:
    card, status = candidate.card, CallStatus(settled.status)
    if status.is_infrastructure:
        cost_usd = candidate.worst_usd(request)
    else:
        cost_usd = card.cost_usd(settled.prompt_tokens, settled.completion_tokens)
    return RouteCall(
        requested=request.requested,
        model=card.name,
        query=request.query,
        status=status,
        reply=settled.reply,
        prompt_tokens=settled.prompt_tokens,
        completion_tokens=settled.completion_tokens,
        cost_usd=cost_usd,
        latency_s=settled.latency_s,
        attempts=settled.attempts,
        error=settled.error,
        raw_cost=settled.completion_tokens * card.price_out_usd_per_mtok,
        cost_estimated=settled.estimated,
        voids=voids,
        final=final and status.is_infrastructure,
    )
