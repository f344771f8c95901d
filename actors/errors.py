"""The base of all errors that explain themselves: their message names the fault, the value and the remedy."""

from __future__ import annotations


class ExplainedError(Exception):
    """An error whose message is for the user: the command line shows it alone, without a traceback.

    Subclasses name one kind of fault each. A subclass may also inherit from ValueError or RuntimeError, for callers
    that catch those.
    """
