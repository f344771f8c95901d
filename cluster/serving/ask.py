"""`router-r1 ask`: answers one question in the terminal, and shows thinking and routes as they happen."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.status import Status

from actors.episodes.trajectory import Trajectory
from actors.questions import QuestionError
from cluster.episodes.candidates import start_candidates
from cluster.players.responder import Ask, PolicySource, Responder, open_source
from cluster.serving.live_trace import Trace
from cluster.session.stopping import stop_on_sigterm
from rewards.transcript import CallStatus, RouteCall, StopReason

# A terminal would obey control characters in a model's text.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_ENDINGS = {
    StopReason.NO_ACTION: "the policy ended its turn with neither a search nor an answer",
    StopReason.OUT_OF_ROUNDS: "the policy searched again when it had to answer",
    StopReason.OUT_OF_TOKENS: "the policy ran out of tokens (episode.max_turn_tokens, engine.max_model_len)",
    StopReason.VOID: "a candidate could not be asked",
}


def ask(
    spec: str | Path,
    question: str,
    *,
    recipe: str = "quickstart",
    overrides: Sequence[str] = (),
    seed: int = 0,
    console: Console | None = None,
) -> Trajectory:
    """Ask the policy of a run or checkpoint and show the episode; greedy, on this machine, without Ray.

    `recipe` gives the settings of episode and candidates if the checkpoint belongs to no run; `seed` draws the menu.
    Returns the trajectory; its transcript has no answer if the policy gave none, which the terminal then says. Calls
    are recorded in the run's ledger or, for a policy without a run, in the ledger of `run.folder`.

    Raises:
        QuestionError, PromptTooLong: the question is empty, or leaves no room to answer.
        RunFolderError, ConfigError, PoolError, LedgerError, EngineLate: see `open_source` and `Responder.start`.
    """
    if not question.strip():
        raise QuestionError("the question is empty; write one")
    source = open_source(spec, recipe, overrides)
    stop_on_sigterm()
    view = _View(console or Console(highlight=False))
    with start_candidates(source.config) as candidates:
        responder = Responder(source, candidates.cards)
        return asyncio.run(_play(responder, Ask(question.strip(), seed=seed), view))


async def _play(responder: Responder, request: Ask, view: _View) -> Trajectory:
    with view.starting(responder.source):
        await responder.start()
    try:
        view.question(request.question)
        trace = Trace(view.text, view.route)
        trajectory = await responder.respond(request, trace)
        trace.finish(answered=trajectory.transcript.answer is not None)
        view.ending(trajectory)
        return trajectory
    finally:
        await responder.close()


class _View:
    """Shows an episode in a terminal; plain text where the output is piped."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._line_begun = False

    def starting(self, source: PolicySource) -> Status:
        return self._console.status(f"starting the policy {source.name} …")

    def question(self, text: str) -> None:
        self._show(f"{text}\n\n", "bold")

    def text(self, text: str) -> None:
        """Show text that the policy writes or reads."""
        self._show(text, "dim")

    def route(self, call: RouteCall) -> None:
        name = call.model or call.requested
        shown = f"{name} (on its card: {call.requested})" if name != call.requested else name
        good = call.status is CallStatus.OK
        self._end_line()
        self._show(
            f"→ {shown}  {call.query}\n"
            f"  {call.status}  ${call.cost_usd:.6f}  {call.latency_s:.2f} s  {call.completion_tokens} tokens"
            f"{f'  {call.error}' if call.error else ''}",
            "cyan" if good else "yellow",
        )

    def ending(self, trajectory: Trajectory) -> None:
        transcript = trajectory.transcript
        self._end_line()
        if transcript.answer is None:
            self._show(f"\nNo answer: {_ENDINGS.get(transcript.stop_reason, transcript.stop_reason)}.\n", "bold red")
        else:
            self._show(f"\nAnswer: {transcript.answer}\n", "bold green")
        self._show(
            f"{len(transcript.calls)} calls  ${transcript.cost_usd:.6f}  {trajectory.wall_s:.1f} s  "
            f"{int(trajectory.sampled.sum())} policy tokens\n",
            "dim",
        )

    def _show(self, text: str, style: str) -> None:
        if not text:
            return
        text = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
        self._console.print(text, style=style, end="", markup=False, highlight=False, soft_wrap=True)
        self._console.file.flush()
        self._line_begun = not text.endswith("\n")

    def _end_line(self) -> None:
        if self._line_begun:
            self._show("\n", "")
