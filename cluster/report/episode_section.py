"""The episodes of a report: read from a run's `trajectories/*.md`, and the good, the bad and the dear picked out.

`cluster.runs.trajectory_text` writes these files. Words of candidates and policy stand in code blocks, whose fences are
longer than any run of backticks in them, so that no reply can be taken for a line of the report.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cluster.report.page import Part, ShownEpisode
from cluster.runs.folder import step_files, step_of

_FILES = 400  # the newest ones are read: what the policy did long ago is not what it does
_LONGEST = 20_000  # characters of a text that are shown
_PER_KIND = 2
_HEAD = re.compile(r"# (?P<label>\S+) (?P<number>\d+): (?P<id>.*)")
_USD = re.compile(r"\d+ calls, (\d+\.\d+) USD")
_REWARD = re.compile(r"(-?\d+\.\d+) = .*\(em (\d+(?:\.\d+)?), ")


@dataclass(slots=True)
class Told:
    """An episode as its file tells it. Reward and exact match are None where it was not judged."""

    step: int
    label: str
    question_id: str
    facts: list[str] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)

    def fact(self, name: str) -> str:
        """What the file says of `name`; empty where it says nothing."""
        return next((line.partition(": ")[2] for line in self.facts if line.startswith(f"{name}: ")), "")

    @property
    def held_out(self) -> bool:
        return self.label.startswith("eval")

    @property
    def cost_usd(self) -> float:
        found = _USD.search(self.fact("stop"))
        return float(found[1]) if found else 0.0

    @property
    def reward(self) -> float | None:
        found = _REWARD.match(self.fact("reward"))
        return float(found[1]) if found else None

    @property
    def em(self) -> float | None:
        found = _REWARD.match(self.fact("reward"))
        return float(found[2]) if found else None

    @property
    def calls(self) -> int:
        return sum(part.title.startswith("Call to ") for part in self.parts)


def read_episodes(folder: Path) -> list[Told]:
    """The episodes of a folder `trajectories/`, the oldest step first; none where there is no such folder."""
    files = step_files(folder, ".md")[-_FILES:]
    return [
        told
        for file in files
        for told in parse_episodes(file.read_text(encoding="utf-8", errors="replace"), step_of(file))
    ]


def parse_episodes(text: str, step: int) -> Iterator[Told]:
    """The episodes of one file. What a crash cut short is shown as far as it goes."""
    told: Told | None = None
    title, facts = "", list[str]()
    lines = iter(text.split("\n"))
    for line in lines:
        if head := _HEAD.fullmatch(line):
            if told is not None:
                yield told
            told = Told(step, head["label"], head["id"])
            title, facts = "", []
        elif told is None:
            continue
        elif line.startswith("#"):
            title, facts = line.lstrip("#").strip(), []
        elif line.startswith("- "):
            (facts if title else told.facts).append(line[2:])
        elif line.startswith("```"):
            fence = line.removesuffix("text")
            block: list[str] = []
            for inside in lines:
                if inside == fence:
                    break
                block.append(inside)
            told.parts.append(Part(title, "\n".join(block), tuple(facts), folded=title == "Prompt"))
    if told is not None:
        yield told


def telling_episodes(told: Sequence[Told]) -> list[ShownEpisode]:
    """Some right ones that asked somebody, some wrong ones, and the dearest, of the newest quarter of the steps; no
    question is shown twice. Held-out ones go before those of training, and many calls before few."""
    judged = [each for each in told if each.em is not None]
    if not judged:
        return []
    first, last = judged[0].step, judged[-1].step
    late = [each for each in judged if each.step >= last - (last - first) / 4]
    fresh = sorted(late, key=lambda each: -each.step)
    right = sorted((e for e in fresh if e.em == 1 and e.calls), key=lambda e: (not e.held_out, -e.calls, e.cost_usd))
    wrong = sorted((e for e in fresh if e.em != 1), key=lambda e: (not e.held_out, e.reward or 0.0))
    dear = sorted((e for e in fresh if e.cost_usd > 0), key=lambda e: -e.cost_usd)
    shown: list[ShownEpisode] = []
    seen: set[str] = set()
    for why, those in (("Good: right", right), ("Bad: wrong", wrong), ("Dear: of those left, the dearest", dear)):
        fitting: dict[str, Told] = {}
        for each in those:
            if each.question_id not in seen:
                fitting.setdefault(each.question_id, each)
        picked = list(fitting.values())[:_PER_KIND]
        seen |= {each.question_id for each in picked}
        shown += [_episode(each, why) for each in picked]
    return shown


def _episode(told: Told, why: str) -> ShownEpisode:
    where = "held-out question" if told.held_out else "training"
    unseen = ", candidates not seen in training" if told.label == "eval-unseen" else ""
    return ShownEpisode(
        title=told.fact("question") or told.question_id,
        why=f"{why} · {where}{unseen} · step {told.step}",
        facts=[f"id: {told.question_id}", *(line for line in told.facts if not line.startswith("question: "))],
        parts=[replace(part, text=shortened(part.text)) for part in told.parts],
    )


def shortened(text: str) -> str:
    """The text, or as much of it as is shown, and how much more there is."""
    left_out = len(text) - _LONGEST
    return f"{text[:_LONGEST]}\n… {left_out:,} characters more" if left_out > 0 else text
