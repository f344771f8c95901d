"""The ledger of calls that no training run makes, such as those of a probe."""

from __future__ import annotations

from pathlib import Path

from actors.ledger.entry import LedgerError


def prepare_ledger(where: str | Path) -> str:
    """The absolute path of a ledger's file, whose folder is made if it is missing; a URL is returned unchanged.

    Raises:
        LedgerError: the folder can't be made.
    """
    if "://" in str(where):
        return str(where)
    file = Path(where).absolute()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LedgerError(
            f"the ledger {file} can't be made ({error}); make its folder writable, or name another"
        ) from error
    return str(file)
