"""The episode: think, route, read, answer; one coroutine from a question to a trajectory."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from actors.engine.generation import Generation
from actors.episodes.menu import Menu
from actors.episodes.prompt import (
    FAILED_CALL,
    LAST_TURN,
    Unrouted,
    information_parts,
    invalid_route_feedback,
    render_prompt,
    render_unrouted,
)
from actors.episodes.reply_tokens import Reader
from actors.episodes.trajectory import TokenBuffer, Trajectory
from actors.errors import ExplainedError
from actors.pool.calls import CallRequest
from actors.questions import Question
from actors.settings import EpisodeSettings, SamplingSettings
from actors.together import run_together
from rewards.grammar import CLOSE, OPEN, STOPS, TurnParser, parse_route
from rewards.transcript import Block, BlockKind, CallStatus, RouteCall, StopReason, Transcript, Turn

_INFORMATION = OPEN[BlockKind.INFORMATION]
_STOPS_OF_SEVERAL = (_INFORMATION, CLOSE[BlockKind.ANSWER])
_PROVIDERS_FAULT = (CallStatus.TIMEOUT, CallStatus.PROVIDER_ERROR)
_LONGEST_PAUSE_S = 16.0  # before a retry


class PromptTooLong(ExplainedError, ValueError):
    """The prompt leaves the policy no token to write; the message names question, lengths and remedy."""


class Generate(Protocol):
    """The policy: continues token ids (see `PolicyEngine.generate`). `on_text` gets the text piece by piece."""

    def __call__(
        self,
        prompt_ids: list[int],
        *,
        max_tokens: int,
        stop: list[str],
        sampling: SamplingSettings,
        seed: int | None,
        on_text: Callable[[str], None] | None = None,
    ) -> Awaitable[Generation]: ...


Ask = Callable[[CallRequest], Awaitable[RouteCall]]


class Observer(Protocol):
    """Watches an episode as it happens."""

    def on_text(self, text: str, kind: BlockKind | None) -> None:
        """The policy has written `text` next, in a block of this kind (tags included) or, if None, outside any."""

    def on_call(self, call: RouteCall) -> None:
        """A candidate was asked; `call` holds the outcome."""

    def on_read(self, text: str) -> None:
        """The policy reads `text` next: replies between their tags, possibly cut, or the reason why there are none."""


@dataclass(frozen=True, slots=True)
class EpisodeRequest:
    """One episode to run."""

    question: Question
    menu: Menu  # if it is empty, there are no routing rounds: a search ends the episode
    group: str
    seed: int
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    step: int = 0  # number of the run's batch, in evaluation of the last one trained on; 0 outside a run
    budget_usd: float | None = None  # stated in the prompt; None for no budget
    unrouted: Unrouted | None = None  # replaces the settings' prompt by one that names no candidate

    @property
    def episode(self) -> str:
        """The episode's name, unique in its run; empty outside a run."""
        return f"{self.group}/{self.seed}" if self.group else ""

    def prompt(self, settings: EpisodeSettings) -> str:
        """The user message that the episode begins with."""
        if self.unrouted is not None:
            return render_unrouted(self.unrouted, self.question.text)
        return render_prompt(
            settings.prompt,
            self.menu,
            self.question.text,
            settings.max_rounds,
            budget_usd=self.budget_usd,
            parallel_searches=settings.parallel_searches,
        )


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An episode up to the end of its last complete turn; any engine can continue it from its tokens."""

    request: EpisodeRequest
    buffer: TokenBuffer
    turns: tuple[Turn, ...]
    wall_s: float


class Episode:
    """Runs one episode. Sampled tokens go back to the policy unchanged: they are never decoded and encoded again."""

    def __init__(
        self,
        request: EpisodeRequest,
        *,
        tokenizer: Any,
        generate: Generate,
        ask: Ask,
        settings: EpisodeSettings,
        max_model_len: int,
        observer: Observer | None = None,
        begun: Unfinished | None = None,
    ) -> None:
        """`begun`: the episode's progress on another engine, from which this one continues."""
        self.request = request
        self.reader = Reader(tokenizer, settings.max_reply_tokens)
        self.generate = generate
        self.ask = ask
        self.settings = settings
        self.max_model_len = max_model_len
        self.observer = observer
        self.buffer = TokenBuffer() if begun is None else begun.buffer
        self.turns: list[Turn] = [] if begun is None else [*begun.turns]
        self._began = time.monotonic() - (0.0 if begun is None else begun.wall_s)
        self._whole = (len(self.buffer), len(self.turns))  # numbers of tokens and turns before the current turn

    async def run(self) -> Trajectory:
        """Play until an answer, the last turn or the token limit. `EpisodeSettings.on_failed_call` rules failed calls.

        Raises:
            PromptTooLong: the prompt alone fills `max_model_len`.
            LedgerError, PoolError: a call can't be recorded, or can't be made at all.
        """
        request, settings = self.request, self.settings
        prompt = request.prompt(settings)
        if not self.turns:
            self.buffer = TokenBuffer()
            self.buffer.extend_context(self.reader.encode_chat(prompt))
        if len(self.buffer) >= self.max_model_len:
            raise PromptTooLong(
                f"question {request.question.id!r}: the prompt takes {len(self.buffer)} tokens of "
                f"engine.max_model_len={self.max_model_len} and leaves none to write; raise engine.max_model_len, "
                "list fewer candidates or shorten the question"
            )
        reason: StopReason | None = None
        while reason is None:
            self._whole = (len(self.buffer), len(self.turns))
            reason = await self._play_turn()
        return Trajectory.freeze(
            self.buffer,
            question=request.question,
            group=request.group,
            seed=request.seed,
            transcript=Transcript(tuple(self.turns), reason),
            prompt=prompt,
            wall_s=time.monotonic() - self._began,
            budget_usd=request.budget_usd,
        )

    def so_far(self) -> Unfinished:
        """The progress from which another engine can continue. An unfinished turn is played again; the ledger knows its
        calls by their places, so they are not paid for again."""
        tokens, turns = self._whole
        wall_s = time.monotonic() - self._began
        return Unfinished(self.request, self.buffer.first(tokens), tuple(self.turns[:turns]), wall_s)

    async def _play_turn(self) -> StopReason | None:
        """Sample one turn and act on it; return the reason why the episode is over, or None if it continues."""
        room = self.max_model_len - len(self.buffer)
        if room <= 0:
            return StopReason.OUT_OF_TOKENS
        generation, parser = await self._generate(min(self.settings.max_turn_tokens, room))
        # With several searches per turn, the policy itself writes the opening tag of the first reply.
        opened = self.settings.parallel_searches > 1 and parser.withdraw_information()
        text = generation.text.removesuffix(_INFORMATION) if opened else generation.text
        blocks = parser.finish()
        faults = tuple(parser.faults)
        searches = [b for b in blocks if b.kind is BlockKind.SEARCH and b.closed][: self.settings.parallel_searches]
        if not searches or any(b.kind is BlockKind.ANSWER and b.closed for b in blocks):
            self.turns.append(Turn(text, blocks, faults=faults))
            return _ending(blocks, generation)
        if not self.request.menu.items or len(self.turns) >= self.settings.max_rounds:
            self.turns.append(Turn(text, blocks, faults=faults))
            return StopReason.OUT_OF_ROUNDS
        calls = await run_together(self._route(search, index) for index, search in enumerate(searches))
        self.turns.append(Turn(text, blocks, tuple(calls), faults))
        if self.observer:
            for call in calls:
                self.observer.on_call(call)
        if any(self._voids(call) for call in calls):
            return StopReason.VOID
        self._read(calls, opened)
        return None

    async def _generate(self, max_tokens: int) -> tuple[Generation, TurnParser]:
        """Sample one turn. The returned parser has read its text, and passed it to the observer during the sampling."""
        parser = TurnParser(on_span=self.observer.on_text if self.observer else None)
        generation = await self.generate(
            self.buffer.token_ids,
            max_tokens=max_tokens,
            stop=list(STOPS if self.settings.parallel_searches == 1 else _STOPS_OF_SEVERAL),
            sampling=self.request.sampling,
            seed=self.request.seed * 16 + len(self.turns),
            on_text=parser.feed if self.observer else None,
        )
        if not self.observer:
            parser.feed(generation.text)
        self.buffer.extend_sampled(generation.token_ids, generation.logprobs, generation.versions)
        return generation, parser

    async def _route(self, search: Block, index: int) -> RouteCall:
        """Ask the candidate that `search` names; `index` is the search's number in its turn."""
        route = parse_route(search.text)
        requested, query = route or (search.text.partition(":")[0].strip(), "")
        item = self.request.menu.find(requested) if route else None
        if item is None:
            error = f"no candidate of that name in the menu: {requested!r}"
            return RouteCall(requested, None, query, CallStatus.INVALID_ROUTE, error=error)
        request = CallRequest(
            model=item.card.name,
            requested=requested,
            query=query,
            question_id=self.request.question.id,
            max_tokens=min(item.card.max_output_tokens, self.settings.max_reply_tokens),
            seed=self.request.seed,
            step=self.request.step,
            episode=self.request.episode,
            turn=len(self.turns),
            index=index,
        )
        return await self._ask(request)

    async def _ask(self, request: CallRequest) -> RouteCall:
        """Ask. If the recipe says `retry`, repeat a call that the provider failed, after pauses: while the provider's
        breaker is open, calls fail at once."""
        settings = self.settings
        call = await self.ask(request)
        if settings.on_failed_call != "retry" or call.final:
            return call
        left = {
            CallStatus.TIMEOUT: settings.timeout_retries,
            CallStatus.PROVIDER_ERROR: settings.provider_error_retries,
        }
        pause_s = settings.retry_pause_s
        while left.get(call.status, 0) > 0:
            left[call.status] -= 1
            await asyncio.sleep(min(pause_s, _LONGEST_PAUSE_S) * random.uniform(0.75, 1.25))
            pause_s *= 2
            call = await self.ask(request)
        return call

    def _voids(self, call: RouteCall) -> bool:
        """True if a call voids the episode: a failure does, unless it is charged; a spent budget and a call that a
        replay's ledger lacks always do."""
        charged = self.settings.on_failed_call == "charge" and call.status in _PROVIDERS_FAULT and not call.voids
        return call.status.is_infrastructure and not charged

    def _read(self, calls: Sequence[RouteCall], opened: bool) -> None:
        """Append the replies to the turn's routes and, after the last round, the notice that no routes are left.

        `opened`: the policy has already written the opening tag of the first reply.
        """
        parts = [part for call in calls for part in information_parts(self.reader.cut(self._answer_to(call)))]
        if opened:
            del parts[0]
        if len(self.turns) >= self.settings.max_rounds:
            parts.append(LAST_TURN + "\n")
        if self.observer:
            self.observer.on_read("".join(parts))
        for part in parts:
            self.buffer.extend_context(self.reader.encode(part))

    def _answer_to(self, call: RouteCall) -> str:
        if call.status is CallStatus.INVALID_ROUTE:
            explain = self.settings.invalid_route == "explain"
            return invalid_route_feedback(call.requested, self.request.menu) if explain else ""
        return call.reply if call.status is CallStatus.OK else FAILED_CALL


def _ending(blocks: tuple[Block, ...], generation: Generation) -> StopReason:
    if any(b.kind is BlockKind.ANSWER and b.closed for b in blocks):
        return StopReason.ANSWERED
    return StopReason.OUT_OF_TOKENS if generation.finish_reason == "length" else StopReason.NO_ACTION
