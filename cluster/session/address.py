"""The address of the Ray cluster that a command joins."""

from __future__ import annotations

import os


def cluster_address(configured: str | None) -> str | None:
    """The Ray cluster to join, by `placement.address` or RAY_ADDRESS; None if Ray is to start on this machine."""
    return configured or os.environ.get("RAY_ADDRESS") or None
