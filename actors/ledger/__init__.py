"""The ledger of candidate calls and what it tells. It sends nothing to anybody."""
