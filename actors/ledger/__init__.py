"""The ledger of candidate calls, and the reports on it. It sends nothing to candidates or trackers."""
