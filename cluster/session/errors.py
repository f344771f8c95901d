"""Errors of the actors of a run."""

from __future__ import annotations

from actors.errors import ExplainedError


class CrewError(ExplainedError, RuntimeError):
    """An actor failed or was late; the message names the actor and its task."""
