"""The terminal: live progress of a run, the table at its end, and what to type next."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.evaluation.methods import AFTER, OF_RUN, definitions, result_name

_SHOWN = (
    ("reward", "reward/mean", "{:.3f}"),
    ("em", "train/em", "{:.3f}"),
    ("eval em", "eval/em", "{:.3f}"),
    ("USD/1k", "cost/usd_per_1k_questions", "{:.3f}"),
    ("calls/q", "rollout/calls_per_question", "{:.2f}"),
    ("loss", "sft/loss", "{:.4f}"),
    ("held-out loss", "sft/heldout_loss", "{:.4f}"),
    ("s/step", "time/step_s", "{:.1f}"),
    ("idle engines", "idle/engines", "{:.0%}"),
    ("learner", "idle/learner", "{:.0%}"),
    ("callers", "idle/callers", "{:.0%}"),
)
_USD = "cost/usd/"  # prefix of the dollars spent on one model
_MODELS = 3  # how many models' dollars are shown one by one


class Terminal:
    """Shows a run's progress: a live line on a terminal, one plain line for each step in a job's log."""

    def __init__(self, steps: int, console: Console | None = None) -> None:
        self.steps = steps
        self.console = console or Console()
        self.live = self.console.is_terminal
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[eta]}"),
            console=self.console,
        )
        self._task = self._progress.add_task("start", total=max(steps, 1), numbers="", eta="")
        self._display = Live(self._progress, console=self.console, refresh_per_second=4, transient=True)
        self._said: set[str] = set()
        self._step_seconds: list[float] = []

    def __enter__(self) -> Terminal:
        if self.live:
            self._display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.live:
            self._display.stop()

    def phase(self, name: str) -> None:
        """Say what the run does now, such as `roll out`; in a job's log, each phase once."""
        self._progress.update(self._task, description=name)
        if not self.live and name not in self._said:
            self.announce(f"{name} …")
        self._said.add(name)

    def announce(self, text: str) -> None:
        """Print a line that stays, such as the path of the run folder."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def step(self, step: int, row: Mapping[str, Any]) -> None:
        """Show a finished step, `step` counted from 1, by its row of metrics."""
        numbers = describe_row(row)
        left = self._seconds_left(step, row)
        eta = f"{_clock(left)} left" if left else ""
        self._progress.update(self._task, completed=step, numbers=numbers, eta=eta)
        if not self.live:
            self.announce(f"step {step}/{self.steps}  {numbers}  {eta}".rstrip())

    def finish(self, summary: Mapping[str, Any], run: Path, recipe: str, example: str | None = None) -> None:
        """Print the table of results, the call shares, the definitions of the methods, and what to type next."""
        self.console.print(results_table(summary))
        if any(row.get("call_share") for row in _evaluations(summary).values()):
            self.console.print(shares_table(summary))
        for line in definitions(_evaluations(summary)):
            self.announce(line)
        self.announce(next_steps(run, recipe, example))

    def _seconds_left(self, step: int, row: Mapping[str, Any]) -> float | None:
        """The seconds left, by the mean of the steps so far; None before the first and after the last."""
        if (seconds := row.get("time/step_s")) is not None:
            self._step_seconds.append(float(seconds))
        if not self._step_seconds or step >= self.steps:
            return None
        return sum(self._step_seconds) / len(self._step_seconds) * (self.steps - step)


def describe_row(row: Mapping[str, Any]) -> str:
    """The numbers of a step that people watch, in one line; at its end the dollars spent so far, by model."""
    parts = [f"{label} {form.format(row[key])}" for label, key, form in _SHOWN if row.get(key) is not None]
    if row.get("cost/usd_total") is not None:
        parts.append(_spending(row))
    return "  ".join(parts)


def _spending(row: Mapping[str, Any]) -> str:
    """The dollars spent since the run began: the total, then the models with the highest sums, the highest first."""
    spent = {key.removeprefix(_USD): usd for key, usd in row.items() if key.startswith(_USD) and usd}
    dearest = sorted(spent, key=lambda name: (-spent[name], name))
    named = [f"{name} {spent[name]:.4f}" for name in dearest[:_MODELS]]
    if others := dearest[_MODELS:]:
        named.append(f"{len(others)} others {sum(spent[name] for name in others):.4f}")
    total = f"USD spent {row['cost/usd_total']:.4f}"
    return f"{total} ({', '.join(named)})" if named else total


def results_table(summary: Mapping[str, Any]) -> Table:
    """Accuracy and cost of the policy before and after training, and of the methods it is compared with."""
    table = Table(title="Held-out questions", title_justify="left")
    table.add_column("policy")
    for heading in ("exact match", "F1", "USD per 1k questions", "calls per question"):
        table.add_column(heading, justify="right")
    for name, row in _evaluations(summary).items():
        table.add_row(
            result_name(name),
            _number(row.get("em"), 3),
            _number(row.get("f1"), 3),
            _number(row.get("cost_usd_per_1k_questions"), 3),
            _number(row.get("calls_per_question"), 2),
        )
    return table


def shares_table(summary: Mapping[str, Any], most: int = 14) -> Table:
    """Each expert's share of the calls, the most called first; experts beyond the first `most` share a row."""
    named = [name for name, row in _evaluations(summary).items() if name in OF_RUN and row.get("call_share")]
    table = Table(title="Share of calls", title_justify="left")
    table.add_column("expert")
    for name in named:
        table.add_column(result_name(name), justify="right")
    experts = {expert for name in named for expert in summary[name]["call_share"]}
    lead = AFTER if AFTER in named else named[0]
    ordered = sorted(experts, key=lambda e: (-summary[lead]["call_share"].get(e, 0.0), e))
    for expert in ordered[:most]:
        table.add_row(expert, *(f"{summary[name]['call_share'].get(expert, 0.0):.1%}" for name in named))
    if rest := ordered[most:]:
        sums = (sum(summary[name]["call_share"].get(e, 0.0) for e in rest) for name in named)
        table.add_row(f"{len(rest)} others", *(f"{total:.1%}" for total in sums))
    return table


def next_steps(run: Path, recipe: str, example: str | None = None) -> str:
    """What to type next, with the program as it was called and a question that the policy can be asked."""
    program = called_as()
    return "\n".join(
        (
            f"The run is in {run}: config.yaml, log.txt, metrics.jsonl, trajectories/, "
            "checkpoints/, summary.json, progress.png",
            "What to type next:",
            f'  {program} ask {run} "{example or "QUESTION"}"',
            f"  {program} serve {run} --port 8000",
            f"  {program} train {recipe} rewards.alpha=0.6    # let cost count",
        )
    )


def called_as() -> str:
    """The program as it was called, for commands to copy."""
    called = Path(sys.argv[0])
    return sys.argv[0] if called.name == "router-r1" and not shutil.which("router-r1") else "router-r1"


def _evaluations(summary: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    names = [*OF_RUN, *(name for name in summary if name not in OF_RUN)]
    return {name: summary[name] for name in names if isinstance(summary.get(name), Mapping) and "em" in summary[name]}


def _number(value: Any, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
