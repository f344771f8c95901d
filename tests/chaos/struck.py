"""Struck runs: small runs, started as a user starts them, watched by their log, and checked when they have ended."""

from __future__ import annotations

import collections
import json
import re
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import yaml
from processes import Program

from benchmarks.questions.sources import load_sources
from benchmarks.world.experts import experts
from cluster.runs.folder import RunFolder

CODE = "import sys; sys.argv[0] = 'router-r1'; from cluster.cli.app import main; main()"
GROUPS, GROUP_SIZE = 4, 4
_SMALL = (
    f"run.groups_per_step={GROUPS}", f"run.group_size={GROUP_SIZE}", "data.eval_questions=16", "run.retry_pause_s=1",
    "run.sample_trajectories=1000", "tracking.wandb=disabled",
)  # fmt: skip
_POLL_S = 0.02
_PLAYED = re.compile(r"^# train \d+: (?P<question>\S+)$.*?^- reward: (?P<reward>.*?)$", re.MULTILINE | re.DOTALL)


class Struck:
    """A run and its folder."""

    def __init__(self, folder: Path, name: str, *overrides: str) -> None:
        self.folder = RunFolder(folder / name)
        self._arguments = ["train", "quickstart", f"run.folder={folder}", f"run.name={name}"]
        self._arguments += [*_SMALL, "run.if_exists=resume", *overrides]
        self.program = self.start()

    def start(self) -> Program:
        """Start the run, or start it again."""
        self.program = Program(CODE, self._arguments)
        return self.program

    def wait_for_log(self, text: str, timeout_s: float = 600) -> None:
        """Wait until a line that is added to the log after this call holds `text`."""
        begun = self.folder.log_file.stat().st_size if self.folder.log_file.exists() else 0
        self.wait_until(lambda: text in self._log(begun), f"say {text!r}", timeout_s)

    def wait_until(self, there: Callable[[], Any], what: str, timeout_s: float = 600) -> None:
        """Wait until `there` is true; `what` names, in errors, what the run should then have done."""
        until = time.monotonic() + timeout_s
        while not there():
            assert self.program.process.poll() is None, f"the run ended before it did {what}:\n{self.program.output}"
            assert time.monotonic() < until, f"the run did not {what} within {timeout_s:g} s:\n{self.program.output}"
            time.sleep(_POLL_S)

    def writes_checkpoint(self, step: int) -> bool:
        """Whether that checkpoint is being written now."""
        return self.folder.checkpoint(step).with_name(f".step_{step:06d}.partial").exists()

    def kill(self, title: str) -> None:
        """Kill -9 the youngest process of the run whose command line holds `title`, as soon as there is one."""
        self.wait_until(lambda: self._find(title), f"have a process called {title!r}", 120)
        max(self._find(title))[2].kill()

    def _find(self, title: str) -> list[tuple[float, int, psutil.Process]]:
        found = []
        for process in self.program.family():
            try:
                if title in " ".join(process.cmdline()):
                    found.append((process.create_time(), process.pid, process))
            except psutil.NoSuchProcess:
                continue
        return found

    def kill_driver(self) -> None:
        """Kill -9 the run's own process; some seconds later none of its processes is left."""
        self.program.process.kill()
        self.program.process.wait(30)
        assert self.program.left() == []

    def finish(self, timeout_s: float = 900) -> None:
        """Wait until the run ends with status 0, and check that it leaves no process behind."""
        try:
            assert self.program.process.wait(timeout_s) == 0, self.program.output
        finally:
            left = self.program.left()
        assert left == []

    def weights(self, step: int) -> bytes:
        return (self.folder.checkpoint(step) / "model.safetensors").read_bytes()

    def trained(self) -> dict[int, list[str]]:
        """The questions of each step's batch that were rewarded, once each."""
        return {
            step: list(dict.fromkeys(q for q, reward in played if "none" not in reward))
            for step, played in self._played()
        }

    def check(self, steps: int) -> None:
        """Check that steps are consecutive, each trained on once, that no question is in two steps of an epoch, and
        that no call in the ledger was made twice at one place or is still open."""
        rows = self.folder.read_metrics()
        assert [row["step"] for row in rows] == list(range(steps + 1))
        assert [row["policy/version"] for row in rows[1:]] == list(range(1, steps + 1))
        assert all(row["learner/optimizer_steps"] >= 1 for row in rows[1:])
        drawn = [question for _, played in self._played() for question in dict.fromkeys(q for q, _ in played)]
        assert len(drawn) == len(set(drawn)) == steps * GROUPS  # less than an epoch
        with sqlite3.connect(self.folder.ledger_file) as ledger:
            places = ledger.execute(
                "SELECT step, episode, turn, call_index, request_hash FROM ledger_calls WHERE status = 'ok'"
            ).fetchall()
            (unsettled,) = ledger.execute("SELECT count(*) FROM ledger_calls WHERE status = 'open'").fetchone()
        assert {place: n for place, n in collections.Counter(places).items() if n > 1} == {}
        assert unsettled == 0
        assert places

    def _played(self) -> list[tuple[int, list[tuple[str, str]]]]:
        """The question and the reward of every episode, by step, from the files that are written for people."""
        files = sorted((self.folder.path / "trajectories").glob("step_*.md"))
        found = [(int(file.stem.removeprefix("step_")), _PLAYED.findall(file.read_text())) for file in files]
        return [(step, played) for step, played in found if played]

    def _log(self, begun: int) -> str:
        if not self.folder.log_file.exists():
            return ""
        with self.folder.log_file.open("rb") as file:
            file.seek(begun)
            return file.read().decode(errors="replace")


def write_inputs(folder: Path, base_urls: Sequence[str]) -> tuple[Path, Path]:
    """Write cards of the world's experts, which take the servers in turn, and some questions of the world."""
    cards = [expert.card(base_urls[number % len(base_urls)]) for number, expert in enumerate(experts("seen"))]
    models = [card.model_dump(mode="json", exclude_defaults=True) for card in cards]
    card_file, question_file = folder / "cards.yaml", folder / "questions.jsonl"
    card_file.write_text(yaml.safe_dump({"about": "Providers that die.", "models": models}))
    questions = load_sources(("world:train",), limit=300, two_hop_share=0.0)
    rows = [{"id": q.id, "dataset": q.dataset, "question": q.text, "answers": list(q.answers)} for q in questions]
    question_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return card_file, question_file
