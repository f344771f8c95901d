"""The report page: sections of tables, plots and episodes, rendered as one HTML file that loads nothing from a network.

The page trusts none of its contents: the template escapes all texts, plots are images (in which no script runs), and
the page's security policy forbids scripts and requests.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.evaluation.tables import Table

_TEMPLATE = Path(__file__).with_name("page.jinja")


@dataclass(frozen=True, slots=True)
class Plot:
    """A picture, with a description for people who can't see it."""

    title: str
    svg: bytes
    alt: str  # the description
    note: str = ""
    wide: bool = False  # as wide as the page; others take half of it

    @property
    def uri(self) -> str:
        """The picture as a data: URI."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg).decode("ascii")


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an episode: its heading, facts about it, and its text."""

    title: str
    text: str
    facts: Sequence[str] = ()
    folded: bool = False


@dataclass(frozen=True, slots=True)
class ShownEpisode:
    """An episode for people to read, and the reason for showing it."""

    title: str
    why: str
    facts: Sequence[str]
    parts: Sequence[Part]


@dataclass(frozen=True, slots=True)
class Listing:
    """A text shown unchanged, such as a configuration or lines of a log."""

    title: str
    text: str
    folded: bool = True


@dataclass(frozen=True, slots=True)
class Section:
    """A section of the page; `anchor` is its name in links."""

    title: str
    anchor: str
    lead: str = ""
    tables: Sequence[Table] = ()
    plots: Sequence[Plot] = ()
    episodes: Sequence[ShownEpisode] = ()
    listings: Sequence[Listing] = ()
    facts: Sequence[str] = ()  # lines below the lead


@dataclass(frozen=True, slots=True)
class Page:
    """The contents of a report: its title, the result in sentences, warnings, and sections."""

    title: str
    status: str  # a line below the title: subject and progress
    result: Sequence[str]
    alarms: Sequence[str] = ()
    sections: Sequence[Section] = ()
    foot: str = ""
    figures: Sequence[tuple[str, str]] = field(default=())  # the most important numbers, with their names


def render(page: Page) -> str:
    """The page as HTML."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(page=page)
