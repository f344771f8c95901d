"""Fixtures and settings shared by all tests."""

from __future__ import annotations

from hypothesis import settings

# Examples are not timed: a machine under load is no fault of the code.
settings.register_profile("house", deadline=None)
settings.load_profile("house")
