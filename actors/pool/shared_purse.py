"""The purse that several callers share: an actor owns it, and every caller holds this."""

from __future__ import annotations

import asyncio
from typing import Any

import ray
from ray.exceptions import RayActorError, TaskCancelledError

from actors.pool.spend import Charge
from actors.pool.transport import PoolError


class SharedPurse:
    """A purse in a Ray actor, as a caller in another process uses it. Such an actor's calls keep no order, so what
    has to come after a call is sent once that has returned."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self._given_up: set[asyncio.Task[None]] = set()

    async def reserve(self, charge: Charge) -> str:
        """As `Purse.reserve`.

        Raises:
            PoolError: the purse is gone for good; nothing can be sent within the caps any more.
            LedgerError: it can't read the ledger.
        """
        reference = self._actor.reserve.remote(charge)
        try:
            return str(await reference)
        except RayActorError as error:
            raise _gone(error) from error
        except asyncio.CancelledError:
            task = asyncio.get_running_loop().create_task(self._give_back(reference, charge.id))
            self._given_up.add(task)
            task.add_done_callback(self._given_up.discard)
            raise

    def settle(self, charge_id: str, usd: float) -> None:
        self._actor.settle.remote(charge_id, usd)

    async def forfeit(self, caller: str) -> None:
        """As `Purse.forfeit`.

        Raises:
            PoolError: the purse is gone for good.
        """
        try:
            await self._actor.forfeit.remote(caller)
        except RayActorError as error:
            raise _gone(error) from error

    async def close(self) -> None:
        """Nothing: the actor outlives this."""

    async def _give_back(self, reference: Any, charge_id: str) -> None:
        """Stop waiting for a grant, and return it where it came all the same."""
        ray.cancel(reference)
        try:
            refusal = await reference
        except TaskCancelledError:
            return  # it was not granted
        except RayActorError:
            return  # a purse that starts again has granted nothing yet
        if not refusal:
            self.settle(charge_id, 0.0)


def _gone(error: RayActorError) -> PoolError:
    return PoolError(
        "the purse that holds the pool's caps died and is not started again, so nothing more is sent: without it no "
        f"cap can be kept; start the run again, which goes on from its last checkpoint ({error})"
    )
