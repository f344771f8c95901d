"""The spending of an evaluation: USD of all its calls to candidates, those of commands before this one included."""

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
    """Hires callers, one after the other, and adds up what their calls cost: by the ledger where there is one, else in
    the folder. `usd` is the sum so far."""

    def __init__(self, config: Config, folder: EvaluationFolder) -> None:
        """Look up what was spent before.

        Raises:
            LedgerError, RunIdError: the ledger of earlier calls can't be read.
            RunFolderError: the folder's own count can't be read.
        """
        self._pool, self._folder = config.candidates.pool, folder
        self._asked: CandidateCaller | CandidatePool | None = None
        self._elsewhere = 0.0  # spent by calls that the caller does not count
        self.usd = sum(self._recorded().values()) if self._has_ledger else folder.spent_before()

    def hire(self, cards: Sequence[ModelCard]) -> CandidateCaller:
        """A caller whose calls have stable places in the folder's ledger, so that none is paid for twice."""
        self._asked = caller = CandidateCaller(cards, self._pool, **self._books_for(cards)._asdict())
        return caller

    def start_pool(self, cards: Sequence[ModelCard]) -> CandidatePool:
        """Such callers as Ray's actors, for who asks from other processes; closed, they can't be added up any more.

        Raises:
            PoolError, LedgerError: as of `CandidatePool.start`.
        """
        from actors.pool.pool import CandidatePool

        self._asked = pool = CandidatePool.start(cards, self._pool, **self._books_for(cards)._asdict())
        return pool

    def add_up(self) -> float:
        """What is spent by now."""
        if self._asked is not None:
            self.usd = max(self.usd, self._elsewhere + float(sum(self._asked.stats().usd.values())))
            if not self._has_ledger:
                self._folder.note_spent(self.usd)
        return self.usd

    @property
    def _has_ledger(self) -> bool:
        return self._pool.ledger != "off"

    def _books_for(self, cards: Sequence[ModelCard]) -> Books:
        """The books of calls to these candidates; what others have cost is noted."""
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
        """USD by candidate, as the ledger has it."""
        if not self._folder.run_id_file.exists():
            return {}  # nothing was asked yet
        url, run = self._books()
        assert url is not None, "asked only where there is a ledger"
        store = LedgerStore(url, run)
        try:
            return store.spent_usd(None, run, settled=True)
        finally:
            store.close()
