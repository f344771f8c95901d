"""Model cards: what the policy may know of each candidate LLM, and where and at what price it is asked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

_SECRET_FIELDS = ("base_url", "api_key_env")  # where people paste keys by mistake: their values are never shown


class CardError(ValueError):
    """Cards that can't be used; the message names file, card, field, value and remedy."""


class ModelCard(BaseModel):
    """One candidate LLM.

    Prices are USD per million tokens, `latency_s` is the median of a whole call in seconds, and `domains`
    holds the measured share of right answers per domain, in [0, 1].
    """

    # A pydantic error repeats its input, and an input may be a key pasted into the wrong field.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: str = Field(description="The name that the policy writes.")
    aliases: tuple[str, ...] = Field((), description="Other names it may write.")
    descriptor: str = Field(description="One line on what the model is good at; the policy reads it.")
    base_url: str = Field(description="OpenAI-compatible endpoint, up to and including /v1.")
    model: str = Field("", validate_default=True, description="The provider's id of the model; the name if empty.")
    api_key_env: str | None = Field(
        None, pattern=r"^[A-Z_][A-Z0-9_]*$", description="Environment variable that holds the key; none for no key."
    )
    price_in_usd_per_mtok: float = Field(0.0, ge=0, allow_inf_nan=False, description="Price of prompt tokens.")
    price_out_usd_per_mtok: float = Field(ge=0, allow_inf_nan=False, description="Price of completion tokens.")
    latency_s: float = Field(1.0, ge=0, allow_inf_nan=False, description="Median latency of a call.")
    max_output_tokens: int = Field(512, gt=0, description="Tokens of a reply, at most.")
    temperature: float = Field(0.0, ge=0, le=2, description="Sampling temperature of the candidate.")
    domains: dict[str, float] = Field(default_factory=dict, description="Measured accuracy per domain.")

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
        ValueError: it is no http(s) URL with a host, or it carries credentials, a query or a fragment.
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


def find_pool(spec: Path) -> Path:
    """The card file that `spec` means: a path, or the name of a pool that ships in this folder."""
    if len(spec.parts) != 1 or spec.is_file():
        return spec
    shipped = Path(__file__).with_name(f"{spec}.yaml")
    return shipped if shipped.is_file() else spec


def load_cards(path: Path) -> list[ModelCard]:
    """Read cards from a YAML file `{models: [{name: …}, …]}`.

    Raises:
        CardError: the file is missing or is no YAML, a field is wrong, or two cards share a name or alias.
    """
    if not path.is_file():
        raise CardError(f"{path}: no such card file; give a YAML file with a list 'models' (pool.cards)")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        reason = getattr(error, "problem", None) or type(error).__name__
        raise CardError(f"{path}{line}: not YAML ({reason}); correct the file") from None
    if not isinstance(content, dict) or set(content) != {"models"}:
        keys = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise CardError(f"{path}: expected one top-level key 'models' with a list of cards, got {keys}")
    rows = content["models"]
    if not isinstance(rows, list) or not rows:
        raise CardError(f"{path}: field 'models' must be a non-empty list of cards, got {type(rows).__name__}")
    cards = [_card(row, f"{path}, card {number}") for number, row in enumerate(rows, 1)]
    check_names(cards, str(path))
    return cards


def check_names(cards: Sequence[ModelCard], where: str) -> None:
    """Check that no two names or aliases are the same but for case.

    Raises:
        CardError: two are; the message names both cards.
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
    """The card that `name` stands for: its name or an alias, case and outer white space aside; None if none."""
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
    """One fault of a pydantic report, with the value where it can't be a secret."""
    assert isinstance(fault, dict)
    field = ".".join(map(str, fault["loc"]))
    if fault["type"] == "extra_forbidden":
        return f"unknown field {field!r}; remove it, the fields are {', '.join(ModelCard.model_fields)}"
    if fault["type"] == "missing":
        return f"field {field!r} is missing; add it"
    if fault["loc"][0] == "api_key_env":
        return (
            "field 'api_key_env' must be the name of an environment variable such as MY_API_KEY, never the key "
            "itself (value not shown)"
        )
    message = fault["msg"].removeprefix("Value error, ")
    shown = "(value not shown)" if fault["loc"][0] in _SECRET_FIELDS else f"got {fault['input']!r}"
    return f"field {field!r}: {message}; {shown}"
