"""Where calls are recorded that no training run makes, such as those of a probe."""

from __future__ import annotations

from pathlib import Path

from actors.ledger.entry import LedgerError


def prepare_ledger(where: str | Path) -> str:
    """A ledger's file by its absolute path, in a folder that is there now; or a URL as it is.

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
