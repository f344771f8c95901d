"""The configuration of a run: typed, read from a recipe, changed by `dotted.key=value`."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from actors.errors import ExplainedError
from actors.settings import Settings
from cluster.config.settings import Config
from rewards.settings import RewardSettings

RECIPES = Path(__file__).parents[1] / "recipes"
_USERINFO = re.compile(r"(?<=://)[^/@\s]+(?=@)")


class ConfigError(ExplainedError, ValueError):
    """A configuration that can't be used; the message has a line for each fault, with field, value and remedy."""


def recipe_names() -> list[str]:
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_config(recipe: str, overrides: Sequence[str] = ()) -> Config:
    """Read a recipe, by name or by path, and apply overrides `dotted.key=value` (values are YAML).

    Raises:
        ConfigError: there is no such recipe, it is not YAML, an override has no `=`, a key is unknown, or a value is
            not allowed.
    """
    path = Path(recipe) if recipe.endswith((".yaml", ".yml")) else RECIPES / f"{recipe}.yaml"
    if not path.is_file():
        near = difflib.get_close_matches(recipe, recipe_names(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"recipes are {', '.join(recipe_names())}, or give a YAML file"
        raise ConfigError(f"recipe {recipe!r}: not found; {hint}")
    try:
        values = _parse(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {path}: not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"recipe {path}: expected sections such as 'run:', got {type(values).__name__}")
    for override in overrides:
        _apply(values, override)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain(error)) from error


def explain(error: ValidationError) -> str:
    """A line for each fault: the field's path, what is wrong, the value, and the remedy."""
    lines = []
    for fault in error.errors():
        path = ".".join(str(part) for part in fault["loc"])
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            lines.append(f"{path}: unknown key{_nearest(path)}")
        elif fault["type"] == "value_error":
            lines.append(f"{path or 'configuration'}: {message}")
        else:
            lines.append(f"{path}: {message}, got {masked(repr(fault['input']))}{_about(path)}")
    return "\n".join(lines)


def masked(text: str) -> str:
    """The text with *** for the part of each URL before its @, which may hold a password."""
    return _USERINFO.sub("***", text)


def field_paths() -> dict[str, tuple[Any, str]]:
    """Every dotted key with its default and description, for help and for hints."""
    found: dict[str, tuple[Any, str]] = {}

    def walk(prefix: str, value: Any) -> None:
        for name, info in type(value).model_fields.items():
            child = getattr(value, name)
            if isinstance(child, Settings):
                walk(f"{prefix}{name}.", child)
            elif isinstance(child, RewardSettings):
                for part in dataclasses.fields(child):
                    found[f"{prefix}{name}.{part.name}"] = (getattr(child, part.name), part.metadata["about"])
            else:
                found[f"{prefix}{name}"] = (child, info.description or "")

    walk("", Config())
    return found


class _Yaml(yaml.SafeLoader):
    """YAML in which only true and false are booleans, as in YAML 1.2: `off` is a word, which is a value of several
    settings. Boolean fields still accept `on`, `off`, `yes` and `no`."""


_BOOL = "tag:yaml.org,2002:bool"
_Yaml.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOL]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Yaml.add_implicit_resolver(_BOOL, re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


def _parse(text: str) -> Any:
    return yaml.load(text, Loader=_Yaml)


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"override {override!r}: expected dotted.key=value, such as run.steps=10")
    try:
        value = _parse(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: the value is not YAML; quote it") from error
    *sections, field = key.strip().split(".")
    for section in sections:
        inner = values.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"override {override!r}: {section!r} is a value, not a section")
        values = inner
    values[field] = value


def _nearest(path: str) -> str:
    known = field_paths()
    near = difflib.get_close_matches(path, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else "; `router-r1 train --help` tells how to list all keys"


def _about(path: str) -> str:
    described = field_paths().get(path)
    return f". {described[1]}" if described and described[1] else ""
