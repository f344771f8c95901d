"""The purse that several callers share: an actor owns it, and every caller holds a `SharedPurse`."""

from __future__ import annotations

import asyncio
from typing import Any

import ray
from ray.exceptions import RayActorError, TaskCancelledError

from actors.pool.spend import Charge
from actors.pool.transport import PoolError


class SharedPurse:
    """A caller's access to a purse in a Ray actor. Ray may reorder calls to this actor, so a call that must come after
    another is sent only when that has returned."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self._given_up: set[asyncio.Task[None]] = set()

    async def reserve(self, charge: Charge) -> str:
        """As `Purse.reserve`.

        Raises:
            PoolError: the purse is gone for good; nothing can be sent within the caps any more.
            LedgerError: the purse can't read the ledger.
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
        """As `Purse.settle`; does not wait."""
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
        """Do nothing: the actor outlives this object."""

    async def _give_back(self, reference: Any, charge_id: str) -> None:
        """Stop waiting for a grant, and return it if it comes all the same."""
        ray.cancel(reference)
        try:
            refusal = await reference
        except TaskCancelledError:
            return  # it was not granted
        except RayActorError:
            return  # a restarted purse has granted nothing yet
        if not refusal:
            self.settle(charge_id, 0.0)


def _gone(error: RayActorError) -> PoolError:
    return PoolError(
        "the purse that holds the pool's caps died and is not started again, so nothing more is sent: without it no "
        f"cap can be kept; start the run again, which goes on from its last checkpoint ({error})"
    )
