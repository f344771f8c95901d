"""Settings of the candidate pool: its cards, its calls, its spending caps and its ledger."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import Field, field_validator

from actors.pool.cards import check_base_url
from actors.settings import Settings

_SECRETS = {"password", "passfile", "sslpassword"}  # parameters of libpq


class PoolSettings(Settings):
    """The candidate LLMs and how they are called."""

    cards: Path | None = Field(
        None, description="YAML file of model cards, or the name of a pool that ships, such as router_r1_six."
    )
    base_url: str | None = Field(
        None, description="Overrides the base URL of every card, for a local server; no API key is sent to it."
    )

    @field_validator("base_url")
    @classmethod
    def _endpoint(cls, value: str | None) -> str | None:
        return None if value is None else check_base_url(value)

    callers: int = Field(1, ge=1, description="Caller actors; every endpoint belongs to exactly one.")
    caller_restarts: int = Field(3, ge=0, description="Times that a dead caller is restarted.")
    max_in_flight: int = Field(
        256, gt=0, description="Most calls in progress per endpoint; fewer while the provider answers 429 or 503."
    )
    queue_timeout_s: float = Field(
        600, gt=0, description="Most seconds that a call waits for its turn under the limits; then it is a timeout."
    )
    connect_timeout_s: float = Field(5, gt=0, description="Deadline to connect, in seconds.")
    first_byte_timeout_s: float = Field(
        30,
        gt=0,
        description="Deadline, in seconds, for a reply to begin, and for each further piece of it. A reply begins only "
        "when it is completely generated, so leave time for that. A request that hangs is given up and retried.",
    )
    total_timeout_s: float = Field(60, gt=0, description="Deadline for a call, all attempts and pauses, in seconds.")
    max_attempts: int = Field(
        8,
        ge=1,
        description="Most attempts per call; only 429, 5xx, broken connections, cut-off bodies and hangs are retried.",
    )
    backoff_s: float = Field(0.25, gt=0, description="First pause between attempts, in seconds; doubles, with jitter.")
    when_down: Literal["fail", "wait"] = Field(
        "fail",
        description="Calls to an endpoint that is down: `fail` at once as provider errors, or `wait` until it is back "
        "or their deadline has passed.",
    )
    hedge_quantile: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="A call slower than this quantile of its model's recent calls is sent a second time, and the first "
        "good reply wins; both are paid for. Unset: never.",
    )
    max_reply_bytes: int = Field(1 << 20, gt=0, description="Longest HTTP body; a longer one is a provider error.")
    send_question_id: bool = Field(
        False, description="Send the question's id as metadata, for recorded replies. Providers may refuse it."
    )

    cap_usd_per_run: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="Dollars that a run may spend; unset for no cap."
    )
    cap_usd_per_step: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="Dollars that one training step may spend; evaluation belongs to no step.",
    )
    cap_usd_per_day: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="Dollars that all runs of one ledger together may spend in a UTC day; runs that share the cap need "
        "the same ledger_url. Each run reads every five seconds what the others have spent.",
    )
    cap_usd_per_provider: dict[str, float] = Field(
        default_factory=dict, description="Dollars that a run may spend, by endpoint host or card name."
    )

    @field_validator("cap_usd_per_provider")
    @classmethod
    def _no_debts(cls, value: dict[str, float]) -> dict[str, float]:
        wrong = {name: cap for name, cap in value.items() if not 0 <= cap < math.inf}
        if wrong:
            raise ValueError(f"caps must be numbers of 0 or more, got {wrong}; leave one out for no cap")
        return value

    ledger: Literal["record", "cache", "replay", "off"] = Field(
        "record",
        description="`record` every call; `cache`: also look in the ledger first; `replay`: look only in the ledger: a "
        "call ends as it did at its place in the run, failures included, and a missing call voids its episode; "
        "`off`: record nothing; caps then count from the start of the process.",
    )
    replay_run: str | None = Field(
        None, description="Run that a replay repeats; unset: for each call, the run that made it last."
    )
    ledger_url: str | None = Field(
        None,
        description="The ledger: postgresql://…, sqlite:///… or a run folder; unset for a SQLite file in this run's "
        "folder. With SQLite all callers run on the node that starts them; several nodes need PostgreSQL, whose "
        "password comes from PGPASSWORD or ~/.pgpass. `record` makes a missing file here; `cache` and `replay` do not.",
    )

    @field_validator("ledger_url")
    @classmethod
    def _no_password(cls, value: str | None) -> str | None:
        if value is not None and "://" in value:
            parts = urlsplit(value)
            secret = {name.casefold() for name, _ in parse_qsl(parts.query, keep_blank_values=True)} & _SECRETS
            if parts.password or secret:
                raise ValueError(
                    f"must hold no {', '.join(sorted(secret)) or 'password'}, it would be written down with the run; "
                    "set PGPASSWORD, PGPASSFILE or ~/.pgpass instead"
                )
        return value
