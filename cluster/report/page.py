"""The report page: sections of tables, plots and episodes, rendered as one HTML file that asks nothing of any network.

Nothing in it is trusted: the template escapes whatever it is given, plots are images (in which no script runs), and
the page's own policy forbids scripts and requests.
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
    """A picture, and what it shows in words, for whoever does not see it."""

    title: str
    svg: bytes
    alt: str
    note: str = ""
    wide: bool = False  # as wide as the page, not half

    @property
    def uri(self) -> str:
        """The picture as a data: URI."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg).decode("ascii")


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of an episode: its head, facts about it, and its text."""

    title: str
    text: str
    facts: Sequence[str] = ()
    folded: bool = False


@dataclass(frozen=True, slots=True)
class ShownEpisode:
    """A whole trajectory for people to read, and why it is shown."""

    title: str
    why: str
    facts: Sequence[str]
    parts: Sequence[Part]


@dataclass(frozen=True, slots=True)
class Listing:
    """Text to look things up in, as it is: a configuration, lines of a log."""

    title: str
    text: str
    folded: bool = True


@dataclass(frozen=True, slots=True)
class Section:
    """A chapter of the page. `anchor` is its place in the address."""

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
    """What a report says: its title, the result in sentences, what to worry about, and its sections."""

    title: str
    status: str  # a line below the title: what this is of, and how far it is
    result: Sequence[str]
    alarms: Sequence[str] = ()
    sections: Sequence[Section] = ()
    foot: str = ""
    figures: Sequence[tuple[str, str]] = field(default=())  # the few numbers to see first, with their names


def render(page: Page) -> str:
    """The page as HTML."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(page=page)
