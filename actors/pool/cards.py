"""Model cards: each candidate LLM's description for the policy, its endpoint and its prices."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from actors.errors import ExplainedError

_SECRET_FIELDS = ("base_url", "api_key_env")  # where people paste keys by mistake: their values are never shown


class CardError(ExplainedError, ValueError):
    """Cards can't be used; the message names file, card, field, value and remedy."""


class ModelCard(BaseModel):
    """One candidate LLM.

    Prices are in USD per million tokens. If a card gives only `price_out_usd_per_mtok`, prompts have the same price; a
    card whose calls cost nothing says `free: true`. `latency_s` is the median time of a whole call, in seconds.
    `domains` holds the measured share of right answers per domain or dataset, in [0, 1]. `router-r1 pool measure`
    writes both.
    """

    # A pydantic error repeats its input, and an input may be a key pasted into the wrong field.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: str = Field(description="The name that the policy writes.")
    aliases: tuple[str, ...] = Field((), description="Other names that the policy may write.")
    descriptor: str = Field(description="One line on what the model is good at; the policy reads it.")
    base_url: str = Field(description="OpenAI-compatible endpoint, up to and including /v1.")
    model: str = Field("", validate_default=True, description="The provider's id of the model; the name if empty.")
    api_key_env: str | None = Field(
        None, pattern=r"^[A-Z_][A-Z0-9_]*$", description="Environment variable that holds the key; unset for no key."
    )
    revision: str = Field("", description="Version of the model's weights; the ledger keeps versions apart.")
    free: bool = Field(False, description="Calls cost nothing; required if both prices are 0.")
    price_in_usd_per_mtok: float = Field(
        ge=0, allow_inf_nan=False, description="Price of prompt tokens; if left out, the price of completion tokens."
    )
    price_out_usd_per_mtok: float = Field(ge=0, allow_inf_nan=False, description="Price of completion tokens.")
    priced_on: date | None = Field(None, description="Day on which the prices were read.")
    context_tokens: int | None = Field(None, gt=0, description="Most tokens of prompt and reply together.")
    max_output_tokens: int = Field(512, gt=0, description="Most tokens of a reply.")
    requests_per_minute: float | None = Field(None, gt=0, allow_inf_nan=False, description="The provider's limit.")
    tokens_per_minute: float | None = Field(None, gt=0, allow_inf_nan=False, description="The provider's limit.")
    temperature: float = Field(0.0, ge=0, le=2, description="Sampling temperature of the candidate.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus mass that the candidate samples from.")
    latency_s: float = Field(1.0, ge=0, allow_inf_nan=False, description="Median latency of a call, in seconds.")
    domains: dict[str, float] = Field(default_factory=dict, description="Measured accuracy per domain, in [0, 1].")
    measured_on: date | None = Field(None, description="Day on which latency and accuracy were measured.")
    measured_questions: int = Field(0, ge=0, description="Number of questions in that measurement.")

    @model_validator(mode="before")
    @classmethod
    def _fill_prices(cls, fields: Any) -> Any:
        """Use a single price for both; a free card needs no price."""
        if not isinstance(fields, dict):
            return fields
        if fields.get("free") is True:
            fields = {"price_out_usd_per_mtok": 0.0} | fields
        if "price_out_usd_per_mtok" in fields:
            fields = {"price_in_usd_per_mtok": fields["price_out_usd_per_mtok"]} | fields
        return fields

    @model_validator(mode="after")
    def _consistent(self) -> ModelCard:
        costs = self.price_in_usd_per_mtok > 0 or self.price_out_usd_per_mtok > 0
        if not costs and not self.free:
            raise ValueError(
                "both prices are 0; give the provider's prices, or say free: true where calls cost nothing"
            )
        if costs and self.free:
            raise ValueError("free: true beside a price; remove one of the two")
        if self.context_tokens is not None and self.max_output_tokens >= self.context_tokens:
            raise ValueError(
                f"max_output_tokens={self.max_output_tokens} leaves no room for a prompt in "
                f"context_tokens={self.context_tokens}; lower it"
            )
        return self

    @field_validator("name", "aliases")
    @classmethod
    def _writable(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        names = (value,) if isinstance(value, str) else value
        for name in names:
            if not name.strip() or name != name.strip() or re.search(r"[:<>\n\r]", name):
                raise ValueError("a name must be non-empty, trimmed, and without ':', '<', '>' or line breaks")
        return value

    @field_validator("descriptor")
    @classmethod
    def _one_line(cls, value: str) -> str:
        if not value.strip() or len(value.strip().splitlines()) != 1:
            raise ValueError("write one non-empty line")
        return value.strip()

    @field_validator("base_url")
    @classmethod
    def _endpoint(cls, value: str) -> str:
        return check_base_url(value)

    @field_validator("model")
    @classmethod
    def _model_or_name(cls, value: str, info: object) -> str:
        return value or str(getattr(info, "data", {}).get("name", ""))

    @field_validator("domains")
    @classmethod
    def _shares(cls, value: dict[str, float]) -> dict[str, float]:
        wrong = {domain: share for domain, share in value.items() if not 0 <= share <= 1}
        if wrong:
            raise ValueError(f"accuracies must lie in [0, 1], got {wrong}")
        return value

    def cost_usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Price of a call in USD: tokens times the two prices, per million."""
        return (prompt_tokens * self.price_in_usd_per_mtok + completion_tokens * self.price_out_usd_per_mtok) / 1e6


def check_base_url(value: str) -> str:
    """Return an endpoint's base URL without its trailing slash.

    Raises:
        ValueError: it is not an http(s) URL with a host, or it holds credentials, a query or a fragment.
    """
    try:
        url = urlsplit(value.strip())
        usable = url.scheme in ("http", "https") and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("must be an http:// or https:// URL with a host, such as http://127.0.0.1:8000/v1")
    if url.username or url.password or url.query or url.fragment:
        raise ValueError("must hold no credentials, query or fragment; name the key's variable in api_key_env")
    return value.strip().rstrip("/")


def shipped_pools() -> list[Path]:
    """The card files that ship with the package, sorted by name."""
    return sorted(Path(__file__).parent.glob("*.yaml"))


def find_pool(spec: Path) -> Path:
    """The card file that `spec` means: a path, or the name of a pool that ships in this folder."""
    if len(spec.parts) != 1 or spec.is_file():
        return spec
    shipped = Path(__file__).with_name(f"{spec}.yaml")
    return shipped if shipped.is_file() else spec


def load_cards(path: Path) -> list[ModelCard]:
    """Read cards from a YAML file `{about: …, models: [{name: …}, …]}`; `about` may be left out.

    Raises:
        CardError: the file is missing or not YAML, a field is wrong, or two cards share a name or alias. The message
            has a line for every faulty card.
    """
    cards, faults = read_cards(path)
    if faults:
        raise CardError("\n".join(faults))
    return cards


def read_cards(path: Path) -> tuple[list[ModelCard], list[str]]:
    """The good cards of a file, and the faults of the others.

    Raises:
        CardError: the file is missing or not a YAML file of cards.
    """
    cards: list[ModelCard] = []
    faults: list[str] = []
    for number, row in enumerate(_read(path)["models"], 1):
        try:
            cards.append(_card(row, f"{path}, card {number}"))
        except CardError as error:
            faults.append(str(error))
    try:
        check_names(cards, str(path))
    except CardError as error:
        faults.append(str(error))
    return cards, faults


def about_pool(path: Path) -> str:
    """A card file's description of itself, in one line; empty if it has none.

    Raises:
        CardError: the file is missing or not a YAML file of cards.
    """
    return str(_read(path).get("about", ""))


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        names = ", ".join(pool.stem for pool in shipped_pools())
        raise CardError(
            f"{path}: no such card file; give a YAML file with a list 'models' (pool.cards), or name a pool that "
            f"ships: {names}"
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        reason = getattr(error, "problem", None) or type(error).__name__
        raise CardError(f"{path}{line}: not YAML ({reason}); correct the file") from None
    if not isinstance(content, dict) or "models" not in content or not set(content) <= {"about", "models"}:
        keys = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise CardError(f"{path}: expected the top-level key 'models' with a list of cards, got {keys}")
    rows = content["models"]
    if not isinstance(rows, list) or not rows:
        raise CardError(f"{path}: field 'models' must be a non-empty list of cards, got {type(rows).__name__}")
    return content


def check_names(cards: Sequence[ModelCard], where: str) -> None:
    """Check that no two names or aliases are equal, ignoring case.

    Raises:
        CardError: two are equal; the message names both cards.
    """
    owner: dict[str, str] = {}
    for card in cards:
        for name in (card.name, *card.aliases):
            key = _key(name)
            if key in owner:
                raise CardError(
                    f"{where}, card {card.name!r}: the name or alias {name!r} already belongs to card "
                    f"{owner[key]!r}; names and aliases must differ in more than case"
                )
            owner[key] = card.name


def resolve(name: str, cards: Sequence[ModelCard]) -> ModelCard | None:
    """The card with this name or alias, ignoring case and outer white space; None if there is none."""
    key = _key(name)
    return next((card for card in cards if key in map(_key, (card.name, *card.aliases))), None)


def _key(name: str) -> str:
    return name.strip().casefold()


def _card(row: object, where: str) -> ModelCard:
    if not isinstance(row, dict):
        raise CardError(f"{where}: expected a mapping of fields, got {type(row).__name__}")
    if isinstance(row.get("name"), str):
        where = f"{where} ({row['name']!r})"
    try:
        return ModelCard.model_validate(row)
    except ValidationError as error:
        raise CardError(f"{where}: " + "; ".join(_fault(fault) for fault in error.errors())) from None


def _fault(fault: object) -> str:
    """One fault of a pydantic report, with the value unless it may be a secret."""
    assert isinstance(fault, dict)
    field = ".".join(map(str, fault["loc"]))
    if fault["type"] == "extra_forbidden":
        return f"unknown field {field!r}; remove it, the fields are {', '.join(ModelCard.model_fields)}"
    if fault["type"] == "missing":
        return f"field {field!r} is missing; add it"
    if field == "api_key_env":
        return (
            "field 'api_key_env' must be the name of an environment variable such as MY_API_KEY, never the key "
            "itself (value not shown)"
        )
    message = fault["msg"].removeprefix("Value error, ")
    if not field:  # of the card as a whole
        return message
    shown = "(value not shown)" if field in _SECRET_FIELDS else f"got {fault['input']!r}"
    return f"field {field!r}: {message}; {shown}"
