"""API keys: read from the environment variable that a card or an option names; messages never hold their value."""

from __future__ import annotations

import os

from actors.errors import ExplainedError


def key_is_set(variable: str) -> bool:
    """Whether the environment holds something for the variable."""
    return bool(os.environ.get(variable, "").strip())


def read_api_key(variable: str, named_by: str, error: type[ExplainedError], otherwise: str = "") -> str:
    """The key in an environment variable, as it is now.

    Args:
        named_by: the card or option that names the variable, for messages.
        error: raised where there is no key.
        otherwise: follows the remedy in the message, such as ", or …".
    """
    if not key_is_set(variable):
        raise error(f"{named_by}: the environment variable {variable} is not set; export the API key in it{otherwise}")
    key = os.environ[variable].strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise error(
            f"{named_by}: the environment variable {variable} holds characters that no API key has; export the key "
            "alone"
        )
    return key


def read_option_key(variable: str | None, error: type[ExplainedError]) -> str | None:
    """The key in the variable that `--api-key-env` names; None where it names none."""
    return None if variable is None else read_api_key(variable, "--api-key-env", error)
