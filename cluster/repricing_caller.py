"""The repricing caller: asks candidates at their own prices, and charges some episodes another price for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from actors.pool.caller import CandidateCaller
from actors.pool.calls import CallRequest
from actors.pool.cards import ModelCard
from actors.pool.settings import PoolSettings
from rewards.transcript import RouteCall

PriceFactors = Mapping[str, float]  # by card


class RepricingCaller(CandidateCaller):
    """What a price change would cost is only reckoned: ledger, caps and `stats` hold what providers really charge."""

    def __init__(
        self,
        cards: Sequence[ModelCard],
        settings: PoolSettings,
        factors: Mapping[str, PriceFactors],
        *,
        ledger_url: str | None = None,
        run: str = "",
    ) -> None:
        """`factors`: of each episode that has some, by `EpisodeRequest.episode`. The rest is as `CandidateCaller`'s."""
        super().__init__(cards, settings, ledger_url=ledger_url, run=run)
        self._factors = factors

    async def ask(self, request: CallRequest) -> RouteCall:
        """As `CandidateCaller.ask`, at the price of the request's episode."""
        call = await super().ask(request)
        factor = self._factors.get(request.episode, {}).get(call.model or "", 1.0)
        if factor == 1.0:
            return call
        return replace(call, cost_usd=call.cost_usd * factor, raw_cost=call.raw_cost * factor)
