"""The spending of an evaluation: USD of all its calls to candidates, including those of earlier commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from actors.ledger.store import LedgerStore
from actors.pool.caller import CandidateCaller
from actors.pool.cards import ModelCard
from cluster.config.settings import Config
from cluster.episodes.candidates import Books, open_books
from cluster.evaluation.folder import EvaluationFolder
from cluster.runs.run_id import keep_run_id

if TYPE_CHECKING:
    from actors.pool.pool import CandidatePool


class Spending:
    """Creates callers, one after another, and adds up the costs of their calls.

    The costs come from the ledger if there is one, otherwise the folder keeps them. `usd` is the sum so far.
    """

    def __init__(self, config: Config, folder: EvaluationFolder) -> None:
        """Look up the earlier spending.

        Raises:
            LedgerError, RunIdError: the ledger of earlier calls can't be read.
            RunFolderError: the folder's own count can't be read.
        """
        self._pool, self._folder = config.candidates.pool, folder
        self._asked: CandidateCaller | CandidatePool | None = None
        self._elsewhere = 0.0  # USD of calls that the present caller does not count
        self.usd = sum(self._recorded().values()) if self._has_ledger else folder.spent_before()

    def hire(self, cards: Sequence[ModelCard]) -> CandidateCaller:
        """A caller that books its calls in the folder's ledger, so that no call is paid twice."""
        self._asked = caller = CandidateCaller(cards, self._pool, **self._books_for(cards)._asdict())
        return caller

    def start_pool(self, cards: Sequence[ModelCard]) -> CandidatePool:
        """The same as Ray actors, for policies that play in other processes. After their end `add_up` can't count them.

        Raises:
            PoolError, LedgerError: as in `CandidatePool.start`.
        """
        from actors.pool.pool import CandidatePool

        self._asked = pool = CandidatePool.start(cards, self._pool, **self._books_for(cards)._asdict())
        return pool

    def add_up(self) -> float:
        """Update and return the USD spent so far."""
        if self._asked is not None:
            self.usd = max(self.usd, self._elsewhere + float(sum(self._asked.stats().usd.values())))
            if not self._has_ledger:
                self._folder.note_spent(self.usd)
        return self.usd

    @property
    def _has_ledger(self) -> bool:
        return self._pool.ledger != "off"

    def _books_for(self, cards: Sequence[ModelCard]) -> Books:
        """The books for calls to these candidates; also notes the spending on other candidates."""
        if self._has_ledger:
            names = {card.name for card in cards}
            self._elsewhere = sum(usd for name, usd in self._recorded().items() if name not in names)
        else:
            self._elsewhere = self.usd
        return self._books()

    def _books(self) -> Books:
        file, name = self._folder.run_id_file, f"evaluation-{self._folder.path.resolve().name}"
        return open_books(self._pool, self._folder.ledger, lambda: keep_run_id(file, name))

    def _recorded(self) -> dict[str, float]:
        """USD by candidate, from the ledger."""
        if not self._folder.run_id_file.exists():
            return {}  # there was no call yet
        url, run = self._books()
        assert url is not None, "called only if there is a ledger"
        store = LedgerStore(url, run)
        try:
            return store.spent_usd(None, run, settled=True)
        finally:
            store.close()
